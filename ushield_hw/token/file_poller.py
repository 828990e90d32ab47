"""Poll the files in which a software module stores its tokens, instead of enumerating the module."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ushield_hw.drivers.family import Driver, Kind

_LOOK_S: Final = 0.25  # one poll takes microseconds
_SETTLE_S: Final = 0.6  # the files of a new token appear before its label is written

_Stamp = tuple[str, int, int]


class Files:
    """The token files and folders that the configuration of a software module names."""

    def __init__(self, configuration: Path) -> None:
        self._configuration = configuration
        self._read: list[_Stamp] = []
        self._places: list[str] = []
        self._known = self._look()
        self._settles_at = 0.0

    @classmethod
    def of(cls, driver: Driver) -> Files | None:
        """Return the files of a driver, or None if they are unknown."""
        variable = driver.module.config_env
        named = os.environ.get(variable) if variable and driver.kind is Kind.SOFTWARE else None
        files = cls(Path(named)) if named else None
        return files if files and files._places else None

    def wait(self, closed: threading.Event, at_most_s: float | None) -> None:
        """Return when a file changes, and once more when the files have settled after a change.

        Args:
            closed: Ends the wait when it is set.
            at_most_s: The timeout in seconds; None: without limit.
        """
        deadline = None if at_most_s is None else time.monotonic() + at_most_s
        while not closed.wait(_LOOK_S):
            now = self._look()
            if now != self._known:
                self._known, self._settles_at = now, time.monotonic() + _SETTLE_S
                return
            if self._settles_at and time.monotonic() >= self._settles_at:
                self._settles_at = 0.0
                return
            if deadline is not None and time.monotonic() >= deadline:
                return

    def _look(self) -> frozenset[_Stamp]:
        about = list(_stamp(str(self._configuration)))
        if about != self._read:
            self._read, self._places = about, self._named()
        folders = [entry.path for place in self._places for entry in _entries(place) if entry.is_dir()]
        return frozenset([*about, *(found for place in (*self._places, *folders) for found in _stamp(place))])

    def _named(self) -> list[str]:
        """Return the existing absolute paths that the configuration assigns."""
        try:
            lines = self._configuration.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        values = (line.partition("=")[2].strip().strip("\"'") for line in lines)
        return [value for value in values if value.startswith("/") and os.path.exists(value)]


def _entries(place: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return list(entries)
    except OSError:  # not a folder, or removed
        return []


def _stamp(place: str) -> Iterator[_Stamp]:
    try:
        about = os.stat(place)
    except OSError:
        return
    yield place, about.st_mtime_ns, about.st_ino
