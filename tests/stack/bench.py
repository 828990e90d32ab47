"""Helpers for the PKCS#11 tests: a token behind the faulty module, and queries on the recorded calls."""

from __future__ import annotations

import hashlib
import os
import select
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pytest

from tests.soft import WRONG_PIN, Soft, key
from ushield_hw.backend.interface import DEFAULT_OPTIONS, SignOptions
from ushield_hw.backend.model import SignCall, User
from ushield_hw.backend.module import Module
from ushield_hw.errors import PinIncorrect, PinLocked
from ushield_hw.testing.faulty import Action, Call, Fault, FaultyModule
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.link import Link
from ushield_hw.token.pin_operations import change_pin, verify_pin
from ushield_hw.token.session import Session, open_session

DIGEST: Final = hashlib.sha256(b"CNY 128.50").digest()
USER, CONTEXT = 1, 2  # CK_USER_TYPE
POLICY_TRIES = 6  # as in SoftHSM2's driver descriptor
LAST_TRY: Final = "use the last try?"

Job = Callable[[Link, Scripted], object]


def opening(link: Link, person: Scripted) -> Session:
    """Open a session for signing."""
    return open_session(link, person, "sign")


# The three operations that use the user PIN.
EACH_JOB: Final = pytest.mark.parametrize("job", [opening, verify_pin, change_pin])


@dataclass
class Bench:
    """A soft token, the faulty module that wraps SoftHSM2, and the library's module object for it."""

    soft: Soft
    faulty: FaultyModule
    module: Module

    @cached_property
    def link(self) -> Link:
        """The token with SoftHSM2's driver: six attempts, counted on this host."""
        return self.soft.link(self.module)

    @cached_property
    def slot(self) -> int:
        """The token's slot id."""
        return self.link.slot_id

    def login(self, pin: str | None = None, user: User = User.USER) -> int:
        """Log in, by default with the correct PIN."""
        return self.module.login(self.slot, user, pin or (self.soft.pin if user is User.USER else self.soft.so_pin))

    def call(self, label: str = "pay", **how: Any) -> SignCall:
        """Return a signing call with the key of the given label; requires a login."""
        return SignCall(key(self.module, self.slot, label).handle, "ECDSA", DIGEST, **how)

    def sign(self, login: int, patience: SignOptions = DEFAULT_OPTIONS, **how: Any) -> bytes:
        """Sign the digest with the key of the given label."""
        return self.module.sign(login, self.call(**how), patience)

    def plan(self, function: str, call: int | None, action: Action) -> None:
        """Clear the record, restart the call count at 1 and inject one fault."""
        self.faulty.clear()
        self.faulty.plan([Fault(function, call, action)])

    def names(self, *functions: str) -> list[str]:
        """Return the names of the recorded calls in order, restricted to the given functions if any."""
        return [call.function for call in self.faulty.calls if not functions or call.function in functions]

    def count(self, function: str) -> int:
        """Return how many times a function was called."""
        return self.faulty.count(function)

    def pins_sent(self) -> list[str]:
        """Return the recorded calls that carry a PIN."""
        return self.names("C_Login", "C_SetPIN", "C_InitPIN")

    def fail(self, tries: int) -> None:
        """Use the given number of the six attempts with a wrong PIN, then clear the record."""
        for number in range(1, tries + 1):
            with suppress(PinIncorrect, PinLocked):
                verify_pin(self.link, Scripted(WRONG_PIN, consents=[True] if number == POLICY_TRIES else []))
        assert self.link.pin.state().retries_left == POLICY_TRIES - tries
        self.faulty.clear()

    def counter(self) -> Path:
        """Return the file that counts this token's failed attempts."""
        (file,) = (self.soft.state / "pin").glob("*.json")
        return file

    def worker(self) -> int:
        """Return the process id of the worker that made the last call."""
        return self.faulty.calls[-1].pid


def open_sessions(calls: Iterable[Call]) -> set[int | None]:
    """Return the handles of sessions opened and not closed. Slots are not distinguished."""
    found: set[int | None] = set()
    for call in calls:
        if call.function == "C_OpenSession" and call.rv == 0:
            found.add(call.session)
        elif call.function == "C_CloseSession":
            found.discard(call.session)
        elif call.function in {"C_CloseAllSessions", "C_Finalize", "C_Initialize"}:
            found.clear()
    return found


def overlapping(calls: Iterable[Call]) -> bool:
    """Tell whether a call started before the previous one had returned."""
    latest = 0.0
    for call in calls:
        if call.t_ms < latest - 0.01:  # took_ms is rounded
            return True
        latest = max(latest, call.t_ms + (call.took_ms or 0))
    return False


@contextmanager
def ends(pid: int, within_s: float = 10) -> Iterator[None]:
    """Assert that a process, not necessarily a child, exits during the block or shortly after it."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        yield
        return
    try:
        yield
        assert select.select([descriptor], [], [], within_s)[0], f"process {pid} lives on"
    finally:
        os.close(descriptor)
