"""Data model of a library file: format, processors, dependencies and exports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Format(Enum):
    """The format of a file."""

    ELF = "elf"
    PE = "pe"
    MACH_O = "mach-o"
    SCRIPT = "script"
    TEXT = "text"
    LFS_POINTER = "lfs-pointer"
    ARCHIVE = "archive"
    EMPTY = "empty"
    NOT_A_FILE = "not-a-file"
    UNKNOWN = "unknown"


PKCS11: Final = frozenset({"C_GetFunctionList", "C_GetInterface"})
SKF: Final = frozenset({"SKF_EnumDev", "SKF_ConnectDev", "SKF_OpenApplication"})  # GM/T 0016
CSP: Final = frozenset({"CPAcquireContext", "CardAcquireContext"})  # of a Windows CSP and a minidriver
NAMES: Final = PKCS11 | SKF | CSP


@dataclass(frozen=True, slots=True)
class Image:
    """What a library file contains.

    Attributes:
        format: the file format.
        size: in bytes.
        architectures: its processors, named as :func:`processor` does; several in a fat Mach-O.
        shared: whether it is a library, not a program or an object file.
        needed: the libraries it depends on (DT_NEEDED).
        rpath: folders searched first, also for its dependencies (DT_RPATH).
        runpath: folders searched for its own dependencies only (DT_RUNPATH); disables rpath.
        exports: the names of ``NAMES`` that it exports; None: unknown.
        guessed: whether ``exports`` was found by searching the bytes.
        missing: number of bytes beyond the end of the file that the loader needs.
        missing_tail: number of bytes beyond the end that only debuggers need.
        damage: why its tables could not be parsed; None: they could.
        wants: pairs of library and symbol version that it needs, for example ("libc.so.6", "GLIBC_2.38").
        versions: the symbol versions it defines.
        first_line: the first line of a text file.
    """

    format: Format
    size: int = 0
    architectures: tuple[str, ...] = ()
    shared: bool = True
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    exports: frozenset[str] | None = None
    guessed: bool = False
    missing: int = 0
    missing_tail: int = 0
    damage: str | None = None
    wants: tuple[tuple[str, str], ...] = ()
    versions: frozenset[str] = frozenset()
    first_line: str = ""

    @property
    def whole(self) -> bool:
        """Whether its tables are complete and could be parsed."""
        return not self.missing and self.damage is None
