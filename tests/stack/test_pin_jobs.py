"""PIN formats, changing and unblocking the PIN."""

from __future__ import annotations

import pytest

from tests.soft import WRONG_PIN, pin_driver
from tests.stack.bench import EACH_JOB, LAST_TRY, Bench, Job
from ushield_hw.backend.model import TokenFlag
from ushield_hw.drivers.family import Unblock
from ushield_hw.errors import (
    LastTryNotConfirmed,
    PinCancelled,
    PinError,
    PinFormatError,
    PinIncorrect,
    TokenNotInitialized,
)
from ushield_hw.testing.faulty import Fault, returns, token_info
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.pin_operations import change_pin, unblock_pin, verify_pin

pytestmark = pytest.mark.stack

NEW_PIN = "654321"


# -- the PIN itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pin", "code"),
    [
        ("123", "PIN_FORMAT"),
        ("1" * 13, "PIN_FORMAT"),
        ("一二三四五", "PIN_FORMAT"),  # 15 bytes
        ("", "PIN_FORMAT"),
        ("12345\n", "PIN_CHARACTERS"),
        ("12345\0", "PIN_CHARACTERS"),
        ("12345\x7f", "PIN_CHARACTERS"),
        ("12345\x9b", "PIN_CHARACTERS"),
        ("12345\udcff", "PIN_CHARACTERS"),
    ],
)
@EACH_JOB
def test_a_pin_that_cannot_be_right_is_refused_unsent(bench: Bench, job: Job, pin: str, code: str) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(pin_min=4, pin_max=12))])
    person = Scripted(pin)
    with pytest.raises(PinFormatError) as caught:
        job(bench.link, person)
    assert (caught.value.code, caught.value.min, caught.value.max) == (code, 4, 12)
    assert len(person.prompts) == 1
    assert bench.pins_sent() == []
    assert bench.link.pin.state().retries_left == 6


def test_the_stricter_of_token_and_driver_says_how_long_a_pin_is(bench: Bench) -> None:
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(pin_min=4, pin_max=12))])
    link = bench.soft.link(bench.module, pin_driver(min_length=6, max_length=20))
    state = link.pin.state()
    assert (state.min_length, state.max_length) == (6, 12)


def test_a_prompt_that_is_cancelled_sends_nothing(bench: Bench) -> None:
    with pytest.raises(PinCancelled):
        verify_pin(bench.link, Scripted(None))
    assert bench.pins_sent() == []


NO_PIN = Fault("C_GetTokenInfo", None, token_info(clear_flags=TokenFlag.USER_PIN_INITIALIZED))


def test_a_token_that_wrongly_says_that_no_pin_is_set_decides_itself(bench: Bench) -> None:
    bench.faulty.plan([NO_PIN])
    verify_pin(bench.link, Scripted(bench.soft.pin))
    assert len(bench.pins_sent()) == 1


def test_a_token_whose_pin_was_never_set_spends_no_try(bench: Bench) -> None:
    bench.faulty.plan([NO_PIN, Fault("C_Login", None, returns("CKR_USER_PIN_NOT_INITIALIZED"))])
    with pytest.raises(TokenNotInitialized) as caught:
        verify_pin(bench.link, Scripted(bench.soft.pin))
    assert caught.value.code == "PIN_NOT_SET"
    assert bench.link.pin.state().retries_left == 6


@EACH_JOB
def test_no_error_holds_the_pin(bench: Bench, job: Job) -> None:
    with pytest.raises(PinError) as caught:
        job(bench.link, Scripted(WRONG_PIN, NEW_PIN))
    error: BaseException | None = caught.value
    while error is not None:
        assert WRONG_PIN not in f"{error!r} {error} {vars(error)}"
        error = error.__cause__ or error.__context__


# -- change and unblock ----------------------------------------------------------------------------------------------


def test_a_change_asks_for_the_old_and_the_new_pin_and_is_one_call(bench: Bench) -> None:
    person = Scripted(bench.soft.pin, NEW_PIN)
    change_pin(bench.link, person)
    assert person.prompts == ["user PIN to change, 6 left", "new PIN to change"]
    assert bench.names("C_Login", "C_SetPIN") == ["C_SetPIN"]
    verify_pin(bench.link, Scripted(NEW_PIN))


def test_a_new_pin_that_cannot_be_right_leaves_the_old_one_unsent(bench: Bench) -> None:
    with pytest.raises(PinFormatError):
        change_pin(bench.link, Scripted(bench.soft.pin, "1"))
    assert bench.pins_sent() == []


def test_a_change_with_the_last_try_needs_consent(bench: Bench) -> None:
    bench.fail(5)
    person = Scripted(bench.soft.pin, NEW_PIN, consents=[False])
    with pytest.raises(LastTryNotConfirmed):
        change_pin(bench.link, person)
    assert person.prompts == ["user PIN to change, 1 left", "new PIN to change", LAST_TRY]
    assert bench.pins_sent() == []


def test_the_so_unblocks_with_a_new_pin(bench: Bench) -> None:
    bench.fail(6)
    person = Scripted(bench.soft.so_pin, NEW_PIN)
    assert unblock_pin(bench.link, person).retries_left == 6
    assert person.prompts == ["so PIN to unblock", "new PIN to change"]
    verify_pin(bench.link, Scripted(NEW_PIN))


@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"failures": 99}'])
def test_the_so_unblocks_whatever_is_in_the_counter(bench: Bench, content: bytes) -> None:
    bench.fail(1)
    bench.counter().write_bytes(content)
    assert unblock_pin(bench.link, Scripted(bench.soft.so_pin, NEW_PIN)).retries_left == 6


def test_a_wrong_so_pin_is_sent_once_and_leaves_the_lock(bench: Bench) -> None:
    bench.fail(6)
    with pytest.raises(PinIncorrect) as caught:
        unblock_pin(bench.link, Scripted(WRONG_PIN, NEW_PIN))
    assert caught.value.code == "SO_PIN_INCORRECT"
    assert bench.names("C_Login", "C_InitPIN") == ["C_Login"]
    assert bench.link.pin.state().locked


def test_a_puk_goes_into_one_c_set_pin_without_a_login(bench: Bench) -> None:
    link = bench.soft.link(bench.module, pin_driver(unblock=Unblock.SET_PIN_UNLOGGED, policy_tries=None))
    person = Scripted(bench.soft.pin, NEW_PIN)  # SoftHSM2 treats it as the old PIN
    unblock_pin(link, person)
    assert person.prompts == ["puk PIN to unblock", "new PIN to change"]
    assert bench.names("C_Login", "C_SetPIN") == ["C_SetPIN"]


def test_a_token_that_cannot_be_unblocked_asks_nobody(bench: Bench) -> None:
    link = bench.soft.link(bench.module, pin_driver(unblock=Unblock.NONE))
    with pytest.raises(PinError) as caught:
        unblock_pin(link, Scripted())
    assert caught.value.code == "PIN_UNBLOCK_UNAVAILABLE"
