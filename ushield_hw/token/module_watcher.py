"""Watch one module: enumerate its tokens again whenever something may have changed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import SlotInfo
from ushield_hw.backend.module import Module
from ushield_hw.backend.sharing import descriptions
from ushield_hw.config import Settings
from ushield_hw.drivers.catalogue import GENERIC, Catalogue
from ushield_hw.drivers.family import Driver, Kind
from ushield_hw.drivers.installed import Installed
from ushield_hw.errors import UShieldError
from ushield_hw.system.log import LOG
from ushield_hw.system.pcsc import Monitor, Reader, ReaderList, Slot
from ushield_hw.token.discovery import certificates_on, tokens_in
from ushield_hw.token.file_poller import Files
from ushield_hw.token.token import Token

_POLL_S: Final = 0.5
_FIRST_ANSWER_S: Final = 2.0
_RETRIES: Final = 5
_GIVEN_UP_S: Final = 60.0  # retry interval after _RETRIES: each load of a failing module starts a process
# An enumeration waits for a signature that waits for the user. If it times out too early, its call stays queued in the
# worker, and the next enumeration adds another one.
_MARGIN_S: Final = 60.0
_ABSENT: Final = {"CKR_TOKEN_NOT_PRESENT", "TOKEN_NOT_PRESENT"}
_FOREIGN: Final = {"CKR_TOKEN_NOT_RECOGNIZED", "TOKEN_NOT_RECOGNIZED"}  # a card of another module: do not poll


@dataclass(frozen=True, slots=True)
class Insertion:
    """One insertion of a card into a reader, as counted by PC/SC."""

    era: int
    reader: str
    changes: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A token that one module shows.

    Attributes:
        token: The token.
        insertion: The insertion of its card; None if the reader is unknown.
        certificates: The end-entity certificates on it, if they are compared between modules.
    """

    token: Token
    insertion: Insertion | None
    certificates: frozenset[bytes] = frozenset()

    def stays(self, reader_list: ReaderList | None) -> bool:
        """Tell whether the token can still be present, according to PC/SC."""
        if reader_list is None or self.insertion is None:
            return True
        return any(
            _insertion(reader_list, reader) == self.insertion
            for reader in reader_list.readers
            if reader.slot is Slot.CARD
        )


class ModuleWatcher:
    """Enumerates the tokens of one module.

    Attributes:
        seen: The result of the last enumeration.
        reader_list: The readers just before it; None for a module without readers.
        reported: Whether there was an enumeration yet.
        late: Whether the module is slow, so that events of others do not wait for it.
    """

    def __init__(
        self, entry: Installed, catalogue: Catalogue, settings: Settings, monitor: Monitor | None, *, several: bool
    ) -> None:
        driver = entry.driver
        self.name = driver.id
        self.seen: tuple[Seen, ...] = ()
        self.reader_list: ReaderList | None = None
        self.reported = self.late = False
        self._entry, self._catalogue, self._settings = entry, catalogue, settings
        self._monitor = monitor if reads_cards(driver) else None
        self._compares = several and driver.kind is not Kind.SOFTWARE
        self._files = Files.of(driver)
        self._module = entry.module(settings)
        # This module detects new tokens only when initialized again, which ends the logins of its process.
        self._own = _worker(entry) if driver.module.relist else None
        self._problems: frozenset[str] = frozenset()
        self._tries = 0
        self._behind = False

    def settled(self) -> bool:
        """Tell whether the last enumeration is current, or events need not wait for it."""
        return self.late or (self.reported and (self._monitor is None or self.reader_list == self._monitor.reader_list))

    def current_readers(self) -> ReaderList | None:
        """Return the current readers; None if they do not matter."""
        if self._monitor is None:
            return None
        return self._monitor.reader_list if self.reported else self._monitor.wait(None, _FIRST_ANSWER_S)

    def look(self, reader_list: ReaderList | None) -> tuple[Seen, ...]:
        """Enumerate the module. A token that cannot be read is kept unless PC/SC reports that its card is gone."""
        try:
            return self._look(reader_list)
        except UShieldError as error:
            self._note({error.code})
        except Exception:  # no error may end the watch silently
            LOG.exception("module %s", self._entry.path)
            self._note({"INTERNAL"})
        return tuple(one for one in self.seen if one.stays(reader_list))

    def rest(self, reader_list: ReaderList | None, closed: threading.Event) -> None:
        """Wait until something may have changed."""
        pause_s = _POLL_S * 2 ** (self._tries - 1) if 0 < self._tries <= _RETRIES else None
        if self._monitor is not None:
            if _has_other_ways(self._entry.driver):
                pause_s = pause_s or (_GIVEN_UP_S if self._tries else _POLL_S)
            if self._monitor.wait(reader_list, pause_s) != reader_list:
                self._tries = 0
        elif self._files is not None:
            self._files.wait(closed, pause_s or (_POLL_S if self._behind else None))
        else:
            closed.wait(pause_s or (_GIVEN_UP_S if self._tries else _POLL_S))

    def close(self) -> None:
        """Close the module that is used only for watching."""
        if self._own is not None:
            self._own.close()

    def _look(self, reader_list: ReaderList | None) -> tuple[Seen, ...]:
        slots = (self._own or self._module).slots(deadline_s=self._deadline_s())
        unread = {slot.slot_id: slot.problem for slot in slots if slot.problem and slot.problem not in _ABSENT}
        kept = [one for one in self.seen if one.token.link.slot_id in unread]
        found = [self._one(token, slots, reader_list) for token in self._tokens(slots)]
        self._refresh(found)
        self._note(set(unread.values()))
        return tuple(one for one in (*kept, *found) if one.stays(reader_list))

    def _deadline_s(self) -> float:
        drivers = (self._entry.driver, *(one.token.driver for one in self.seen))
        return self._entry.driver.module.deadline_s + max(driver.confirm.timeout_s for driver in drivers) + _MARGIN_S

    def _tokens(self, slots: Sequence[SlotInfo]) -> tuple[Token, ...]:
        return tokens_in(self._entry, self._module, slots, self._catalogue, self._settings)

    def _one(self, token: Token, slots: Sequence[SlotInfo], reader_list: ReaderList | None) -> Seen:
        insertion = _inserted(reader_list, slots, token.link.slot_id) if reader_list else None
        before = next((one for one in self.seen if one.token.link.key == token.link.key), None)
        if before is not None and before.insertion == insertion:
            return before
        return Seen(token, insertion, certificates_on(token) if self._compares else frozenset())

    def _refresh(self, found: Sequence[Seen]) -> None:
        """Let the module used by sessions detect new tokens; it cannot while one of its tokens is logged in."""
        there = {one.token.info.identity for one in found}
        if self._own is None or not (self._behind or there - {one.token.info.identity for one in self.seen}):
            return
        self._behind = False
        try:
            if self._module.loaded:
                self._behind = bool(there - {slot.token.identity for slot in self._module.slots() if slot.token})
        except UShieldError as error:
            LOG.warning("module %s: %s", self._entry.path, error.code)

    def _note(self, problems: set[str]) -> None:
        if problems != self._problems:
            for problem in problems - self._problems:
                LOG.warning("module %s: %s", self._entry.path, problem)
            self._problems = frozenset(problems)
        self._tries = self._tries + 1 if problems - _FOREIGN else 0


def _worker(entry: Installed) -> Module:
    spec = entry.driver.module
    return Module(entry.path, Isolation.PROCESS, spec.options, spec.deadline_s)


def reads_cards(driver: Driver) -> bool:
    """Tell whether PC/SC reports the changes that matter for a module."""
    return driver.kind is Kind.TOKEN


def _has_other_ways(driver: Driver) -> bool:
    """Tell whether a module may have tokens outside PC/SC: on a USB class of their own, or unknown."""
    return driver == GENERIC or any(usb.binding.past_pcsc for usb in driver.usb)


def _inserted(reader_list: ReaderList, slots: Sequence[SlotInfo], slot_id: int) -> Insertion | None:
    """Return the insertion in the reader named by a slot.

    A slot description cuts off long reader names. If several names have the same beginning, the n-th slot is the n-th
    reader.
    """
    description = next(slot.description for slot in slots if slot.slot_id == slot_id)
    alike = [slot.slot_id for slot in slots if slot.description == description]
    readers = [reader for reader in reader_list.readers if _names(description, reader)]
    several = len(readers) == len(alike)
    return _insertion(reader_list, readers[alike.index(slot_id) if several else 0]) if readers else None


def _insertion(reader_list: ReaderList, reader: Reader) -> Insertion:
    return Insertion(reader_list.era, reader.name, reader.changes)


def _names(description: str, reader: Reader) -> bool:
    """Tell whether a slot's description is the name of a reader, possibly cut off."""
    return description in {reader.name, *descriptions((reader.name,))} - {""}
