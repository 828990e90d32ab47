"""Inspect the installation of pcsc-lite: USB reader drivers of pcscd and client libraries."""

from __future__ import annotations

import os
import plistlib
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final
from xml.parsers.expat import ExpatError, ParserCreate

from ushield_hw.doctor.inspect.machine import Machine

PROGRAMS: Final = ("/usr/sbin/pcscd", "/usr/local/sbin/pcscd", "/usr/bin/pcscd", "/usr/libexec/pcscd")
DRIVER_FOLDERS: Final = (
    "/usr/lib/pcsc/drivers",
    "/usr/lib64/pcsc/drivers",
    "/usr/local/lib/pcsc/drivers",
    "/usr/local/pcsc/drivers",
)
_LIBRARIES: Final = (
    "/usr/lib/*-linux-gnu*/libpcsclite.so.1",
    "/usr/lib64/libpcsclite.so.1",
    "/usr/lib/libpcsclite.so.1",
    "/usr/local/lib/libpcsclite.so.1",
    "/usr/local/lib64/libpcsclite.so.1",
    "/usr/local/lib/*-linux-gnu*/libpcsclite.so.1",
    "/opt/*/lib/libpcsclite.so.1",
)
_SOCKET_IN_LIBRARY: Final = re.compile(rb"/[\x21-\x7e]*pcscd(?=/pcscd|\x00)")
_MOST: Final = 8 << 20


def program(machine: Machine) -> str:
    """Return the path of pcscd, or an empty string if it is not installed."""
    return next((place for place in PROGRAMS if machine.path(place).exists()), "")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A reader driver bundle.

    Attributes:
        path: its folder, as a path of that machine.
        version: its version.
        ids: the USB ids it lists, as ``lsusb`` writes them.
        names: the reader names for these ids.
        any_ccid: whether pcscd uses it for CCID devices that no driver lists.
    """

    path: str
    version: str
    ids: frozenset[str]
    any_ccid: bool
    names: Mapping[str, str]


def drivers(machine: Machine) -> list[str]:
    """Return the folders of the USB reader drivers that pcscd finds.

    A driver whose Info.plist cannot be read does not count, because pcscd ignores it too.
    """
    return [place for place, text in _descriptions(machine) if _is_property_list(text)]


def bundles(machine: Machine) -> tuple[Bundle, ...]:
    """Return these drivers with the devices they list, which may be thousands."""
    found = (_bundle(place, text) for place, text in _descriptions(machine))
    return tuple(bundle for bundle in found if bundle is not None)


def _descriptions(machine: Machine) -> Iterator[tuple[str, bytes]]:
    """Yield the folder of each driver and its Info.plist."""
    for folder in DRIVER_FOLDERS:
        for contents in sorted(machine.path(folder).glob("*.bundle/Contents")):
            file = contents / "Info.plist"
            if file.is_symlink():
                file = machine.path(os.readlink(file)) if os.readlink(file).startswith("/") else file
            with suppress(OSError):
                yield f"/{contents.parent.relative_to(machine.root)}", file.read_bytes()


def _is_property_list(text: bytes) -> bool:
    """Return whether it is a property list with a dictionary, without parsing its values."""
    found: list[str] = []
    parser = ParserCreate()
    parser.StartElementHandler = lambda name, _: found.append(name)
    try:
        parser.Parse(text, True)
    except ExpatError:
        return False
    return found[:2] == ["plist", "dict"]


@lru_cache(maxsize=16)  # parsed once for all probes
def _bundle(place: str, text: bytes) -> Bundle | None:
    try:
        said = plistlib.loads(text)
        pairs = zip(said.get("ifdVendorID", ()), said.get("ifdProductID", ()), strict=False)
        listed = [f"{int(vid, 16):04x}:{int(pid, 16):04x}" for vid, pid in pairs]
        names = dict(zip(listed, map(str, said.get("ifdFriendlyName", ())), strict=False))
    except (ValueError, TypeError, AttributeError, ExpatError, plistlib.InvalidFileException):
        return None
    any_ccid = said.get("CFBundleName") == "CCIDCLASSDRIVER"
    return Bundle(place, str(said.get("CFBundleShortVersionString", "")), frozenset(listed), any_ccid, names)


@dataclass(frozen=True, slots=True)
class Library:
    """A PC/SC client library. ``looks_in``: the folder of pcscd's socket that it uses; empty: not found."""

    path: str
    looks_in: str

    def __str__(self) -> str:
        return f"{self.path} -> {self.looks_in}" if self.looks_in else self.path


def libraries(machine: Machine) -> tuple[Library, ...]:
    """Return the different PC/SC client libraries for this program's architecture."""
    found: dict[bytes, Library] = {}
    for path in _library_files(machine):
        try:
            with path.open("rb") as file:
                content = file.read(_MOST)
        except OSError:
            continue
        if _of_our_size(content):
            where = _SOCKET_IN_LIBRARY.search(content)
            name = f"/{path.relative_to(machine.root)}"
            found.setdefault(content, Library(name, where.group().decode() if where else ""))
    return tuple(found.values())


def _library_files(machine: Machine) -> Iterator[Path]:
    for pattern in _LIBRARIES:
        yield from sorted(machine.root.glob(pattern.lstrip("/")))


def _of_our_size(content: bytes) -> bool:
    """Return whether a library has the word size of this program; a 32-bit library does not affect a 64-bit program."""
    width = b"\x02" if struct.calcsize("P") == 8 else b"\x01"  # noqa: PLR2004 - bytes of a pointer, ELF's class
    return content[:5] == b"\x7fELF" + width
