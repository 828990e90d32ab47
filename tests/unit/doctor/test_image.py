"""Parsing of executable files: a result for any bytes, in bounded time, without an exception."""

from __future__ import annotations

import _ctypes
import os
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ushield_hw.config import Settings
from ushield_hw.doctor.inspect.image import processor, read_image
from ushield_hw.doctor.inspect.image_model import Format, Image
from ushield_hw.doctor.inspect.linker import linked, read_cache
from ushield_hw.doctor.inspect.machine import Machine

pytestmark = pytest.mark.unit

LIBRARY: Final = Path(_ctypes.__file__)  # a real one on any system


def image(folder: Path, content: bytes) -> Image:
    path = folder / "file"
    path.write_bytes(content)
    found = read_image(path)
    assert found is not None
    return found


# --- ELF --------------------------------------------------------------------------------------------------------------


def test_a_real_library_is_read() -> None:
    found = read_image(LIBRARY)
    assert found is not None
    assert (found.format, found.shared, found.whole, found.size) == (Format.ELF, True, True, LIBRARY.stat().st_size)
    assert found.architectures == (processor(Machine(Settings(drivers=())).architecture),)
    assert "libc.so.6" in found.needed
    assert found.exports == frozenset()
    assert [version for library, version in found.wants if library == "libc.so.6" and version.startswith("GLIBC_")]


def test_what_a_library_needs_is_found_where_the_loader_finds_it() -> None:
    found = read_image(LIBRARY)
    assert found is not None
    under = linked(Machine(Settings(drivers=())), LIBRARY, found)
    assert (under.missing, under.too_old) == ([], [])
    without = linked(Machine(Settings(drivers=()), root=LIBRARY.parent), LIBRARY, found)  # a root without libraries
    assert {one.name for one in without.missing} == set(found.needed)


def test_the_cache_of_the_loader_is_read_as_ldconfig_does(tmp_path: Path) -> None:
    told = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True, timeout=30).stdout
    rows = [row.split(" => ") for row in told.splitlines() if " => " in row]
    expected: dict[str, list[str]] = {}
    for name, path in rows:
        expected.setdefault(name.split()[0], []).append(path)
    cache = read_cache(Path("/etc/ld.so.cache"))
    assert cache == expected
    assert cache
    (tmp_path / "cache").write_bytes(Path("/etc/ld.so.cache").read_bytes()[:200])
    assert len(read_cache(tmp_path / "cache")) < len(cache)
    assert read_cache(tmp_path / "none") == {}


@pytest.mark.parametrize("length", [4, 5, 17, 63, 64, 300, 5000])
def test_a_library_cut_short_says_how_much_is_missing(tmp_path: Path, length: int) -> None:
    found = image(tmp_path, LIBRARY.read_bytes()[:length])
    assert found.format is Format.ELF
    assert found.missing > 0
    assert not found.whole


def test_names_in_another_encoding_than_utf_8_do_no_harm(tmp_path: Path) -> None:
    content = LIBRARY.read_bytes().replace(b"libc.so.6\0", "张".encode("gbk") + b"ib.so.6\0")
    found = image(tmp_path, content)
    assert found.whole
    assert "\ufffd" in "".join(found.needed)


def test_tables_without_an_end_are_read_for_so_long_only(tmp_path: Path) -> None:
    header = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    dynamic = struct.pack("<IIQQQQQQ", 2, 4, 4096, 4096, 4096, 16 << 20, 16 << 20, 8)
    content = (header + dynamic).ljust(4096, b"\0") + b"\1" * (16 << 20)
    began = time.monotonic()
    found = image(tmp_path, content)
    assert time.monotonic() - began < 30
    assert found.exports is None


@pytest.mark.parametrize("start", [LIBRARY.read_bytes()[:4096], b"MZ", b"\xcf\xfa\xed\xfe", b"", b"text"])
def test_a_file_of_gigabytes_is_not_read_into_memory(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "huge"
    path.write_bytes(start)
    os.truncate(path, 3 << 30)  # a sparse file
    tracemalloc.start()
    began = time.monotonic()
    try:
        assert read_image(path) is not None
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 30


# --- PE, Mach-O and the rest ------------------------------------------------------------------------------------------


def pe(machine: int, *, dll: bool = True, section: tuple[int, int] = (512, 512)) -> bytes:
    """Return the headers of a PE file with one section of (length, offset), and that section."""
    kind = 0x2000 if dll else 0x0002
    dos = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80)
    coff = b"PE\0\0" + struct.pack("<HHIIIHH", machine, 1, 0, 0, 0, 16, kind) + bytes(16)
    table = b".text\0\0\0" + struct.pack("<IIIIIIHHI", 0, 0, *section, 0, 0, 0, 0, 0)
    return (dos.ljust(0x80, b"\0") + coff + table).ljust(1024, b"\0")


@pytest.mark.parametrize(("machine", "name"), [(0x14C, "x86"), (0x8664, "x86_64"), (0xAA64, "aarch64")])
def test_a_windows_dll_tells_its_processor(tmp_path: Path, machine: int, name: str) -> None:
    found = image(tmp_path, pe(machine))
    assert (found.format, found.architectures, found.shared, found.missing) == (Format.PE, (name,), True, 0)
    assert not image(tmp_path, pe(machine, dll=False)).shared
    assert image(tmp_path, pe(machine, section=(512, 1024))).missing == 512
    assert image(tmp_path, pe(machine)[:100]).missing > 0


def test_the_names_in_a_windows_dll_are_a_hint(tmp_path: Path) -> None:
    found = image(tmp_path, pe(0x8664) + bytes(1 << 20)[:-5] + b"C_GetFunctionList\0")
    assert (found.exports, found.guessed) == (frozenset({"C_GetFunctionList"}), True)
    assert image(tmp_path, pe(0x8664) + b"SKF_EnumDev\0").exports == frozenset({"SKF_EnumDev"})


def test_a_mach_o_library_tells_its_processors(tmp_path: Path) -> None:
    thin = struct.pack("<IIIIIII", 0xFEEDFACF, 0x0100000C, 0, 6, 0, 0, 0).ljust(512, b"\0")
    assert (found := image(tmp_path, thin)).format is Format.MACH_O
    assert (found.architectures, found.shared) == (("aarch64",), True)
    rows = b"".join(struct.pack(">IIIII", cpu, 0, 256, 256, 0) for cpu in (0x01000007, 0x0100000C))
    fat = (struct.pack(">II", 0xCAFEBABE, 2) + rows).ljust(512, b"\0")
    assert image(tmp_path, fat).architectures == ("x86_64", "aarch64")
    assert image(tmp_path, fat[:400]).missing == 112


def test_a_java_class_is_no_fat_mach_o(tmp_path: Path) -> None:
    assert image(tmp_path, b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(99)).format is Format.UNKNOWN


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", Format.EMPTY),
        (b"version https://git-lfs.github.com/spec/v1\n", Format.LFS_POINTER),
        (b"#!/bin/sh\n", Format.SCRIPT),
        ("证书\n".encode(), Format.TEXT),
        ("证书\n".encode("gbk"), Format.TEXT),
        (b"!<arch>\ndebian-binary", Format.ARCHIVE),
        (b"\x1f\x8b\x08", Format.ARCHIVE),
        (b"\0\1\2\3", Format.UNKNOWN),
    ],
)
def test_other_files_are_told_by_their_beginning(tmp_path: Path, content: bytes, kind: Format) -> None:
    assert image(tmp_path, content).format is kind


def test_what_is_no_file_is_told_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/null")):
        found = read_image(path)
        assert found is not None
        assert found.format is Format.NOT_A_FILE
    assert read_image(tmp_path / "none") is None
    assert read_image(Path("a\0b")) is None


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("AMD64", "x86_64"),
        ("x86_64", "x86_64"),
        ("x86_64-32", "x86"),
        ("AMD64-32", "x86"),
        ("i686", "x86"),
        ("arm64", "aarch64"),
        ("armv7l", "arm"),
        ("aarch64-32", "arm"),
        ("loongarch64", "loongarch64"),
    ],
)
def test_processors_have_one_name(said: str, name: str) -> None:
    assert processor(said) == name


# --- arbitrary bytes --------------------------------------------------------------------------------------------------

QUICK: Final = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
MAGICS: Final = st.sampled_from(
    [b"", b"\x7fELF\2\1\1", b"\x7fELF\1\2", b"MZ", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xce"]
)


@QUICK
@given(magic=MAGICS, rest=st.binary(max_size=300))
def test_any_bytes_have_an_image(tmp_path: Path, magic: bytes, rest: bytes) -> None:
    image(tmp_path, magic + rest)


@pytest.mark.slow
@QUICK
@given(
    patches=st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
    length=st.one_of(st.none(), st.integers(0, LIBRARY.stat().st_size)),
)
def test_any_damage_to_a_library_leaves_an_image(
    tmp_path: Path, patches: list[tuple[int, bytes]], length: int | None
) -> None:
    content = bytearray(LIBRARY.read_bytes()[:length])
    for at, octets in patches:
        content[at : at + len(octets)] = octets
    began = time.monotonic()
    image(tmp_path, bytes(content))
    assert time.monotonic() - began < 30


@pytest.mark.slow
@QUICK
@given(at=st.integers(0, 1 << 20), octets=st.binary(min_size=1, max_size=16))
def test_any_damage_to_the_dynamic_table_leaves_an_image(tmp_path: Path, at: int, octets: bytes) -> None:
    content = bytearray(LIBRARY.read_bytes())
    place = content.find(struct.pack("=QQ", 5, 0)[:8])  # near the offset of DT_STRTAB
    at = max(0, place) + at % 600
    content[at : at + len(octets)] = octets
    image(tmp_path, bytes(content))


def test_looking_at_a_file_that_is_no_elf_costs_no_pyelftools(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    look = (
        "import sys, pathlib; from ushield_hw.doctor.inspect.image import read_image; "
        f"read_image(pathlib.Path({str(tmp_path / 'text')!r})); print(any('elftools' in name for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
