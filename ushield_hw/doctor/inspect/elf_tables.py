"""Parse the loader tables of an ELF file with pyelftools; see :mod:`ushield_hw.doctor.inspect.image`.

A damaged file may declare tables of any size, so pyelftools reads through a window with a limit on the total bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import IO, Any, BinaryIO, Final, cast

from elftools.common.utils import parse_cstring_from_stream, struct_parse
from elftools.elf.elffile import ELFFile
from elftools.elf.hash import ELFHashTable, GNUHashTable
from elftools.elf.sections import Symbol

from ushield_hw.doctor.inspect.elf import read_header
from ushield_hw.doctor.inspect.image_model import NAMES, Image

_MOST_READ: Final = 1 << 20  # a library with thirty thousand symbols needs 180 kB
_PIE: Final = 0x08000000  # DF_1_PIE
_WEAK_NEED: Final = 2  # VER_FLG_WEAK

# Position and size of the header fields that describe the sections: e_shoff, and e_shnum with e_shstrndx.
_SECTION_FIELDS: Final = {32: ((32, 4), (48, 4)), 64: ((40, 8), (60, 4))}


class _TooMuch(Exception):
    """The tables exceed the read limit."""


def read_elf(file: BinaryIO, size: int, head: bytes) -> Image:
    """Parse an ELF file; never raises because of its content."""
    image, length, bits = read_header(head, size)
    if not length:
        return image
    return _with_tables(image, _Window(file, _without_sections(head[:length], bits)))


def _without_sections(header: bytes, bits: int) -> bytes:
    """Return a file header without sections, because the loader ignores them."""
    changed = bytearray(header)
    for at, length in _SECTION_FIELDS[bits]:
        changed[at : at + length] = bytes(length)
    return bytes(changed)


class _Window:
    """A file with a replaced header and a limit on the total bytes read."""

    def __init__(self, file: BinaryIO, header: bytes) -> None:
        self._file = file
        self._header = header
        self._left = _MOST_READ

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()
        data = self._file.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise _TooMuch
        ours = self._header[start : start + len(data)]
        return ours + data[len(ours) :]

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _with_tables(image: Image, window: _Window) -> Image:
    try:
        elf = ELFFile(cast(IO[bytes], window))
        missing = max(0, _end(elf) - image.size)
        if missing:
            return replace(image, missing=missing)
        dynamic = next((part for part in elf.iter_segments() if part["p_type"] == "PT_DYNAMIC"), None)
        if dynamic is None:
            return image if not image.shared else replace(image, damage="no dynamic segment")
        return _with_dynamic(image, _Tables(elf, list(_tags(elf, dynamic["p_offset"]))))
    except _TooMuch:
        return image
    except Exception as error:  # pyelftools raises many exception types
        return replace(image, damage=type(error).__name__)


def _end(elf: ELFFile) -> int:
    """Return the end of the program headers and of the segments they describe."""
    header = elf.header
    table = header["e_phoff"] + header["e_phnum"] * header["e_phentsize"]
    elf.stream.seek(0, 2)
    if table > elf.stream.tell():
        return int(table)
    parts = (part["p_offset"] + part["p_filesz"] for part in elf.iter_segments())
    return int(max(table, *parts, 0))


def _tags(elf: ELFFile, at: int) -> Iterator[tuple[str | int, int]]:
    """Yield the entries of the dynamic table."""
    size = elf.structs.Elf_Dyn.sizeof()
    for number in count():
        entry = struct_parse(elf.structs.Elf_Dyn, elf.stream, at + number * size)
        if entry.d_tag == "DT_NULL":
            return
        yield entry.d_tag, entry.d_val


@dataclass(frozen=True)
class _Tables:
    """The dynamic table and the tables it refers to."""

    elf: ELFFile
    tags: list[tuple[str | int, int]]
    _places: dict[str, int | None] = field(default_factory=dict)

    def values(self, tag: str) -> list[int]:
        return [value for name, value in self.tags if name == tag]

    def place(self, tag: str) -> int | None:
        """Return the file offset of a table; cached, because pyelftools parses every segment header for it."""
        if tag not in self._places:
            address = next(iter(self.values(tag)), None)
            self._places[tag] = None if address is None else next(iter(self.elf.address_offsets(address)), None)
        return self._places[tag]

    def string(self, at: int) -> str:
        """Return an entry of the string table, which may be in any encoding because it contains build paths."""
        octets = parse_cstring_from_stream(self.elf.stream, (self.place("DT_STRTAB") or 0) + at)
        return (octets or b"").decode("utf-8", "replace")

    def strings(self, tag: str) -> tuple[str, ...]:
        return tuple(self.string(value) for value in self.values(tag))

    def get_symbol(self, index: int) -> Symbol:
        """Return a symbol, for pyelftools' hash tables."""
        layout = self.elf.structs.Elf_Sym
        entry = struct_parse(layout, self.elf.stream, (self.place("DT_SYMTAB") or 0) + index * layout.sizeof())
        return Symbol(entry, self.string(entry.st_name))

    def chain(self, tag: str, outer: Any, inner: Any, first: str, following: str) -> Iterator[tuple[Any, list[Any]]]:
        """Yield the entries of a version table with their sub-entries (Elf_Verneed, Elf_Verdef)."""
        place = self.place(tag)
        for _ in range(sum(self.values(f"{tag}NUM")) if place is not None else 0):
            entry = struct_parse(outer, self.elf.stream, place)
            at, parts = place + entry[first], []
            for _ in range(entry["vn_cnt" if tag == "DT_VERNEED" else "vd_cnt"]):
                parts.append(struct_parse(inner, self.elf.stream, at))
                at += parts[-1][following]
            yield entry, parts
            place += entry["vn_next" if tag == "DT_VERNEED" else "vd_next"]


def _with_dynamic(image: Image, tables: _Tables) -> Image:
    if tables.place("DT_STRTAB") is None or tables.place("DT_SYMTAB") is None:
        return replace(image, damage="no symbols")
    pie = any(value & _PIE for value in tables.values("DT_FLAGS_1"))
    return replace(
        image,
        shared=image.shared and not pie,
        needed=tables.strings("DT_NEEDED"),
        rpath=_folders(tables.strings("DT_RPATH")),
        runpath=_folders(tables.strings("DT_RUNPATH")),
        exports=_exports(tables),
        wants=tuple(_wants(tables)),
        versions=frozenset(_versions(tables)),
    )


def _folders(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(folder for path in paths for folder in path.split(":") if folder)


def _exports(tables: _Tables) -> frozenset[str] | None:
    """Look up each name in the hash table, as the loader does; None: there is no readable table."""
    gnu, old = tables.place("DT_GNU_HASH"), tables.place("DT_HASH")
    try:
        if gnu is not None:
            table: Any = GNUHashTable(tables.elf, gnu, tables)
        elif old is not None:
            table = ELFHashTable(tables.elf, old, None, tables)
        else:
            return None
        found = {name: table.get_symbol(name) for name in NAMES}
    except _TooMuch:
        return None
    except Exception:  # an unsupported hash table is no proof of damage
        return None
    return frozenset(name for name, symbol in found.items() if symbol and symbol["st_shndx"] != "SHN_UNDEF")


def _wants(tables: _Tables) -> Iterator[tuple[str, str]]:
    structs = tables.elf.structs
    for entry, parts in tables.chain("DT_VERNEED", structs.Elf_Verneed, structs.Elf_Vernaux, "vn_aux", "vna_next"):
        library = tables.string(entry["vn_file"])
        yield from ((library, tables.string(part["vna_name"])) for part in parts if not part["vna_flags"] & _WEAK_NEED)


def _versions(tables: _Tables) -> Iterator[str]:
    structs = tables.elf.structs
    for _, parts in tables.chain("DT_VERDEF", structs.Elf_Verdef, structs.Elf_Verdaux, "vd_aux", "vda_next"):
        yield from (tables.string(part["vda_name"]) for part in parts[:1])  # the remaining entries are parent versions
