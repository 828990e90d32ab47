"""Parse the header of an ELF file and check its plausibility. ``elf_tables`` parses the tables."""

from __future__ import annotations

import mmap
import struct
from typing import BinaryIO, Final

from ushield_hw.doctor.inspect.image_model import Format, Image

_SHARED: Final = 3  # ET_DYN
_LEAST: Final = 6  # up to EI_DATA
_WHOLE: Final = 64  # a 64-bit header
_MOST_SEGMENTS: Final = 512

_MACHINES: Final = {
    (3, 32): "x86",
    (62, 64): "x86_64",
    (62, 32): "x32",
    (40, 32): "arm",
    (183, 64): "aarch64",
    (258, 64): "loongarch64",
    (0x9916, 64): "sw_64",
    (8, 32): "mips",
    (8, 64): "mips64",
    (243, 32): "riscv32",
    (243, 64): "riscv64",
    (20, 32): "ppc",
    (22, 64): "s390x",
    (50, 64): "ia64",
}
_LAYOUTS: Final = {32: "HHIIIIIHHHHHH", 64: "HHIQQQIHHHHHH"}
# Layout of a program header: p_offset and p_filesz.
_SEGMENTS: Final = {32: "4xI8xI12x", 64: "8xQ16xQ16x"}
_ENTRY: Final = b"C_GetFunctionList\0"  # may be the end of a longer name: string tables share suffixes


def read_header(head: bytes, size: int) -> tuple[Image, int, int]:
    """Return the parsed header, its length (0: not readable) and the word size in bits."""
    if len(head) < _LEAST:
        return Image(Format.ELF, size, missing=_WHOLE - len(head)), 0, 0
    bits, order = {1: 32, 2: 64}.get(head[4]), {1: "<", 2: ">"}.get(head[5])
    if bits is None or order is None:
        return Image(Format.ELF, size, damage="header"), 0, 0
    layout = order + _LAYOUTS[bits]
    length = 16 + struct.calcsize(layout)
    if len(head) < length:
        return Image(Format.ELF, size, missing=length - len(head)), 0, 0
    fields = struct.unpack_from(layout, head, 16)
    kind, machine, sections, section_size, section_count = fields[0], fields[1], fields[5], fields[10], fields[11]
    tail = sections + section_size * section_count - size if sections else 0
    architectures = (_machine(machine, bits, order),)
    image = Image(Format.ELF, size, architectures, shared=kind == _SHARED, missing_tail=max(0, tail))
    return image, length, bits


def _machine(number: int, bits: int, order: str) -> str:
    if number == 21:  # noqa: PLR2004 - EM_PPC64
        return "ppc64le" if order == "<" else "ppc64"
    return _MACHINES.get((number, bits), f"elf-{number}-{bits}")


def is_sound(file: BinaryIO, head: bytes, size: int, bits: int) -> bool:
    """Return whether all segments lie within the file and it contains the name C_GetFunctionList.

    This is no proof, but cheap: a module that passes may be loaded in a worker process.
    """
    order = {1: "<", 2: ">"}[head[5]]
    fields = struct.unpack_from(order + _LAYOUTS[bits], head, 16)
    at, step, count = fields[4], fields[8], fields[9]
    layout = struct.Struct(order + _SEGMENTS[bits])
    if step != layout.size or not 0 < count <= _MOST_SEGMENTS:
        return False
    file.seek(at)
    table = file.read(step * count)
    if len(table) < step * count or any(start + length > size for start, length in layout.iter_unpack(table)):
        return False
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as octets:
        return octets.find(_ENTRY) >= 0
