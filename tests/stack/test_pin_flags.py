"""The PIN state reported by token flags and return codes, trusted as far as the driver declares."""

from __future__ import annotations

import pytest

from tests.soft import WRONG_PIN, pin_driver
from tests.stack.bench import Bench
from ushield_hw.backend.model import TokenFlag, User
from ushield_hw.drivers.family import PinFlags, Unblock
from ushield_hw.errors import (
    LastTryNotConfirmed,
    PinChangeRequired,
    PinFormatError,
    PinIncorrect,
    PinLocked,
    TokenNotInitialized,
)
from ushield_hw.interaction import CountSource, PinState
from ushield_hw.testing.faulty import Fault, returns, token_info
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.pin_operations import verify_pin

pytestmark = pytest.mark.stack

LOW, FINAL, LOCKED = TokenFlag.USER_PIN_COUNT_LOW, TokenFlag.USER_PIN_FINAL_TRY, TokenFlag.USER_PIN_LOCKED
NOTHING = (None, None, None, None)


@pytest.mark.parametrize(
    ("belief", "flags", "expected"),  # (retries_left, locked, final_try, low)
    [
        (PinFlags.TRUSTED, 0, (None, False, False, False)),
        (PinFlags.TRUSTED, LOW, (None, False, False, True)),
        (PinFlags.TRUSTED, LOW | FINAL, (1, False, True, True)),
        (PinFlags.TRUSTED, LOCKED, (0, True, False, True)),
        (PinFlags.TRUSTED, LOCKED | FINAL, (0, True, False, True)),
        (PinFlags.PARTIAL, 0, NOTHING),
        (PinFlags.PARTIAL, LOW, (None, None, None, True)),
        (PinFlags.PARTIAL, FINAL, (1, False, True, True)),
        (PinFlags.PARTIAL, LOCKED, (0, True, False, True)),
        (PinFlags.NONE, 0, NOTHING),
        (PinFlags.NONE, LOW | FINAL, NOTHING),
        (PinFlags.NONE, LOCKED, NOTHING),
    ],
)
def test_a_pin_state_says_what_the_flags_say_and_no_more(
    bench: Bench, belief: PinFlags, flags: int, expected: tuple[object, ...]
) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(set_flags=flags))])
    link = bench.soft.link(bench.module, pin_driver(flags=belief, policy_tries=None))
    state = link.pin.state()
    assert (state.retries_left, state.locked, state.final_try, state.low) == expected
    assert state.source is (CountSource.NONE if belief is PinFlags.NONE else CountSource.FLAGS)
    assert not bench.soft.state.exists()


def test_under_the_policy_of_this_host_the_flags_are_not_asked(bench: Bench) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(set_flags=LOW | FINAL | LOCKED))])
    state = bench.link.pin.state()
    assert (state.retries_left, state.source, state.locked) == (6, CountSource.POLICY, False)


@pytest.mark.parametrize("belief", [PinFlags.TRUSTED, PinFlags.PARTIAL])
def test_the_last_try_by_the_flags_needs_consent(bench: Bench, belief: PinFlags) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(set_flags=FINAL))])
    link = bench.soft.link(bench.module, pin_driver(flags=belief, policy_tries=None))
    with pytest.raises(LastTryNotConfirmed):
        verify_pin(link, Scripted(bench.soft.pin, consents=[False]))
    assert bench.pins_sent() == []
    verify_pin(link, Scripted(bench.soft.pin, consents=[True]))
    assert bench.count("C_Login") == 1


@pytest.mark.parametrize("belief", [PinFlags.TRUSTED, PinFlags.PARTIAL])
def test_a_pin_locked_by_the_flags_is_neither_asked_for_nor_sent(bench: Bench, belief: PinFlags) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(set_flags=LOCKED))])
    link = bench.soft.link(bench.module, pin_driver(flags=belief, policy_tries=None))
    with pytest.raises(PinLocked):
        verify_pin(link, Scripted())
    assert bench.pins_sent() == []


def test_a_wrong_pin_on_a_token_that_says_nothing_has_no_number(bench: Bench) -> None:
    link = bench.soft.link(bench.module, pin_driver(flags=PinFlags.NONE, policy_tries=None))
    person = Scripted(WRONG_PIN)
    with pytest.raises(PinIncorrect) as caught:
        verify_pin(link, person)
    assert person.prompts == ["user PIN to verify"]
    assert caught.value.state == PinState(min_length=4, max_length=255)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("CKR_PIN_LOCKED", PinLocked),
        ("CKR_PIN_EXPIRED", PinChangeRequired),
        ("CKR_PIN_LEN_RANGE", PinFormatError),
        ("CKR_USER_PIN_NOT_INITIALIZED", TokenNotInitialized),
    ],
)
def test_what_the_token_answers_is_an_error_of_its_own(bench: Bench, code: str, error: type[Exception]) -> None:
    link = bench.soft.link(bench.module, pin_driver(policy_tries=None))
    bench.plan("C_Login", None, returns(code))
    with pytest.raises(error):
        verify_pin(link, Scripted(bench.soft.pin))
    assert bench.count("C_Login") == 1


def test_the_tokens_own_lock_says_how_to_unblock_it(bench: Bench) -> None:
    link = bench.soft.link(bench.module, pin_driver(policy_tries=None, unblock=Unblock.SET_PIN_UNLOGGED))
    bench.plan("C_Login", 1, returns("CKR_PIN_LOCKED"))
    with pytest.raises(PinLocked) as caught:
        verify_pin(link, Scripted(bench.soft.pin))
    assert caught.value.unblock == "set-pin-unlogged"


def test_a_login_of_the_so_gives_the_user_no_tries_back(bench: Bench) -> None:
    bench.fail(1)
    bench.login(user=User.SO)
    assert bench.link.pin.state().retries_left == 5
