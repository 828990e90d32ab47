"""Card readers that a module shares with other programs.

PC/SC lets a program keep a card to itself for as long as it likes (OpenSC does while somebody is logged in), and a
module that wants the card then waits without an end, in every call that touches it, C_Initialize too. So it is asked
beforehand which cards are kept by others: those are left out, and the module is not asked about them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ushield_hw.backend.model import BUSY, SlotInfo
from ushield_hw.backend.pkcs11.function_list import UNAVAILABLE

SHORT_S: Final = 6.0  # for a module that may be waiting for another program
HANGS_S: Final = 2.0  # for one that may be waiting for a smart card service that does not answer
_DESCRIPTION_BYTES: Final = 64  # as much of a reader's name as CK_SLOT_INFO holds
_DOTS: Final = "..."  # OpenSC says so that it has cut a name
_own: Final[set[str]] = set()  # readers whose card this process keeps, by whichever module


Question = tuple[int, tuple[str, ...], bool]
"""How long to wait, in milliseconds; the readers that are this process's own; whether to wait anew."""


@dataclass
class Sharing:
    """What one module must know of the readers it shares.

    Attributes:
        patience_s: how long to wait for another program to let a card go.
        skipping: returns the variables with which a new worker leaves readers out; None: that is not possible here.
            None instead of the function: it is not known whether the module waits. Then it is asked, but not waited for
            as long as usual.
        skipped: the readers that the worker was started without.
    """

    patience_s: float
    skipping: Callable[[tuple[str, ...]], Mapping[str, str] | None] | None
    skipped: tuple[str, ...] = ()
    _readers: dict[int, str] = field(default_factory=dict)  # by slot
    _logins: dict[int, str] = field(default_factory=dict)  # by login: its reader

    def question(self, *, anew: bool = False) -> Question:
        """Return what a worker is asked, to know which readers' cards other programs keep (``pcsc.held``)."""
        return int(self.patience_s * 1000), tuple(sorted(_own)), anew

    def blocking(self, held: tuple[str, ...]) -> tuple[str, ...]:
        """Return the readers that this module, of which nothing is known, may wait for: kept by whomever but itself."""
        return () if self.skipping is not None else (*(_own - set(self._logins.values())), *held)

    def leave_out(self, held: tuple[str, ...]) -> Mapping[str, str] | None:
        """Return the variables with which a new worker does without some readers; None: that is not possible."""
        self.logged_out()
        if self.skipping is None or not held:
            self.skipped = ()
            return {}
        self.skipped = held
        return self.skipping(held)

    def reader(self, slot_id: int) -> str | None:
        """Return the reader of a slot that another program may keep the card of."""
        reader = self._readers.get(slot_id)
        return None if self.skipping is None or reader is None or reader in _own else reader

    def listed(self, slots: tuple[SlotInfo, ...]) -> tuple[SlotInfo, ...]:
        """Note which reader a slot stands for; add those that were left out."""
        self._readers.update({slot.slot_id: slot.description for slot in slots})
        return slots + tuple(SlotInfo(UNAVAILABLE, name, True, None, BUSY) for name in self.skipped)

    def logged_in(self, login_id: int, slot_id: int) -> None:
        """Note that this process keeps a card from now on, if the module is one that does so."""
        if self.skipping is not None and (reader := self._readers.get(slot_id)):
            self._logins[login_id] = reader
            _own.add(reader)

    def logged_out(self, login_id: int | None = None) -> None:
        """Note that a login has ended; None: every one, as its worker has."""
        ended = [login_id] if login_id is not None else list(self._logins)
        for one in ended:
            _own.discard(self._logins.pop(one, ""))

    @property
    def busy(self) -> bool:
        """Whether somebody is logged in through this module, so that its worker cannot be exchanged."""
        return bool(self._logins)


def descriptions(readers: tuple[str, ...]) -> tuple[str, ...]:
    """Return readers' names as slots describe them: of one that is too long either its beginning, or that and dots."""
    return tuple(text for reader in readers for text in _described(reader.encode()))


def _described(reader: bytes) -> tuple[str, ...]:
    if len(reader) <= _DESCRIPTION_BYTES:
        return (_text(reader),)
    return _text(reader[:_DESCRIPTION_BYTES]), f"{_text(reader[: _DESCRIPTION_BYTES - len(_DOTS)])}{_DOTS}"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "ignore").rstrip(" \0")
