"""Token removal: one error whichever call detects it, and no state left for the next token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.stack.bench import Bench, open_sessions
from ushield_hw.backend.model import User
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.errors import ConfirmationRejected, PinIncorrect, TokenError, TokenRemoved
from ushield_hw.testing.faulty import Fault, returns, token_info
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.pin_operations import verify_pin
from ushield_hw.token.session import open_session

pytestmark = pytest.mark.stack

GONE = ("CKR_DEVICE_REMOVED", "CKR_TOKEN_NOT_PRESENT", "CKR_SESSION_HANDLE_INVALID")
# The operations that detect the removal, and the call that fails. The signing key's handle is obtained beforehand.
NOTICED_BY: dict[str, Callable[[Bench, int, Any], object]] = {
    "C_GetTokenInfo": lambda bench, login, call: bench.module.token(bench.slot),
    "C_OpenSession": lambda bench, login, call: bench.module.destroy(login, call.handle),  # needs a read-write one
    "C_FindObjectsInit": lambda bench, login, call: bench.module.keys(bench.slot),
    "C_FindObjects": lambda bench, login, call: bench.module.certificates(bench.slot),
    "C_GetAttributeValue": lambda bench, login, call: bench.module.keys(bench.slot),
    "C_GenerateKeyPair": lambda bench, login, call: bench.module.generate(
        login, KeyKind.EC_P256, 0, b"", "", always_authenticate=False
    ),
    "C_SignInit": lambda bench, login, call: bench.module.sign(login, call),
    "C_Sign": lambda bench, login, call: bench.module.sign(login, call),
}
EACH_CALL = pytest.mark.parametrize("function", NOTICED_BY)


@pytest.mark.parametrize("code", GONE)
@EACH_CALL
def test_every_call_says_removed_and_the_login_has_ended(bench: Bench, function: str, code: str) -> None:
    login = bench.login()
    call = bench.call()
    bench.faulty.plan([Fault(function, None, returns(code))])
    with pytest.raises(TokenRemoved) as caught:
        NOTICED_BY[function](bench, login, call)
    assert caught.value.ckr == code
    assert not bench.module.logged_in(login)
    assert open_sessions(bench.faulty.calls) == set()


@EACH_CALL
def test_the_next_open_asks_for_the_pin_and_works(bench: Bench, function: str) -> None:
    session = open_session(bench.link, Scripted(bench.soft.pin), "sign")
    call = bench.call()
    bench.faulty.plan([Fault(function, None, returns("CKR_DEVICE_REMOVED"))])
    with pytest.raises(TokenRemoved):
        NOTICED_BY[function](bench, session.login_id, call)
    bench.faulty.plan([])
    person = Scripted(bench.soft.pin)
    with open_session(bench.link, person, "sign") as again:
        bench.sign(again.login_id)
    assert len(person.prompts) == 1
    session.close()


@pytest.mark.parametrize("code", GONE)
def test_a_login_into_nothing_says_removed_and_leaves_no_session(bench: Bench, code: str) -> None:
    bench.plan("C_Login", 1, returns(code))
    with pytest.raises(TokenRemoved):
        bench.login()
    assert open_sessions(bench.faulty.calls) == set()
    bench.login()


def test_listing_the_slots_notices_an_empty_one(bench: Bench) -> None:
    login = bench.login()
    bench.faulty.plan([Fault("C_GetTokenInfo", None, returns("CKR_TOKEN_NOT_PRESENT"))])
    (problem, *_) = {slot.problem for slot in bench.module.slots()}
    assert problem == "CKR_TOKEN_NOT_PRESENT"
    assert not bench.module.logged_in(login)


def test_a_session_that_opens_only_after_the_slots_were_listed_is_opened(bench: Bench) -> None:
    assert bench.slot
    bench.plan("C_OpenSession", 1, returns("CKR_DEVICE_REMOVED"))
    bench.login()
    names = bench.names("C_OpenSession", "C_GetSlotList")
    first, second = (place for place, name in enumerate(names) if name == "C_OpenSession")
    assert "C_GetSlotList" in names[first:second]


@pytest.mark.parametrize("code", ["CKR_GENERAL_ERROR", "CKR_FUNCTION_FAILED", "CKR_DEVICE_ERROR"])
def test_an_error_that_does_not_say_removed_leaves_the_login(bench: Bench, code: str) -> None:
    login = bench.login()
    call = bench.call()
    bench.plan("C_SignInit", 1, returns(code))
    with pytest.raises(TokenError) as caught:
        bench.module.sign(login, call)
    assert not isinstance(caught.value, TokenRemoved)
    bench.sign(login)


def test_closing_a_session_of_a_removed_token_is_no_error(bench: Bench) -> None:
    session = open_session(bench.link, Scripted(bench.soft.pin), "sign")
    bench.faulty.plan([Fault("C_Logout", None, returns("CKR_DEVICE_REMOVED"))])
    session.close()


def test_another_token_in_the_slot_is_not_the_one_that_was_asked_for(bench: Bench) -> None:
    assert bench.slot
    bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(serial="another"))])
    with pytest.raises(TokenRemoved):
        open_session(bench.link, Scripted(), "sign")
    assert bench.count("C_Login") == 0


def test_a_token_that_was_changed_during_the_login_is_logged_out_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, log_in = bench.link, bench.module.login

    def swap(*arguments: Any, **options: Any) -> int:
        login = log_in(*arguments, **options)
        bench.faulty.plan([Fault("C_GetTokenInfo", None, token_info(serial="another"))])
        return login

    monkeypatch.setattr(bench.module, "login", swap)
    with pytest.raises(TokenRemoved):
        open_session(link, Scripted(bench.soft.pin), "sign")
    assert bench.names("C_Login", "C_Logout") == ["C_Login", "C_Logout"]
    assert open_sessions(bench.faulty.calls) == set()


@pytest.mark.parametrize("code", ["CKR_FUNCTION_CANCELED", "CKR_FUNCTION_REJECTED"])
def test_a_refusal_is_not_a_removal_and_the_login_stands(bench: Bench, code: str) -> None:
    login = bench.login()
    call = bench.call()
    bench.plan("C_Sign", 1, returns(code, after=True))
    with pytest.raises(ConfirmationRejected):
        bench.module.sign(login, call)
    bench.sign(login)


def test_the_user_logs_in_after_the_token_was_removed_under_the_so(bench: Bench) -> None:
    login = bench.login(user=User.SO)
    bench.plan("C_InitPIN", 1, returns("CKR_DEVICE_REMOVED"))
    with pytest.raises(TokenRemoved):
        bench.module.init_pin(login, "654321")
    bench.login()


# -- a module that reports only a general error ------------------------------------------------------------------------


def test_a_token_that_cannot_be_read_for_a_moment_is_read_again(bench: Bench) -> None:
    slot = bench.slot
    bench.plan("C_GetTokenInfo", 1, returns("CKR_GENERAL_ERROR"))
    assert bench.module.token(slot).serial == bench.soft.serial
    assert bench.count("C_GetTokenInfo") == 2


def test_a_general_error_that_was_the_card_being_pulled_out_is_told_as_that(bench: Bench) -> None:
    slot = bench.slot
    bench.faulty.plan(
        [
            Fault("C_GetTokenInfo", None, returns("CKR_DEVICE_REMOVED")),
            Fault("C_GetTokenInfo", 1, returns("CKR_GENERAL_ERROR")),
        ]
    )
    bench.faulty.clear()
    with pytest.raises(TokenRemoved):
        bench.module.token(slot)


def test_a_token_that_stays_unreadable_is_an_error(bench: Bench) -> None:
    slot = bench.slot
    bench.plan("C_GetTokenInfo", None, returns("CKR_GENERAL_ERROR"))
    with pytest.raises(TokenError) as caught:
        bench.module.token(slot)
    assert caught.value.ckr == "CKR_GENERAL_ERROR"
    assert bench.count("C_GetTokenInfo") == 3


# -- a token whose files cannot be written -----------------------------------------------------------------------------


def unreadable_after(bench: Bench, reads: int) -> None:
    """SoftHSM2 cannot read a token after it failed to write the token's files, as after every login."""
    bench.faulty.clear()
    calls = range(reads + 1, 400)
    bench.faulty.plan([Fault("C_GetTokenInfo", call, returns("CKR_GENERAL_ERROR")) for call in calls])


def test_a_token_that_cannot_be_read_after_the_login_was_not_pulled_out(bench: Bench) -> None:
    link = bench.link
    unreadable_after(bench, 1)
    with open_session(link, Scripted(bench.soft.pin), "sign") as session:
        assert len(bench.sign(session.login_id)) == 64


def test_a_wrong_pin_is_wrong_although_the_token_cannot_be_read_afterwards(bench: Bench) -> None:
    link = bench.link
    unreadable_after(bench, 1)
    with pytest.raises(PinIncorrect) as caught:
        verify_pin(link, Scripted("0000000"))
    assert getattr(caught.value.state, "retries_left", None) == 5


@pytest.mark.parametrize("function", ["C_GenerateKeyPair", "C_CreateObject"])
def test_what_a_soft_token_could_not_write_is_told_of_its_files(bench: Bench, function: str) -> None:
    login = bench.login()
    bench.plan(function, None, returns("CKR_GENERAL_ERROR"))
    with pytest.raises(TokenError) as caught:
        if function == "C_CreateObject":
            names = {"subject": b"0\0", "issuer": b"0\0", "serial": b"\2\1\1"}
            bench.module.write_certificate(login, b"0\3\2\1\1", key_id=b"1", label="x", **names)
        else:
            bench.module.generate(login, KeyKind.EC_P256, 0, b"", "", always_authenticate=False)
    assert caught.value.code == "SOFT_TOKEN_NOT_WRITTEN"
