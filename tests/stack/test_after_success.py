"""A result is kept when a later step fails: logout, closing, the attempt counter, the journal's lock."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from typing import Any, Final

import pytest

from tests.soft import SOFTHSM
from tests.stack.bench import Bench
from tests.stack.test_signing import OpenToken, bank, desk, fresh, person, public_key
from tests.unit.cms.pki import Authority, der
from tests.unit.signing.journals import break_unlocking
from ushield_hw import sign
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import User
from ushield_hw.certificates.certificate import install, request
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.errors import OutcomeUnknown, TokenError, TokenFull
from ushield_hw.signing.journal import Journal, State
from ushield_hw.system import storage
from ushield_hw.testing.faulty import Fault, faulty_module, returns
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.key_inventory import delete, of_session, pick
from ushield_hw.token.key_pairs import KeyChoice
from ushield_hw.token.pin_operations import change_pin, unblock_pin, verify_pin
from ushield_hw.token.session import open_session
from ushield_hw.verifier import verify

__all__ = ["bank", "desk"]

pytestmark = pytest.mark.stack

ENDINGS: Final = ("C_Logout", "C_CloseSession", "C_CloseAllSessions", "C_Finalize")
NEW_PIN: Final = "73915846"


def failing(*functions: str) -> list[Fault]:
    return [Fault(function, None, returns("CKR_GENERAL_ERROR")) for function in functions]


@pytest.mark.parametrize("isolation", [Isolation.PROCESS, Isolation.IN_PROCESS], ids=lambda one: one.value)
def test_a_signature_stays_when_the_session_does_not_end_well(
    desk: OpenToken, isolation: Isolation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if isolation is Isolation.IN_PROCESS:
        faulty = faulty_module(tmp_path / "here", SOFTHSM, copy_target=True)
        desk.bench.module.close()
        desk.bench = Bench(desk.bench.soft, faulty, desk.bench.soft.module(isolation, faulty.path))
    order = fresh()
    with caplog.at_level(logging.WARNING, "ushield_hw"):
        session = desk.opened(person(desk, True))
        desk.bench.faulty.plan(failing(*ENDINGS))
        with session:
            signed = sign(order, session, key=KeyChoice(label="pay"))
        desk.bench.module.close()
    verify(signed, trust=desk.trust, expected=order)
    assert "no logout" in caplog.text
    assert [entry.state for entry in Journal.of(desk.bench.link.settings).entries()] == [State.SIGNED]


def test_closing_undoes_nothing_and_hides_no_error(bench: Bench) -> None:
    bench.faulty.plan(failing("C_Logout"))
    session = open_session(bench.link, Scripted(bench.soft.pin), "sign")
    session.close()
    with pytest.raises(KeyError), open_session(bench.link, Scripted(bench.soft.pin), "sign"):
        raise KeyError
    assert bench.count("C_Logout") == 2


def test_a_pin_that_was_checked_changed_or_unblocked_stays_so(bench: Bench) -> None:
    bench.faulty.plan(failing("C_Logout"))
    link, soft = bench.link, bench.soft
    verify_pin(link, Scripted(soft.pin))
    change_pin(link, Scripted(soft.pin, NEW_PIN))
    unblock_pin(link, Scripted(soft.so_pin, soft.pin))
    bench.faulty.plan([])
    verify_pin(link, Scripted(soft.pin))


def never_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, resetting the attempt counter fails with a full disk."""
    write = storage.write_atomically

    def full(file: Path, data: bytes) -> None:
        if json.loads(data).get("failures") == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(storage, "write_atomically", full)


def test_a_signature_with_its_own_pin_stays_when_the_try_cannot_be_given_back(
    desk: OpenToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, somebody = fresh(), Scripted(desk.bench.soft.pin, desk.bench.soft.pin, confirms=(True,))
    with desk.opened(somebody) as session:
        never_given_back(monkeypatch)
        signed = sign(order, session, key=KeyChoice(label="each"))
    verify(signed, trust=desk.trust, expected=order)
    assert [entry.state for entry in Journal.of(desk.bench.link.settings).entries()] == [State.SIGNED]


def test_a_new_pin_stays_when_the_try_cannot_be_given_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    never_given_back(monkeypatch)
    change_pin(bench.link, Scripted(bench.soft.pin, NEW_PIN))
    unblock_pin(bench.link, Scripted(bench.soft.so_pin, bench.soft.pin))
    bench.module.login(bench.slot, User.USER, bench.soft.pin)


def test_a_signature_stays_when_the_journal_cannot_be_unlocked(
    desk: OpenToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_unlocking(monkeypatch)
    order = fresh()
    verify(desk.sign(person(desk, True), order), trust=desk.trust, expected=order)


def test_an_outcome_that_is_unknown_stays_so_when_the_session_does_not_end_well(desk: OpenToken) -> None:
    desk.asking()
    with desk.opened(person(desk, True)) as session:
        desk.bench.faulty.plan([Fault("C_Sign", None, returns("CKR_DEVICE_ERROR")), *failing("C_Logout")])
        with pytest.raises(OutcomeUnknown):
            sign(fresh(), session, key=KeyChoice(label="pay"))


# --- certificates and keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 2], ids=["not read back", "not listed"])
@pytest.mark.parametrize("code", ["CKR_GENERAL_ERROR", "CKR_DEVICE_REMOVED"])
def test_a_certificate_that_was_written_is_installed_though_the_token_cannot_be_read(
    desk: OpenToken, bank: Authority, monkeypatch: pytest.MonkeyPatch, code: str, first: int
) -> None:
    module, faulty = desk.bench.module, desk.bench.faulty
    write = module.write_certificate

    def write_and_break(*arguments: Any, **more: Any) -> int:
        handle: int = write(*arguments, **more)
        faulty.clear()
        faulty.plan([Fault("C_FindObjectsInit", call, returns(code)) for call in range(first, 99)])
        return handle

    monkeypatch.setattr(module, "write_certificate", write_and_break)
    with desk.opened(person(desk)) as session:
        key = next(one for one in session.keys() if not one.private and one.label == "pay")
        wanted = der(bank.issue("CN=王五", public_key(key.kind, key.public or b""), serial=99))
        pair = install(session, wanted)
    assert (pair.facts.der, pair.has_key, pair.key_id) == (wanted, True, key.key_id.hex())
    faulty.plan([])
    assert wanted in {one.der for one in module.certificates(desk.bench.slot)}


def test_the_error_of_a_request_is_told_though_its_key_cannot_be_removed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_session(bench.link, Scripted(bench.soft.pin), "request") as session:
        bench.plan("C_Sign", None, returns("CKR_DEVICE_MEMORY"))
        bench.faulty.plan([Fault(name, None, returns("CKR_DEVICE_MEMORY")) for name in ("C_Sign", "C_DestroyObject")])
        with pytest.raises(TokenFull) as caught:
            request(session, KeySpec.EC_P256, "CN=A")
    assert caught.value.details["function"] == "C_Sign"


def test_half_a_key_pair_that_was_deleted_is_said_to_be(bench: Bench) -> None:
    with open_session(bench.link, Scripted(bench.soft.pin), "keys") as session:
        entry = pick(of_session(session), KeyChoice(label="pay"))
        bench.plan("C_DestroyObject", 2, returns("CKR_GENERAL_ERROR"))
        with pytest.raises(TokenError) as caught:
            delete(session, entry)
        assert caught.value.code == "KEY_DELETED_IN_PART"
        assert "pay" in caught.value.message
        left = pick(of_session(session), KeyChoice(label="pay"))
        assert (left.has_private, len(left.objects)) == (False, 1)
        bench.plan("C_DestroyObject", 1, returns("CKR_GENERAL_ERROR"))
        with pytest.raises(TokenError) as caught:
            delete(session, left)
        assert caught.value.code != "KEY_DELETED_IN_PART"
