"""What was achieved stays, whatever fails afterwards: logout, closing, the count of tries, the lock of the journal."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
from pathlib import Path
from typing import Any, Final

import pytest

from tests.soft import SOFTHSM
from tests.stack.bench import Bench
from tests.stack.test_signing import OpenToken, bank, desk, fresh, person
from ushield_hw import sign
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import User
from ushield_hw.errors import OutcomeUnknown
from ushield_hw.signing.journal import Journal, State
from ushield_hw.system import storage
from ushield_hw.testing.faulty import Fault, faulty_module, returns
from ushield_hw.testing.scripted import Scripted
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
    """From here on the disk is full whenever a try is given back."""
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
    def fails(real: Any) -> Any:
        def call(descriptor: int, operation: int, *more: int) -> None:
            real(descriptor, operation, *more)
            if operation == fcntl.LOCK_UN:
                raise OSError(errno.EIO, "Input/output error")

        return call

    monkeypatch.setattr(fcntl, "flock", fails(fcntl.flock))
    monkeypatch.setattr(fcntl, "lockf", fails(fcntl.lockf))
    order = fresh()
    verify(desk.sign(person(desk, True), order), trust=desk.trust, expected=order)


def test_an_outcome_that_is_unknown_stays_so_when_the_session_does_not_end_well(desk: OpenToken) -> None:
    desk.asking()
    with desk.opened(person(desk, True)) as session:
        desk.bench.faulty.plan([Fault("C_Sign", None, returns("CKR_DEVICE_ERROR")), *failing("C_Logout")])
        with pytest.raises(OutcomeUnknown):
            sign(fresh(), session, key=KeyChoice(label="pay"))
