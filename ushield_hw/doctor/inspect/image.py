"""Inspect a library file without loading it: loading executes its code, and a damaged file can crash the process.

Any input yields a result, and the number of bytes read is bounded. ELF is parsed with pyelftools from the tables that
the system's loader uses (sections may be stripped). For PE and Mach-O only the header is parsed; their exports are
guessed from the file's bytes and marked as guessed.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

from ushield_hw.doctor.inspect.image_model import NAMES, Format, Image

_HEAD: Final = 4096
_MOST_SEARCHED: Final = 64 << 20
_CHUNK: Final = 1 << 20
_LINE_SHOWN: Final = 80


def read_image(path: Path) -> Image | None:
    """Return what a file contains, or None if it does not exist or cannot be read."""
    # O_NONBLOCK: opening a pipe must not block
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            about = os.fstat(file.fileno())
            return _read(file, about.st_size) if stat.S_ISREG(about.st_mode) else Image(Format.NOT_A_FILE)
    except IsADirectoryError:
        return Image(Format.NOT_A_FILE)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None


def glance(path: Path) -> Image | None:
    """Return the header of an ELF file that looks like a PKCS#11 module, or None if the tables must be parsed."""
    from ushield_hw.doctor.inspect.elf import is_sound, read_header

    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            about = os.fstat(file.fileno())
            head = file.read(_HEAD) if stat.S_ISREG(about.st_mode) else b""
            if not head.startswith(b"\x7fELF"):
                return None
            image, length, bits = read_header(head, about.st_size)
            sound = length and image.shared and not image.missing_tail and is_sound(file, head, about.st_size, bits)
    except (OSError, ValueError):
        return None
    return replace(image, exports=frozenset({"C_GetFunctionList"})) if sound else None


def _read(file: BinaryIO, size: int) -> Image:
    head = file.read(_HEAD)
    found = _by_magic(head)
    if found is Format.ELF:
        from ushield_hw.doctor.inspect.elf_tables import read_elf

        return read_elf(file, size, head)
    if found is Format.PE:
        return _hinted(_read_pe(file, size, head), file)
    if found is Format.MACH_O:
        return _hinted(_read_mach_o(size, head), file)
    line = head.split(b"\n")[0][:_LINE_SHOWN].decode("utf-8", "replace").strip()
    return Image(found, size, first_line="" if found in {Format.ARCHIVE, Format.UNKNOWN} else line)


_MACH_O: Final = {
    b"\xcf\xfa\xed\xfe": "<",
    b"\xce\xfa\xed\xfe": "<",
    b"\xfe\xed\xfa\xcf": ">",
    b"\xfe\xed\xfa\xce": ">",
}
_FAT: Final = {b"\xca\xfe\xba\xbe": (20, ">8x2I"), b"\xca\xfe\xba\xbf": (32, ">8x2Q")}
_MAGICS: Final = (
    (b"\x7fELF", Format.ELF),
    (b"MZ", Format.PE),
    *((magic, Format.MACH_O) for magic in (*_MACH_O, *_FAT)),
    (b"version https://git-lfs", Format.LFS_POINTER),
    (b"#!", Format.SCRIPT),
    *(
        (magic, Format.ARCHIVE)
        for magic in (
            b"!<arch>\n",
            b"PK\3\4",
            b"\x1f\x8b",
            b"BZh",
            b"\xfd7zXZ\0",
            b"\x28\xb5\x2f\xfd",
            b"7z\xbc\xaf\x27\x1c",
            b"\xed\xab\xee\xdb",
            b"Rar!",
            b"\xd0\xcf\x11\xe0",
        )
    ),
)
_MOST_SLICES: Final = 20  # a fat Mach-O has the magic of a Java class, whose next word is 45 or more


def _by_magic(head: bytes) -> Format:
    if not head:
        return Format.EMPTY
    found = next((kind for magic, kind in _MAGICS if head.startswith(magic)), None)
    if found is Format.MACH_O and head[:4] in _FAT and not 0 < _number(head, ">I", 4) <= _MOST_SLICES:
        return Format.UNKNOWN
    return found or (Format.TEXT if _is_text(head) else Format.UNKNOWN)


def _is_text(head: bytes) -> bool:
    """Return whether the bytes are text: no control characters except white space. Any encoding counts, also GBK."""
    return not any(octet < 0x20 and octet not in b"\t\n\v\f\r\x1b" for octet in head)  # noqa: PLR2004 - a space


def _number(data: bytes, form: str, at: int) -> int:
    """Return one number of a header, or 0 beyond its end."""
    if at < 0 or len(data) < at + struct.calcsize(form):
        return 0
    return int(struct.unpack_from(form, data, at)[0])


# --- processors -------------------------------------------------------------------------------------------------------

_SAME: Final = {
    "amd64": "x86_64",
    "amd64-32": "x86",
    "x86_64-32": "x86",
    "i386": "x86",
    "i486": "x86",
    "i586": "x86",
    "i686": "x86",
    "arm64": "aarch64",
    "arm64-32": "arm",
    "aarch64-32": "arm",
    "loong64": "loongarch64",
}


def processor(name: str) -> str:
    """Return a canonical processor name for the names that systems use (``AMD64``, ``arm64``, ``i686``)."""
    name = name.lower()
    return "arm" if name.startswith(("armv", "armhf")) else _SAME.get(name, name)


# --- PE and Mach-O: the header ----------------------------------------------------------------------------------------

_PE_MACHINES: Final = {0x14C: "x86", 0x8664: "x86_64", 0xAA64: "aarch64", 0x1C4: "arm", 0x200: "ia64"}
_PE_DLL: Final = 0x2000
_PE_SECTION: Final = 40


def _read_pe(file: BinaryIO, size: int, head: bytes) -> Image:
    """Parse the PE/COFF header: machine, DLL flag, and the end of the last section."""
    at = _number(head, "<I", 0x3C)
    file.seek(at)
    header = file.read(_HEAD)
    if header[:4] != b"PE\0\0":
        return Image(Format.PE, size, shared=False, missing=max(0, at + 4 - size))
    machine = _number(header, "<H", 4)
    table = 24 + _number(header, "<H", 20)
    sections = (table + number * _PE_SECTION for number in range(_number(header, "<H", 6)))
    end = max((_number(header, "<I", at + 16) + _number(header, "<I", at + 20) for at in sections), default=0)
    dll = bool(_number(header, "<H", 22) & _PE_DLL)
    name = _PE_MACHINES.get(machine, f"pe-{machine:#x}")
    return Image(Format.PE, size, (name,), shared=dll, missing=max(0, end - size))


_MACH_CPUS: Final = {7: "x86", 0x01000007: "x86_64", 12: "arm", 0x0100000C: "aarch64", 18: "ppc", 0x01000012: "ppc64"}
_MACH_LIBRARIES: Final = {6, 8}  # MH_DYLIB, MH_BUNDLE


def _read_mach_o(size: int, head: bytes) -> Image:
    """Parse the Mach-O header: processors and, for a single one, whether it is a library."""
    if head[:4] in _MACH_O:
        order = _MACH_O[head[:4]]
        cpu, kind = _number(head, f"{order}I", 4), _number(head, f"{order}I", 12)
        return Image(Format.MACH_O, size, (_mach_cpu(cpu),), shared=kind in _MACH_LIBRARIES)
    step, form = _FAT[head[:4]]
    slices = [head[8 + number * step :][:step] for number in range(_number(head, ">I", 4))]
    ends = [sum(struct.unpack_from(form, part)) for part in slices if len(part) == step]
    names = tuple(_mach_cpu(_number(part, ">I", 0)) for part in slices)
    return Image(Format.MACH_O, size, names, missing=max(0, max(ends, default=0) - size))


def _mach_cpu(number: int) -> str:
    return _MACH_CPUS.get(number, f"mach-{number:#x}")


def _hinted(image: Image, file: BinaryIO) -> Image:
    """Add the export names that occur in the file's bytes."""
    file.seek(0)
    wanted = {name: name.encode() + b"\0" for name in NAMES}
    found: set[str] = set()
    kept = b""
    for _ in range(_MOST_SEARCHED // _CHUNK):
        chunk = file.read(_CHUNK)
        if not chunk:
            break
        window = kept + chunk
        found |= {name for name, octets in wanted.items() if octets in window}
        kept = window[-64:]  # longer than any name
    return replace(image, exports=frozenset(found), guessed=True)
