"""What is known of a library file: its format, processors, dependencies and exports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Format(Enum):
    """What kind of file it is."""

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
CSP: Final = frozenset({"CPAcquireContext", "CardAcquireContext"})  # Windows' CSP and minidriver
NAMES: Final = PKCS11 | SKF | CSP


@dataclass(frozen=True, slots=True)
class Image:
    """What a file says of itself.

    Attributes:
        format: what kind of file it is.
        size: in bytes.
        architectures: the processors it is for, named as :func:`processor` does; several in a fat Mach-O.
        shared: it is a library, not a program or an object file.
        needed: the libraries it wants loaded first (DT_NEEDED).
        rpath: where they are looked for first (DT_RPATH), for what they need too.
        runpath: where its own are looked for (DT_RUNPATH); rpath does not count then.
        exports: those of ``NAMES`` that it offers; None: not known.
        guessed: ``exports`` was found by searching the bytes.
        missing: how many bytes its loader wants beyond the end of the file.
        missing_tail: how many bytes only debuggers want beyond the end.
        damage: why its tables could not be read; None: they could.
        wants: (library, symbol version) that it needs, such as ("libc.so.6", "GLIBC_2.38").
        versions: the symbol versions it has to offer.
        first_line: of a text.
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
        """Whether its tables are there and can be read."""
        return not self.missing and self.damage is None
