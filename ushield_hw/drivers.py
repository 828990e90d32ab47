"""The catalogue of token families: what is different about each, as data (``drivers/*.toml``).

A descriptor in a user's folder wins over a shipped one with the same id. Files are read at once but parsed only when
asked for: a signature needs one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Final

from ushield_hw.cryptoki.model import TokenInfo
from ushield_hw.descriptor import (
    Atr,
    Capabilities,
    ConfirmKind,
    ConfirmSpec,
    ConfirmText,
    Discover,
    Driver,
    HashOn,
    Interface,
    Kind,
    ModuleSpec,
    Padding,
    PinFlags,
    PinSpec,
    SignSpec,
    TokenPattern,
    Unblock,
    UsbId,
    candidates,
    parse,
)
from ushield_hw.errors import DescriptorError, DriverNotFound

__all__ = [
    "GENERIC",
    "Atr",
    "Capabilities",
    "Catalogue",
    "ConfirmKind",
    "ConfirmSpec",
    "ConfirmText",
    "Discover",
    "Driver",
    "HashOn",
    "Interface",
    "Kind",
    "ModuleSpec",
    "Padding",
    "PinFlags",
    "PinSpec",
    "SignSpec",
    "TokenPattern",
    "Unblock",
    "UsbId",
    "parse",
]

GENERIC: Final = Driver("generic", "", "", Path())
"""For a module that no descriptor names: a worker process, no assumptions."""


class Catalogue:
    """The descriptors of several folders; the first folder that has an id wins.

    Raises:
        DescriptorError: from every method that has to read a descriptor that is wrong.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._parsed: dict[str, Driver] = {}

    @cached_property
    def _raw(self) -> dict[str, tuple[Path, bytes]]:
        found: dict[str, tuple[Path, bytes]] = {}
        for folder in self._folders:
            for file in sorted(folder.glob("*.toml")):
                if file.stem not in found:
                    found[file.stem] = file, _content(file)
        return found

    def ids(self) -> list[str]:
        """Return every id, sorted."""
        return sorted(self._raw)

    def get(self, driver_id: str) -> Driver:
        """Return one driver.

        Raises:
            DriverNotFound: no descriptor has this id.
        """
        if driver_id not in self._raw:
            raise DriverNotFound("DRIVER_ID_UNKNOWN", id=driver_id, searched=[str(folder) for folder in self._folders])
        if driver_id not in self._parsed:
            self._parsed[driver_id] = parse(*self._raw[driver_id])
        return self._parsed[driver_id]

    def __iter__(self) -> Iterator[Driver]:
        """Yield every driver, those of the first folder first: for a file that two name, the user's wins."""
        return (self.get(driver_id) for driver_id in self._raw)

    def for_module(self, path: Path) -> Driver | None:
        """Return the driver that names this module file, by path or, failing that, by file name."""
        real, by_name = path.resolve(), None
        for driver_id, (_, raw) in self._raw.items():
            if not any(word in raw for word in _words(path)):
                continue  # not worth parsing
            driver = self.get(driver_id)
            for pattern in driver.module.paths:
                if any(Path(found).resolve() == real for found in candidates(pattern)):
                    return driver
                if fnmatch(path.name, Path(pattern).name):
                    by_name = by_name or driver
        return by_name

    def family(self, driver: Driver, info: TokenInfo) -> Driver:
        """Return the family a token belongs to, of those that are driven by the module of ``driver``; else ``driver``.

        The family's own descriptor says everything but how the module is run.
        """
        for driver_id, (_, raw) in self._raw.items():
            if b"via" not in raw or driver.id.encode() not in raw:
                continue  # not worth parsing
            found = self.get(driver_id)
            if found.module.via == driver.id and any(pattern.matches(info) for pattern in found.tokens):
                return replace(found, module=driver.module)
        return driver

    def for_usb(self, vid: str, pid: str) -> list[Driver]:
        """Return the drivers that know a USB id."""
        wanted = (vid.lower(), pid.lower())
        return [driver for driver in self if any((usb.vid, usb.pid) == wanted for usb in driver.usb)]

    def for_atr(self, atr: bytes) -> list[Driver]:
        """Return the drivers that know an ATR; several is common."""
        return [driver for driver in self if any(known.matches(atr) for known in driver.atrs)]


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DescriptorError(file=str(file), key="", problem="unreadable", reason=error.strerror) from error


def _words(path: Path) -> list[bytes]:
    """Return what a descriptor that names this file must contain: its name, or a pattern that can only be a ``*``."""
    return [path.name.encode(), path.name.split(".")[0].encode(), b"*"]
