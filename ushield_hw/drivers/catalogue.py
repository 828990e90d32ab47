"""The catalogue of token families: what is different about each, as data (``drivers/*.toml``).

A descriptor in a user's folder wins over a shipped one with the same id. Files are read at once but parsed only when
asked for: a signature needs one of them.

The package's own descriptors are as trusted as its code. Others are read only where no other user could change them
(``ushield_hw.system.trust``), and count in full only where the root-owned configuration lists their family
(``[drivers] consent``); see :func:`ushield_hw.drivers.descriptor.limited`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from ushield_hw.backend.model import TokenInfo
from ushield_hw.config import Settings, data_dir, data_file, data_files
from ushield_hw.drivers.descriptor import (
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
    PinEncoding,
    PinFlags,
    PinSpec,
    SignSpec,
    Unblock,
    candidates,
    limited,
    needs_consent,
    parse,
)
from ushield_hw.drivers.match import Atr, Binding, TokenPattern, UsbId
from ushield_hw.errors import DescriptorError, DriverError, DriverNotFound, InputError
from ushield_hw.system import trust
from ushield_hw.system.lazy import cached_property

__all__ = [
    "GENERIC",
    "Atr",
    "Binding",
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
    "PinEncoding",
    "PinFlags",
    "PinSpec",
    "SignSpec",
    "TokenPattern",
    "Unblock",
    "UsbId",
    "limited",
    "needs_consent",
    "parse",
]

# What can be seen in a descriptor's text without parsing it: absolute paths, a * in a file name, [[match.token]].
_PATH: Final = re.compile(rb"""["'](/[^"'\n]+)["']""")
_STAR: Final = re.compile(rb"""\*[^/\\"'\n]*(?=["'])""")
_BEFORE_A_NAME: Final = (b"/", b"\\", b'"', b"'")
_TOKEN_TABLE: Final = re.compile(rb"\[\[\s*match\s*\.\s*token\s*\]\]")
_TOKEN_LIST: Final = re.compile(rb"\btoken\s*=")
_MASK: Final = re.compile(rb"\bmask\s*=")
_REGEX: Final = re.compile(rb"\bregex\s*=")
_MAKER: Final = re.compile(rb"""\bmanufacturer\s*=\s*["']([^"'\\\n]*)["']""")

_LARGEST: Final = 1 << 20

GENERIC: Final = Driver("generic", "", "", Path())
"""For a module that no descriptor names: a worker process, no assumptions."""


class Catalogue:
    """The descriptors of several folders; the first folder that has an id wins.

    Args:
        folders: where they are.
        consent: families whose descriptors count in full wherever they lie.
        lenient: descriptors that other users could change are left out, and listed in :attr:`left_out`.

    Raises:
        DescriptorError: from every method that has to read a descriptor that is wrong.
        InputError: likewise: ``CONFIG_UNSAFE``: other users could change one, or a folder above it.
        DriverError: likewise: ``CATALOGUE_MISSING``: the descriptors that ship with the package are not there.
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
        """Return the catalogue that the settings name."""
        return cls(settings.drivers, settings.consent, lenient=settings.lenient)

    @property
    def left_out(self) -> tuple[InputError, ...]:
        """What was left out because other users could change it."""
        _ = self._raw
        return tuple(self._left_out)

    @cached_property
    def _raw(self) -> dict[str, tuple[Path, bytes]]:
        found: dict[str, tuple[Path, bytes]] = {}
        for folder in self._folders:
            for file in self._files(folder):
                if file.stem not in found and (content := self._content(file)) is not None:
                    found[file.stem] = file, content
        return found

    def _files(self, folder: Path) -> list[Path]:
        if not self._is_shipped(folder):
            try:
                trust.checked_folder(folder.absolute())
            except trust.Unsafe as error:
                self._refuse(folder, error)
                return []
            except OSError:  # a folder that is not there holds nothing
                return []
        found = data_files(folder, ".toml")
        if not found and self._is_shipped(folder):
            raise DriverError("CATALOGUE_MISSING", folder=str(folder))
        return found

    def _content(self, file: Path) -> bytes | None:
        """Return what a descriptor holds; None: it was left out."""
        try:
            return data_file(file) if self._is_shipped(file.parent) else trust.read(file.absolute(), _LARGEST)
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
        return sorted(self._raw)

    def get(self, driver_id: str) -> Driver:
        """Return one driver.

        Raises:
            DriverNotFound: no descriptor has this id.
        """
        if driver_id not in self._raw:
            raise DriverNotFound("DRIVER_ID_UNKNOWN", id=driver_id, searched=[str(folder) for folder in self._folders])
        if driver_id not in self._parsed:
            file, raw = self._raw[driver_id]
            driver = parse(file, raw)
            counts = self._is_shipped(file.parent) or driver_id in self._consent
            self._parsed[driver_id] = driver if counts else limited(driver)
        return self._parsed[driver_id]

    def __iter__(self) -> Iterator[Driver]:
        """Yield every driver, those of the first folder first: for a file that two name, the user's wins."""
        return (self.get(driver_id) for driver_id in self._raw)

    def installed(self) -> Iterator[Driver]:
        """Yield the drivers that have a module file here, in the catalogue's order.

        A shipped one is parsed only if its text names a file that is there. Someone's own always is: what is wrong with
        it has to be told.
        """
        for driver_id, (file, raw) in self._raw.items():
            if not self._is_shipped(file.parent) or any(map(os.path.isfile, _places(raw))):
                driver = self.get(driver_id)
                if driver.module_files():
                    yield driver

    def for_module(self, path: Path) -> Driver | None:
        """Return the driver that names this module file: by path, else by its name, or by where it leads."""
        real, by_name = path.resolve(), None
        for driver_id in self._naming(path.name):
            driver = self.get(driver_id)
            if any(Path(found).resolve() == real for pattern in driver.module.paths for found in candidates(pattern)):
                return driver
            if _names(driver.module.names, path.name):
                by_name = by_name or driver
        return by_name or self._leading_to(real)

    def naming(self, name: str) -> list[Driver]:
        """Return the drivers that know a module, on whatever platform, or an SKF library of this name."""
        found = (self.get(driver_id) for driver_id in self._naming(name))
        return [driver for driver in found if _names(driver.module.names + driver.module.skf, name)]

    def driven_by(self, driver: Driver) -> list[Driver]:
        """Return the families whose tokens the module of ``driver`` shows too."""
        wanted = driver.id
        found = self._saying(wanted)
        return [one for one in found if one.module.via == wanted or wanted in one.module.also_via]

    def family(self, driver: Driver, info: TokenInfo) -> Driver:
        """Return the family a token belongs to, of those that are driven by the module of ``driver``; else ``driver``.

        The family's own descriptor says everything but how the module is run.
        """
        via = re.compile(rb"""\bvia\s*=\s*["']%s["']""" % re.escape(driver.id).encode())
        for driver_id, (_, raw) in self._raw.items():
            if not (via.search(raw) and _may_fit(raw, info)):
                continue  # not worth parsing
            found = self.get(driver_id)
            if found.module.via == driver.id and any(pattern.matches(info) for pattern in found.tokens):
                return replace(found, module=driver.module)
        return driver

    def for_usb(self, vid: str, pid: str) -> list[Driver]:
        """Return the drivers that know a USB id; several is possible."""
        wanted = f"{vid}:{pid}".lower()
        return [driver for driver in self._saying(vid, pid) if any(str(usb) == wanted for usb in driver.usb)]

    def for_vendor(self, vid: str) -> list[Driver]:
        """Return the drivers that know another product with this USB vendor id."""
        return [driver for driver in self._saying(vid) if any(usb.vid == vid.lower() for usb in driver.usb)]

    def for_atr(self, atr: bytes) -> list[Driver]:
        """Return the drivers that know an ATR; several is common."""
        plain, quoted = atr.hex().encode(), re.compile(rb"""["']([0-9a-fA-F]{%d})["']""" % (2 * len(atr)))
        seen = int.from_bytes(atr, "big")

        def worth_parsing(raw: bytes) -> bool:
            if plain in raw.lower() or _REGEX.search(raw):
                return True
            if not _MASK.search(raw):
                return False
            numbers = {int(found, 16) for found in quoted.findall(raw)}
            return any(seen & mask == bits & mask for mask in numbers for bits in numbers)

        return [driver for driver in self._where(worth_parsing) if any(known.matches(atr) for known in driver.atrs)]

    def _saying(self, *words: str) -> Iterator[Driver]:
        """Yield the drivers in whose text each of these words stands in quotes, in either case."""
        wanted = [re.compile(rb"""["']%s["']""" % re.escape(word).encode(), re.IGNORECASE) for word in words]
        return self._where(lambda raw: all(word.search(raw) for word in wanted))

    def _where(self, worth_parsing: Callable[[bytes], bool]) -> Iterator[Driver]:
        """Yield the shipped drivers whose text is worth parsing, and all of somebody's own: TOML can be odd."""
        for driver_id, (file, raw) in self._raw.items():
            if not self._is_shipped(file.parent) or worth_parsing(raw):
                yield self.get(driver_id)

    def _naming(self, name: str) -> Iterator[str]:
        """Yield the ids of those worth parsing for a file name: they have its first part, or a pattern that fits."""
        first = name.partition(".")[0].lower().encode()
        starts = [mark + first for mark in _BEFORE_A_NAME]
        for driver_id, (_, raw) in self._raw.items():
            text = raw.lower()
            if any(start in text for start in starts) or _names(list(_patterns(raw)), name):
                yield driver_id

    def _leading_to(self, real: Path) -> Driver | None:
        """Return the driver of a file that bears another name where its descriptor looks for it."""
        for driver_id, (_, raw) in self._raw.items():
            if any(os.path.realpath(place) == str(real) for place in _places(raw)):
                return self.get(driver_id)
        return None


def _places(raw: bytes) -> Iterator[str]:
    """Yield the paths that the text of a descriptor names, whatever for, without parsing it."""
    for pattern in _PATH.findall(raw):
        yield from candidates(pattern.decode("utf-8", "replace"))


def _patterns(raw: bytes) -> Iterator[str]:
    """Yield the file names with a ``*`` that the text of a descriptor has."""
    for star in _STAR.finditer(raw):
        start = max(raw.rfind(mark, 0, star.start()) for mark in _BEFORE_A_NAME) + 1
        yield raw[start : star.end()].decode("utf-8", "replace")


def _may_fit(raw: bytes, info: TokenInfo) -> bool:
    """Tell whether the rows of ``[[match.token]]`` in a descriptor's text may fit a token, by its manufacturer."""
    makers = _MAKER.findall(raw)
    if len(makers) != len(_TOKEN_TABLE.findall(raw)) or _TOKEN_LIST.search(raw):  # written in another way
        return bool(_TOKEN_TABLE.search(raw) or _TOKEN_LIST.search(raw))
    return any(fnmatchcase(info.manufacturer, maker.decode("utf-8", "replace")) for maker in makers)


def _names(patterns: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)
