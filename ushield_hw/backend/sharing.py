"""Card readers that a module shares with other programs.

A PC/SC client can hold a card exclusively without time limit (OpenSC does so during a login). A module that needs the
card then blocks in every call that accesses it, including C_Initialize. So the library first determines which cards
other programs hold, and does not call the module for these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ushield_hw import errors
from ushield_hw.backend.model import BUSY, SlotInfo
from ushield_hw.backend.pkcs11.function_list import UNAVAILABLE
from ushield_hw.system import pcsc
from ushield_hw.system.processes import card_users, holder

SHORT_S: Final = 6.0  # timeout of a module that may be waiting for another program
HANGS_S: Final = 2.0  # timeout of a module that may be waiting for a PC/SC service that does not respond
_DESCRIPTION_BYTES: Final = 64  # length of slotDescription in CK_SLOT_INFO
_DOTS: Final = "..."  # OpenSC's suffix of a truncated name
_own: Final[set[str]] = set()  # readers whose card this process holds, through any module


Question = tuple[int, tuple[str, ...], bool]
"""Arguments of ``pcsc.held``: wait in milliseconds; readers held by this process; whether to wait again."""


@dataclass
class Sharing:
    """State of the readers that one module shares with other programs.

    Attributes:
        timeout_s: how long to wait for another program to release a card, in seconds.
        skipping: returns the environment variables that make a new worker ignore readers, or None if that is not
            possible. None instead of a function: it is not known whether the module blocks; then it is called, with a
            shorter timeout.
        skipped: the readers that the current worker ignores.
    """

    timeout_s: float
    skipping: Callable[[tuple[str, ...]], Mapping[str, str] | None] | None
    skipped: tuple[str, ...] = ()
    _readers: dict[int, str] = field(default_factory=dict)  # slot -> reader
    _logins: dict[int, str] = field(default_factory=dict)  # login id -> reader

    def question(self, *, from_now: bool = False) -> Question:
        """Return the arguments of the worker's ``pcsc.held``, which lists the readers whose card others hold."""
        return int(self.timeout_s * 1000), tuple(sorted(_own)), from_now

    def blocking(self, held: tuple[str, ...]) -> tuple[str, ...]:
        """Return the readers that a module of unknown behaviour may wait for: those held by anything but itself."""
        return () if self.skipping is not None else (*(_own - set(self._logins.values())), *held)

    def leave_out(self, held: tuple[str, ...]) -> Mapping[str, str] | None:
        """Return the environment variables that make a new worker ignore readers; None: not possible."""
        self.logged_out()
        if self.skipping is None or not held:
            self.skipped = ()
            return {}
        self.skipped = held
        return self.skipping(held)

    def reader(self, slot_id: int) -> str | None:
        """Return the reader of a slot if another program may hold its card."""
        reader = self._readers.get(slot_id)
        return None if self.skipping is None or reader is None or reader in _own else reader

    def listed(self, slots: tuple[SlotInfo, ...]) -> tuple[SlotInfo, ...]:
        """Record the reader of each slot; return the slots with the ignored readers added as busy."""
        self._readers.update({slot.slot_id: slot.description for slot in slots})
        return slots + tuple(SlotInfo(UNAVAILABLE, name, True, None, BUSY) for name in self.skipped)

    def logged_in(self, login_id: int, slot_id: int) -> None:
        """Record that this process now holds the card, if the module is one that holds it during a login."""
        if self.skipping is not None and (reader := self._readers.get(slot_id)):
            self._logins[login_id] = reader
            _own.add(reader)

    def logged_out(self, login_id: int | None = None) -> None:
        """Record the end of a login; None: of all logins, because the worker has ended."""
        ended = [login_id] if login_id is not None else list(self._logins)
        for one in ended:
            _own.discard(self._logins.pop(one, ""))

    @property
    def busy(self) -> bool:
        """Whether a login through this module exists, so that its worker cannot be replaced."""
        return bool(self._logins)


def descriptions(readers: tuple[str, ...]) -> tuple[str, ...]:
    """Return readers' names as slot descriptions; a long name in both truncated forms, with and without dots."""
    return tuple(text for reader in readers for text in _described(reader.encode()))


def _described(reader: bytes) -> tuple[str, ...]:
    if len(reader) <= _DESCRIPTION_BYTES:
        return (_text(reader),)
    return _text(reader[:_DESCRIPTION_BYTES]), f"{_text(reader[: _DESCRIPTION_BYTES - len(_DOTS)])}{_DOTS}"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "ignore").rstrip(" \0")


def service_hangs() -> errors.UShieldError | None:
    """Return an error if the PC/SC service does not respond: a module that calls it would block forever."""
    try:
        pcsc.answers()
    except errors.DriverError as error:
        return error
    return None


def reader_busy(readers: Sequence[str]) -> errors.TokenBusy:
    """Return the error for cards that another program holds exclusively; it names the program if it is known."""
    users = card_users()
    return errors.TokenBusy("READER_BUSY", holder=holder(users), holders=list(users), readers=list(readers))
