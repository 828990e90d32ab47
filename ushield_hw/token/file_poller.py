"""The files and folders that a software module keeps its tokens in, looked at instead of the module."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ushield_hw.drivers.catalogue import Driver, Kind

_LOOK_S: Final = 0.25  # costs microseconds
_SETTLE_S: Final = 0.6  # a token that is being made is there before its label is

_Stamp = tuple[str, int, int]


class Files:
    """The files and folders that a software module keeps its tokens in, as far as its configuration names them."""

    def __init__(self, configuration: Path) -> None:
        self._configuration = configuration
        self._read: list[_Stamp] = []
        self._places: list[str] = []
        self._known = self._look()
        self._settles_at = 0.0

    @classmethod
    def of(cls, driver: Driver) -> Files | None:
        """Return the files of a driver; None: nothing is known of them."""
        variable = driver.module.config_env
        named = os.environ.get(variable) if variable and driver.kind is Kind.SOFTWARE else None
        files = cls(Path(named)) if named else None
        return files if files and files._places else None

    def wait(self, closed: threading.Event, at_most_s: float | None) -> None:
        """Wait until something changed, or changed just before the last look."""
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
        """Return what the configuration names after an equals sign and is there."""
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
    except OSError:  # a file, or gone
        return []


def _stamp(place: str) -> Iterator[_Stamp]:
    try:
        about = os.stat(place)
    except OSError:
        return
    yield place, about.st_mtime_ns, about.st_ino
