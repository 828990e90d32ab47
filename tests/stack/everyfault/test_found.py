"""Regressions found by fault injection, and cases that no single fault produces."""

from __future__ import annotations

from typing import Final

import pytest

from tests.soft import OPTIONS, SOFTHSM
from tests.stack.bench import Bench
from ushield_hw.backend.pkcs11 import engine
from ushield_hw.backend.pkcs11.ckr import CkrError
from ushield_hw.backend.pkcs11.engine import Engine
from ushield_hw.errors import TokenError, TokenRemoved, UShieldError
from ushield_hw.interaction import PinRequest, PinState
from ushield_hw.testing.faulty import Action, Fault, FaultyModule, crashes, faulty_module, hangs, returns
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.pin_operations import change_pin, unblock_pin, verify_pin
from ushield_hw.token.session import open_session

pytestmark = pytest.mark.stack

NEW_PIN: Final = "654321"


@pytest.fixture
def always_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, re-initialise the module whenever that is allowed, not only after half a second."""
    monkeypatch.setattr(engine, "_FRESH_S", 0.0)


@pytest.fixture
def here(bench: Bench) -> FaultyModule:
    """A faulty module in this process."""
    return faulty_module(bench.faulty.path.parent / "here", SOFTHSM)


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", ["CKR_ATTRIBUTE_TYPE_INVALID", "CKR_ATTRIBUTE_SENSITIVE", "CKR_FUNCTION_FAILED"])
def test_what_a_module_does_not_tell_together_it_is_asked_one_by_one(bench: Bench, refusal: str) -> None:
    login = bench.login()
    expected = bench.module.keys(bench.slot)
    bench.plan("C_GetAttributeValue", 1, returns(refusal))
    assert bench.module.keys(bench.slot) == expected
    assert bench.module.logged_in(login)


def test_what_a_module_never_tells_is_left_empty(bench: Bench) -> None:
    bench.login()
    bench.plan("C_GetAttributeValue", None, returns("CKR_ATTRIBUTE_SENSITIVE"))
    for key in bench.module.keys(bench.slot):
        assert (key.label, key.key_id, key.kind, key.public) == ("", b"", None, None)
        assert key.can_sign is (None if key.private else False)  # missing information is not treated as "no"


# -- attempts that were not made ---------------------------------------------------------------------------------------


def test_a_token_that_goes_before_the_pin_is_sent_costs_no_try(bench: Bench) -> None:
    link = bench.link
    bench.fail(4)
    for _ in range(3):
        bench.plan("C_OpenSession", None, returns("CKR_DEVICE_REMOVED"))
        with pytest.raises(TokenRemoved):
            verify_pin(link, Scripted(bench.soft.pin))
    bench.faulty.plan([])
    assert link.pin.state().retries_left == 2


def test_a_module_that_cannot_be_loaded_again_costs_no_try(bench: Bench) -> None:
    link = bench.link
    bench.fail(1)

    class Closing(Scripted):
        def request_pin(self, ask: PinRequest) -> str | None:
            bench.module.close()
            bench.faulty.path.chmod(0o777)  # from here on another program could have changed it
            return bench.soft.pin

    with pytest.raises(UShieldError):
        verify_pin(link, Closing())
    bench.faulty.path.chmod(0o755)
    assert link.pin.state().retries_left == 5


@pytest.mark.parametrize("after", [False, True])
def test_a_try_that_may_have_been_one_counts(bench: Bench, after: bool) -> None:
    link = bench.link
    bench.plan("C_Login", 1, returns("CKR_DEVICE_ERROR", after=after))
    with pytest.raises(TokenError):
        verify_pin(link, Scripted(bench.soft.pin))
    assert link.pin.state().retries_left == 5


# -- a PIN that may have been changed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", ["CKR_FUNCTION_CANCELED", "CKR_FUNCTION_REJECTED", "CKR_TOKEN_WRITE_PROTECTED"])
def test_a_change_that_was_refused_is_not_called_unknown(bench: Bench, refusal: str) -> None:
    link = bench.link
    bench.plan("C_SetPIN", 1, returns(refusal))
    with pytest.raises(TokenError) as caught:
        change_pin(link, Scripted(bench.soft.pin, NEW_PIN))
    assert caught.value.code != "PIN_CHANGE_UNKNOWN"
    verify_pin(link, Scripted(bench.soft.pin))


def test_an_unknown_change_says_which_pin_to_try_first(bench: Bench) -> None:
    link = bench.link
    bench.plan("C_SetPIN", 1, returns("CKR_DEVICE_REMOVED", after=True))
    with pytest.raises(TokenRemoved) as caught:
        change_pin(link, Scripted(bench.soft.pin, NEW_PIN))
    assert (caught.value.code, caught.value.ckr) == ("PIN_CHANGE_UNKNOWN", "CKR_DEVICE_REMOVED")
    assert "new one" in caught.value.remedy
    verify_pin(link, Scripted(NEW_PIN))


def test_an_unblocked_pin_is_unblocked_though_its_state_cannot_be_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, log_out = bench.link, bench.module.logout
    bench.fail(6)

    def pull(login: int) -> None:
        log_out(login)
        bench.faulty.plan([Fault("C_GetTokenInfo", None, returns("CKR_DEVICE_REMOVED"))])

    monkeypatch.setattr(bench.module, "logout", pull)
    assert unblock_pin(link, Scripted(bench.soft.so_pin, NEW_PIN)) == PinState()
    monkeypatch.undo()
    bench.faulty.plan([])
    verify_pin(link, Scripted(NEW_PIN))


# -- closing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [hangs(), crashes()], ids=["hang", "crash"])
def test_a_worker_that_is_lost_in_the_logout_has_ended_the_login_and_that_is_all(bench: Bench, action: Action) -> None:
    link = bench.link
    session = open_session(link, Scripted(bench.soft.pin), "sign")
    bench.faulty.plan([Fault("C_Logout", None, action)])
    bench.module.deadline_s = 1
    session.close()
    bench.module.deadline_s = 30
    bench.faulty.plan([])
    person = Scripted(bench.soft.pin)
    open_session(link, person, "sign").close()
    assert len(person.prompts) == 1


# -- re-initialisation -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always_stale")
def test_a_module_that_could_not_be_initialised_anew_is_initialised_by_the_next_call(
    bench: Bench, here: FaultyModule
) -> None:
    made = Engine(str(here.path), OPTIONS)
    slot = next(slot.slot_id for slot in made.slots() if slot.token and slot.token.serial == bench.soft.serial)
    here.plan([Fault("C_Initialize", None, returns("CKR_DEVICE_ERROR"))])
    for _ in range(3):
        with pytest.raises(CkrError):
            made.slots()
    here.plan([])
    assert made.token(slot).serial == bench.soft.serial
    made.close()


@pytest.mark.usefixtures("always_stale")
def test_a_closed_engine_does_not_initialise_anew_what_may_be_in_other_hands(here: FaultyModule, bench: Bench) -> None:
    assert bench.soft
    made = Engine(str(here.path), OPTIONS)
    made.close()
    here.clear()
    for call in (made.slots, lambda: made.set_pin(0, "1", "2")):
        with pytest.raises(CkrError):
            call()
    assert here.calls == []
