"""The catalogue of token families; each has a descriptor (``drivers/*.toml``) with the properties that differ.

A descriptor in a user's folder overrides a shipped one with the same id. The shipped descriptors are read from one
index (:mod:`ushield_hw.drivers.index`), and each is validated only when it is needed: a signature needs one of them.

The package's own descriptors are as trusted as its code. Others are read only if no other user can change them
(``ushield_hw.system.trust``), and apply without restrictions only if the root-owned configuration lists their family
(``[drivers] consent``); see :func:`ushield_hw.drivers.family.limited`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from ushield_hw.backend.model import TokenInfo
from ushield_hw.config import Settings, data_dir, data_file, data_files
from ushield_hw.drivers import index
from ushield_hw.drivers.descriptor import parse, platform_paths, read, table_of
from ushield_hw.drivers.family import (
    Driver,
    candidates,
    limited,
)
from ushield_hw.errors import DescriptorError, DriverError, DriverNotFound, InputError
from ushield_hw.system import trust
from ushield_hw.system.lazy import cached_property

_LARGEST: Final = 1 << 20
_WILDCARDS: Final = frozenset("*?[")

GENERIC: Final = Driver("generic", "", "", Path())
"""The driver of a module without a descriptor: runs in a worker process, without assumptions."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One descriptor: the table of a shipped one, or the content of a user's file."""

    file: Path
    table: Mapping[str, Any] | None = None
    raw: bytes = b""

    def part(self, name: str) -> Mapping[str, Any]:
        """Return one table of a shipped descriptor."""
        found: Mapping[str, Any] = (self.table or {}).get(name, {})
        return found

    @property
    def paths(self) -> list[str]:
        """The module's paths on this platform; may contain ``*``."""
        return platform_paths(self.part("module"))

    @property
    def names(self) -> list[str]:
        """File names of the module and of the SKF library, on all platforms."""
        module = self.part("module")
        paths = [path for platform in ("linux", "macos", "windows") for path in module.get(platform, ())]
        return [
            *module.get("names", ()),
            *module.get("skf", ()),
            *(path.replace("\\", "/").rpartition("/")[2] for path in paths),
        ]


class Catalogue:
    """The descriptors of several folders; for each id the first folder that has it is used.

    Args:
        folders: the folders.
        consent: families whose descriptors apply without restrictions in any folder.
        lenient: omit descriptors that other users can change, and list them in :attr:`left_out`, instead of raising.

    Raises:
        DescriptorError: from every method that reads a descriptor: it is invalid.
        InputError: from every method: ``CONFIG_UNSAFE``: other users can change a descriptor or a parent folder.
        DriverError: from every method: ``CATALOGUE_MISSING``: the descriptors of the package do not exist.
    """

    def __init__(self, folders: Sequence[Path], consent: Sequence[str] = (), *, lenient: bool = False) -> None:
        self._folders = tuple(folders)
        self._consent = frozenset(consent)
        self._lenient = lenient
        self._shipped = data_dir("drivers")
        self._left_out: list[InputError] = []
        self._parsed: dict[str, Driver] = {}

    @classmethod
    def of(cls, settings: Settings) -> Catalogue:
        """Return the catalogue for these settings."""
        return cls(settings.drivers, settings.consent, lenient=settings.lenient)

    @property
    def left_out(self) -> tuple[InputError, ...]:
        """The descriptors and folders that were omitted because other users can change them."""
        _ = self._entries
        return tuple(self._left_out)

    @cached_property
    def _entries(self) -> dict[str, _Entry]:
        found: dict[str, _Entry] = {}
        for folder in self._folders:
            for one in self._shipped_in(folder) if self._is_shipped(folder) else self._own_in(folder):
                found.setdefault(one.file.stem, one)
        return found

    def _shipped_in(self, folder: Path) -> list[_Entry]:
        try:
            tables = index.of_wheel(data_file(folder / index.NAME))
        except OSError:  # a checkout, or an archive that was built without an index
            tables = self._without_index(folder)
        return [_Entry(folder / f"{name}.toml", table) for name, table in sorted(tables.items())]

    def _without_index(self, folder: Path) -> index.Tables:
        files = data_files(folder, ".toml")
        if not files:
            raise DriverError("CATALOGUE_MISSING", folder=str(folder))
        with suppress(OSError, ValueError):  # reading each file below raises an error with file and key
            if folder.is_dir():
                return index.of_checkout(folder)
        return {file.stem: table_of(file, data_file(file)) for file in files}

    def _own_in(self, folder: Path) -> Iterator[_Entry]:
        try:
            trust.checked_folder(folder.absolute())
        except trust.Unsafe as error:
            self._refuse(folder, error)
            return
        except OSError:  # a folder that does not exist is treated as empty
            return
        for file in data_files(folder, ".toml"):
            if (content := self._content(file)) is not None:
                yield _Entry(file, None, content)

    def _content(self, file: Path) -> bytes | None:
        """Return the content of a descriptor; None: it was omitted."""
        try:
            return trust.read(file.absolute(), _LARGEST)
        except trust.Unsafe as error:
            self._refuse(file, error)
            return None
        except OSError as error:
            raise DescriptorError(file=str(file), key="", problem="unreadable", reason=error.strerror) from error

    def _is_shipped(self, folder: Path) -> bool:
        return folder == self._shipped

    def _refuse(self, path: Path, error: trust.Unsafe) -> None:
        unsafe = InputError("CONFIG_UNSAFE", file=str(path), **error.details)
        if not self._lenient:
            raise unsafe from error
        self._left_out.append(unsafe)

    def ids(self) -> list[str]:
        """Return every id, sorted."""
        return sorted(self._entries)

    def get(self, driver_id: str) -> Driver:
        """Return one driver.

        Args:
            driver_id: its id.

        Raises:
            DriverNotFound: no descriptor has this id.
        """
        if driver_id not in self._entries:
            raise DriverNotFound("DRIVER_ID_UNKNOWN", id=driver_id, searched=[str(folder) for folder in self._folders])
        if driver_id not in self._parsed:
            entry = self._entries[driver_id]
            driver = parse(entry.file, entry.raw) if entry.table is None else read(entry.file, entry.table)
            counts = entry.table is not None or driver_id in self._consent
            self._parsed[driver_id] = driver if counts else limited(driver)
        return self._parsed[driver_id]

    def __iter__(self) -> Iterator[Driver]:
        """Yield every driver, those of the first folder first, so that a user's driver has precedence for a module."""
        return map(self.get, self._entries)

    def installed(self) -> Iterator[Driver]:
        """Yield the drivers whose module file is installed, in the catalogue's order.

        A shipped descriptor is validated only if it names an existing file. A user's descriptor is always validated, so
        that its errors are reported.
        """
        for driver in self._where(lambda entry: any(map(os.path.isfile, _places(entry)))):
            if driver.module_files():
                yield driver

    def for_module(self, path: Path) -> Driver | None:
        """Return the driver of a module file: by its path, else by its name, else by the target of a link.

        Args:
            path: the module file.

        Returns:
            The driver; None if there is none.
        """
        real, by_name = path.resolve(), None
        for driver in self._naming(path.name):
            if any(Path(found).resolve() == real for pattern in driver.module.paths for found in candidates(pattern)):
                return driver
            if _names(driver.module.names, path.name):
                by_name = by_name or driver
        return by_name or self._leading_to(real)

    def naming(self, name: str) -> list[Driver]:
        """Return the drivers that list a module or an SKF library with this file name, on any platform."""
        return [driver for driver in self._naming(name) if _names(driver.module.names + driver.module.skf, name)]

    def driven_by(self, driver: Driver) -> list[Driver]:
        """Return the families whose tokens the module of ``driver`` also supports."""
        wanted = driver.id

        def drives(entry: _Entry) -> bool:
            module = entry.part("module")
            return module.get("via") == wanted or wanted in module.get("also_via", ())

        return [one for one in self._where(drives) if one.module.via == wanted or wanted in one.module.also_via]

    def family(self, driver: Driver, info: TokenInfo) -> Driver:
        """Return the family of a token, among those that use the module of ``driver``; else ``driver``.

        The result has the properties of the family's descriptor, and the module settings of ``driver``.

        Args:
            driver: the driver of the module.
            info: the token's information.
        """

        def may_be(entry: _Entry) -> bool:
            patterns = (row.get("manufacturer", "*") for row in _rows(entry, "token"))
            return entry.part("module").get("via") == driver.id and any(
                fnmatchcase(info.manufacturer, pattern) for pattern in patterns
            )

        for found in self._where(may_be):
            if found.module.via == driver.id and any(pattern.matches(info) for pattern in found.tokens):
                return replace(found, module=driver.module)
        return driver

    def for_usb(self, vid: str, pid: str) -> list[Driver]:
        """Return the drivers that list a USB id; there may be several."""
        wanted = f"{vid}:{pid}".lower()
        found = self._where(lambda entry: any(f"{row['vid']}:{row['pid']}" == wanted for row in _rows(entry, "usb")))
        return [driver for driver in found if any(str(usb) == wanted for usb in driver.usb)]

    def for_vendor(self, vid: str) -> list[Driver]:
        """Return the drivers that list any product with this USB vendor id."""
        wanted = vid.lower()
        found = self._where(lambda entry: any(row["vid"] == wanted for row in _rows(entry, "usb")))
        return [driver for driver in found if any(usb.vid == wanted for usb in driver.usb)]

    def for_atr(self, atr: bytes) -> list[Driver]:
        """Return the drivers that list an ATR; there are often several."""
        seen = atr.hex()

        def may_match(entry: _Entry) -> bool:
            return any(row["atr"] == seen or "mask" in row or "regex" in row for row in _rows(entry, "atr"))

        return [driver for driver in self._where(may_match) if any(known.matches(atr) for known in driver.atrs)]

    def _where(self, fits: Callable[[_Entry], bool]) -> Iterator[Driver]:
        """Yield the shipped drivers whose entry fits, and all user's drivers, so that their errors are reported."""
        for driver_id, entry in self._entries.items():
            if entry.table is None or fits(entry):
                yield self.get(driver_id)

    def _naming(self, name: str) -> Iterator[Driver]:
        """Yield the drivers that may list a module or an SKF library with a file name."""
        return self._where(lambda entry: _names(entry.names, name))

    def _leading_to(self, real: Path) -> Driver | None:
        """Return the driver one of whose paths is a link to this file."""
        wanted = str(real)
        for driver in self._where(lambda entry: any(os.path.realpath(place) == wanted for place in _places(entry))):
            places = (place for pattern in driver.module.paths for place in candidates(pattern))
            if any(os.path.realpath(place) == wanted for place in places):
                return driver
        return None


def _rows(entry: _Entry, kind: str) -> list[Mapping[str, Any]]:
    """Return the rows of ``[[match.usb]]``, ``atr`` or ``token`` of a shipped descriptor."""
    found: list[Mapping[str, Any]] = entry.part("match").get(kind, [])
    return found


def _places(entry: _Entry) -> Iterator[str]:
    """Yield the paths on this system that a shipped descriptor lists for its module."""
    for pattern in entry.paths:
        yield from candidates(pattern)


def _names(patterns: Sequence[str], name: str) -> bool:
    name = name.lower()
    return any(
        fnmatchcase(name, pattern) if _WILDCARDS.intersection(pattern) else name == pattern
        for pattern in map(str.lower, patterns)
    )
