"""Resolve the libraries that a file needs as the system's loader would, without loading anything.

``ldd`` is not used because it executes the file. The search order is that of ld.so(8): DT_RPATH if there is no
DT_RUNPATH, LD_LIBRARY_PATH, DT_RUNPATH, ld.so.cache, the default folders; files for another processor are skipped.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from ushield_hw.doctor.inspect.image import read_image
from ushield_hw.doctor.inspect.image_model import Format, Image
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.system.lazy import cached_property

_MOST_LIBRARIES: Final = 300
_CACHE_MOST: Final = 8 << 20
_DEFAULT: Final = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/lib/*-linux-*", "/usr/lib/*-linux-*")
_MUSL: Final = ("/lib", "/usr/local/lib", "/usr/lib")  # default folders if there is no cache


@dataclass(frozen=True, slots=True)
class Missing:
    """A library that was not found, and the file that needs it."""

    name: str
    needed_by: str


@dataclass(frozen=True, slots=True)
class TooOld:
    """A library that was found but lacks a required symbol version."""

    library: str
    version: str
    needed_by: str


@dataclass
class Linked:
    """The dependencies of a file, direct and indirect.

    Attributes:
        missing: libraries that were not found.
        too_old: libraries that lack a required symbol version.
        exports: names that the dependencies export; the loader searches them too.
    """

    missing: list[Missing] = field(default_factory=list)
    too_old: list[TooOld] = field(default_factory=list)
    exports: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class _Loading:
    """A library being resolved; ``inherited``: the DT_RPATHs of the files that depend on it."""

    path: Path
    image: Image
    inherited: tuple[Path, ...] = ()

    @property
    def rpath(self) -> tuple[Path, ...]:
        """The folders searched first for its dependencies; DT_RUNPATH disables them."""
        return () if self.image.runpath else self.passed_on

    @property
    def passed_on(self) -> tuple[Path, ...]:
        """The DT_RPATHs that its dependencies inherit; DT_RUNPATH disables its own but not the inherited ones."""
        own = () if self.image.runpath else tuple(self._expanded(text) for text in self.image.rpath)
        return (*own, *self.inherited)

    @property
    def runpath(self) -> tuple[Path, ...]:
        return tuple(self._expanded(text) for text in self.image.runpath)

    def _expanded(self, text: str) -> Path:
        for token in ("$ORIGIN", "${ORIGIN}"):
            text = text.replace(token, str(self.path.parent))
        return Path(text)


def linked(machine: Machine, path: Path, image: Image) -> Linked:
    """Resolve the dependencies of a file breadth first, as the loader does, each library once.

    Args:
        machine: the machine to search.
        path: the file.
        image: its content.
    """
    return _Walk(machine, image.architectures).walk(path, image)


@dataclass
class _Walk:
    machine: Machine
    architectures: tuple[str, ...]

    def walk(self, path: Path, image: Image) -> Linked:
        result = Linked()
        found: dict[str, Image | None] = {}
        waiting = deque([_Loading(path, image)])
        while waiting and len(found) < _MOST_LIBRARIES:
            now = waiting.popleft()
            for name in now.image.needed:
                if name not in found:
                    following = self._find(name, now)
                    found[name] = following.image if following else None
                    if following is None:
                        result.missing.append(Missing(name, str(now.path)))
                    else:
                        result.exports |= following.image.exports or set()
                        waiting.append(following)
            result.too_old += _too_old(now, found)
        return result

    def _find(self, name: str, loading: _Loading) -> _Loading | None:
        for candidate in self._candidates(name, loading):
            image = _image_of(self.machine.path(candidate))
            if image and image.format is Format.ELF and image.architectures == self.architectures:
                return _Loading(candidate, image, loading.passed_on)
        return None

    def _candidates(self, name: str, loading: _Loading) -> Iterator[Path]:
        if "/" in name:
            yield Path(name)
            return
        by_user = self.machine.environ.get("LD_LIBRARY_PATH", "").replace(";", ":").split(":")
        yield from (folder / name for folder in loading.rpath)
        yield from (Path(folder, name) for folder in by_user if folder)
        yield from (folder / name for folder in loading.runpath)
        yield from (Path(path) for path in self._cache.get(name, ()))
        yield from (folder / name for folder in self._defaults)

    @cached_property
    def _cache(self) -> dict[str, list[str]]:
        return read_cache(self.machine.path("/etc/ld.so.cache"))

    @cached_property
    def _defaults(self) -> tuple[Path, ...]:
        root = self.machine.root
        patterns = _DEFAULT if self._cache else (*_DEFAULT, *_MUSL)
        found = (folder for pattern in patterns for folder in sorted(root.glob(pattern.lstrip("/"))))
        return tuple(dict.fromkeys(Path("/") / folder.relative_to(root) for folder in found))


def _too_old(now: _Loading, found: dict[str, Image | None]) -> Iterator[TooOld]:
    for library, version in now.image.wants:
        image = found.get(library)
        # the loader accepts a library without version definitions
        if image and image.versions and version not in image.versions:
            yield TooOld(library, version, str(now.path))


def _image_of(path: Path) -> Image | None:
    """Return a library's content; cached for all modules that need it."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return None
    return _kept(path, about.st_mtime_ns, about.st_size)


@lru_cache(256)
def _kept(path: Path, changed: int, size: int) -> Image | None:
    return read_image(path)


_MAGIC: Final = b"glibc-ld.so.cache1.1"
_HEADER, _ENTRY = struct.Struct("=20sII20x"), struct.Struct("=iIIIQ")


def read_cache(path: Path) -> dict[str, list[str]]:
    """Return the paths of each library name in a glibc ld.so.cache, in its order; empty if there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(_CACHE_MOST)
    except OSError:
        return {}
    data = data[max(0, data.find(_MAGIC)) :]  # the old format may come first; offsets count from here
    if not data.startswith(_MAGIC) or len(data) < _HEADER.size:
        return {}
    _, entries, _ = _HEADER.unpack_from(data)
    found: dict[str, list[str]] = {}
    for number in range(min(entries, (len(data) - _HEADER.size) // _ENTRY.size)):
        _, key, value, _, _ = _ENTRY.unpack_from(data, _HEADER.size + number * _ENTRY.size)
        found.setdefault(_string(data, key), []).append(_string(data, value))
    return found


def _string(data: bytes, at: int) -> str:
    return data[at : data.find(b"\0", at)].decode("utf-8", "replace") if at < len(data) else ""
