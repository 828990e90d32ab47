"""Watch for tokens that are inserted and removed.

Modules that read cards are enumerated again when PC/SC reports a change; modules whose tokens are files, when the files
change; other modules twice a second. Each module has its own thread, so that a slow module does not delay the others.
A token that several modules show is reported once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Final, Self

from ushield_hw.config import Settings, load_settings
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.drivers.family import Kind
from ushield_hw.drivers.installed import Installed, discoverable, installed
from ushield_hw.system.pcsc import Monitor, ReaderList, is_installed
from ushield_hw.token.discovery import alike
from ushield_hw.token.module_watcher import Insertion, ModuleWatcher, Seen, reads_cards
from ushield_hw.token.token import Token

__all__ = ["EventKind", "TokenEvent", "TokenWatch", "watch_tokens"]

_STOP_S: Final = 0.1
_GRACE_S: Final = 1.0  # how long events of fast modules wait for a slow module


class EventKind(Enum):
    """What happened to a token."""

    INSERTED = "inserted"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A token was inserted or removed.

    Attributes:
        kind: Inserted or removed.
        token: The token; for a removal the same object as for its insertion.
        at: When the change was detected, UTC.
    """

    kind: EventKind
    token: Token
    at: datetime


def watch_tokens(settings: Settings | None = None, *, stop: threading.Event | None = None) -> TokenWatch:
    """Watch for tokens that are inserted and removed.

    ::

        with us.watch_tokens() as watch:
            for event in watch:
                print(event.kind.value, event.token.serial)

    The tokens present at the start are reported first, as insertions. So the tokens inserted and not removed are the
    ones present now. A token that is removed and inserted again produces both events, even if this happens between two
    enumerations, because a login on it has ended. A module that cannot be read is logged; its tokens are not reported
    as removed while PC/SC still sees them. Modules installed later are not watched.

    Args:
        settings: Default: the settings in force.
        stop: Ends the iteration when it is set.

    Returns:
        An iterator over the events. Close it, or use it as a context manager.

    Raises:
        DescriptorError: A descriptor is invalid.
    """
    settings = settings or load_settings()
    catalogue = Catalogue.of(settings)
    return TokenWatch(discoverable(installed(catalogue, settings)), catalogue, settings, stop)


class TokenWatch(Iterator[TokenEvent]):
    """A blocking iterator over token events. Made by :func:`watch_tokens`.

    Close it, or use it as a context manager. Safe to use from several threads; each event is delivered to one of them.
    """

    def __init__(
        self, entries: Sequence[Installed], catalogue: Catalogue, settings: Settings, stop: threading.Event | None
    ) -> None:
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._stop = stop
        self._events: deque[TokenEvent] = deque()
        self._there: list[_Known] = []
        self._due: float | None = None
        self._monitor = Monitor() if is_installed() and any(reads_cards(entry.driver) for entry in entries) else None
        several = sum(entry.driver.kind is not Kind.SOFTWARE for entry in entries) > 1
        self._watchers = [
            ModuleWatcher(entry, catalogue, settings, self._monitor, several=several) for entry in entries
        ]
        for watcher in self._watchers:
            threading.Thread(
                target=self._follow, args=(watcher,), name=f"tokens of {watcher.name}", daemon=True
            ).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __next__(self) -> TokenEvent:
        event = self.get()
        if event is None:
            raise StopIteration
        return event

    @property
    def closed(self) -> bool:
        """Whether the watch is closed; it then delivers no more events."""
        return self._closed.is_set()

    def get(self, timeout_s: float | None = None) -> TokenEvent | None:
        """Return the next event, or None after the timeout or when the watch is closed.

        Args:
            timeout_s: How long to wait, in seconds; None: without limit.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._ended():
                if self._due is not None and time.monotonic() >= self._due:
                    self._tell()
                if self._events:
                    return self._events.popleft()
                if deadline is not None and time.monotonic() >= deadline:
                    break
                self._changed.wait(self._wait_s(deadline))
        return None

    def close(self) -> None:
        """Close the watch and wake up all waiting threads. Idempotent; may be called from any thread."""
        self._closed.set()
        if self._monitor is not None:
            self._monitor.close()
        with self._changed:
            self._changed.notify_all()

    def _ended(self) -> bool:
        if self._stop is not None and self._stop.is_set():
            self.close()
        return self._closed.is_set()

    def _wait_s(self, deadline: float | None) -> float | None:
        ends = [end - time.monotonic() for end in (deadline, self._due) if end is not None]
        if self._stop is not None:
            ends.append(_STOP_S)
        return max(0.0, min(ends)) if ends else None

    def _follow(self, watcher: ModuleWatcher) -> None:
        """Enumerate one module in a loop, in a thread of its own."""
        try:
            while not self._closed.is_set():
                reader_list = watcher.current_readers()
                seen = watcher.look(reader_list)
                self._report(watcher, seen, reader_list)
                watcher.rest(reader_list, self._closed)
        finally:
            watcher.close()

    def _report(self, watcher: ModuleWatcher, seen: tuple[Seen, ...], reader_list: ReaderList | None) -> None:
        with self._changed:
            watcher.seen, watcher.reader_list, watcher.reported, watcher.late = seen, reader_list, True, False
            if all(other.settled() for other in self._watchers):
                self._tell()
            elif self._due is None:
                self._due = time.monotonic() + _GRACE_S
            self._changed.notify_all()

    def _tell(self) -> None:
        """Compare with the tokens known before and queue an event for each difference."""
        self._due = None
        for watcher in self._watchers:
            watcher.late = not watcher.settled()
        now, at = self._groups(), datetime.now(UTC)
        gone = [old for old in self._there if not any(old.stays_as(new) for new in now)]
        there = []
        for new in now:
            old = next((old for old in self._there if old.stays_as(new)), None)
            there.append(replace(new, token=old.token) if old else new)
        fresh = [known for known in there if not any(known.token is old.token for old in self._there)]
        self._there = there
        self._events += [TokenEvent(EventKind.REMOVED, known.token, at) for known in gone]
        self._events += [TokenEvent(EventKind.INSERTED, known.token, at) for known in fresh]

    def _groups(self) -> list[_Known]:
        seen = {one.token.link.key: one for watcher in self._watchers for one in watcher.seen}
        groups = alike([one.token for one in seen.values()], lambda token: seen[token.link.key].certificates)
        return [_Known.of([seen[token.link.key] for token in group]) for group in groups]


@dataclass(frozen=True, slots=True)
class _Known:
    """A token and the slots in which modules show it."""

    token: Token
    keys: frozenset[object]
    insertion: Insertion | None

    @classmethod
    def of(cls, group: Sequence[Seen]) -> _Known:
        first, *others = group
        token = replace(first.token, also_in=tuple(other.token.module for other in others))
        insertions = [one.insertion for one in group if one.insertion is not None]
        # A module that has not enumerated again yet still shows the previous insertion.
        latest = max(insertions, key=lambda insertion: (insertion.era, insertion.changes), default=None)
        return cls(token, frozenset(one.token.link.key for one in group), latest)

    def stays_as(self, other: _Known) -> bool:
        again = None not in (self.insertion, other.insertion) and self.insertion != other.insertion
        return not again and bool(self.keys & other.keys)
