"""Sources of PINs on the command line: prompt, a file that only its owner can read, a pipe, or stdin.

Arguments and the environment are not accepted because other users of the machine can read them.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from ushield_hw.errors import InputError, PinFormatError
from ushield_hw.interaction import ConfirmRequest, Interaction, Pin, PinKind, PinRequest, TokenAction
from ushield_hw.system import files, trust
from ushield_hw.system.lazy import cached_property

STDIN: Final = "-"
_LONGEST: Final = 4096
_READ: Final = 0o4
_TYPED_S: Final = 120.0  # seconds; the program that writes to the pipe may prompt its user
_ORDER: Final = (PinKind.USER, PinKind.SO, PinKind.PUK, PinKind.NEW)


@dataclass
class Sources:
    """The PIN sources of a command line by kind of PIN; read when first needed, stdin once and in order.

    Attributes:
        given: file name or ``-`` by kind of PIN.
        person: asked for PINs without a source.
        allow_last_try: whether the command line allows using the last attempt.
    """

    given: dict[PinKind, str]
    person: Interaction
    allow_last_try: bool = False
    _read: dict[str, str] = field(default_factory=dict, repr=False)
    _typed: str | None = field(default=None, repr=False)
    _spent: set[str] = field(default_factory=set, repr=False)  # sources that can only be read once

    def request_pin(self, ask: PinRequest) -> str | None:
        """Return the PIN from its source, else ask the user."""
        kind = PinKind.USER if ask.kind is PinKind.CONTEXT else ask.kind
        source = self.given.get(kind)
        if source is None:
            return self._ask(ask)
        if source in self._spent:
            raise InputError("PIN_MISSING", source=source, n=1)
        return self._stdin[kind] if source == STDIN else self._file(source)

    def _ask(self, ask: PinRequest) -> str | None:
        """Ask the user, except for a context-specific login right after the user login.

        One signature per command: the PIN entered for the user login is reused once for the context-specific login.
        """
        if ask.kind is PinKind.CONTEXT and self._typed is not None:
            typed, self._typed = self._typed, None
            return typed
        pin = self.person.request_pin(ask)
        self._typed = pin if ask.kind is PinKind.USER else None
        return pin

    def confirm_last_try(self, ask: PinRequest) -> bool:
        """Return the consent of the command line, else ask the user, provided that the PIN was entered at a prompt."""
        if self.allow_last_try:
            return True
        return PinKind.USER not in self.given and self.person.confirm_last_try(ask)

    def confirm_order(self, ask: ConfirmRequest) -> bool:
        """Ask the user to confirm."""
        return self.person.confirm_order(ask)

    def compare_on_token(self, ask: ConfirmRequest) -> None:
        """Show the user what the token must show."""
        self.person.compare_on_token(ask)

    def waiting_for_token(self, action: TokenAction) -> None:
        """Tell the user what to do on the token."""
        self.person.waiting_for_token(action)

    def check(self) -> None:
        """Read all sources now, so that an error is reported before the token is accessed.

        Raises:
            InputError: ``PIN_FILE_MODE``, ``PIN_FILE_UNREADABLE``, ``PIN_MISSING``, ``INPUT_TIMED_OUT``.
            PinFormatError: ``PIN_CHARACTERS``.
        """
        for kind, source in self.given.items():
            _ = self._stdin[kind] if source == STDIN else self._file(source)

    def forget(self) -> None:
        """Drop PINs that were entered or read from a pipe, after the last login that needs them.

        A pipe cannot be read again.
        """
        self._spent |= {*self._read, STDIN}
        self._read.clear()
        self._typed = None
        self.__dict__.pop("_stdin", None)

    @cached_property
    def _stdin(self) -> dict[PinKind, str]:
        """The PINs on stdin, one per line, the old PIN first."""
        kinds = [kind for kind in _ORDER if self.given.get(kind) == STDIN]
        rows = _rows(_from_stdin(len(kinds)))
        if len(rows) < len(kinds):
            raise InputError("PIN_MISSING", source="stdin", n=len(kinds))
        return dict(zip(kinds, map(Pin, rows), strict=False))

    def _file(self, name: str) -> str:
        """Return the PIN of a file. A regular file is read every time; only the content of a pipe is kept."""
        if name in self._read:
            return self._read[name]
        with _opened(name, PIN_FILE) as descriptor:
            pin = Pin(_first_line(descriptor, name, PIN_FILE))
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._read[name] = pin
        return pin


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A kind of file with a secret on its first line, with its error codes."""

    mode: str
    unreadable: str
    missing: str


PIN_FILE: Final = SecretFile("PIN_FILE_MODE", "PIN_FILE_UNREADABLE", "PIN_MISSING")
CODE_FILE: Final = SecretFile("CODE_FILE_MODE", "CODE_FILE_UNREADABLE", "CODE_MISSING")


def read_secret(name: str, kind: SecretFile) -> str:
    """Return the first line of a file that only its owner can read.

    Args:
        name: the file.
        kind: determines the error codes.

    Raises:
        InputError: codes of ``kind``: other users can read it, it cannot be read, or it is empty; ``INPUT_TIMED_OUT``.
        PinFormatError: ``PIN_CHARACTERS``: it is not UTF-8.
    """
    with _opened(name, kind) as descriptor:
        return _first_line(descriptor, name, kind)


@contextmanager
def _opened(name: str, kind: SecretFile) -> Iterator[int]:
    try:
        descriptor = files.opened(name)
    except OSError as error:
        raise InputError(kind.unreadable, file=name, reason=error.strerror) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _first_line(descriptor: int, name: str, kind: SecretFile) -> str:
    about = os.fstat(descriptor)
    if _others_read(descriptor, about):
        ours = about.st_uid in {0, os.geteuid()}
        mode = f"{stat.S_IMODE(about.st_mode):o}"
        raise InputError(kind.mode, file=name, mode=mode if ours else f"{mode}, owner {about.st_uid}")
    try:
        data = files.read_opened(descriptor, _LONGEST, lines=1)
    except files.ReadTimeout as error:
        raise InputError("INPUT_TIMED_OUT", file=name, waited_s=round(error.waited_s)) from error
    except OSError as error:
        raise InputError(kind.unreadable, file=name, reason=error.strerror) from error
    rows = _rows(data)
    if not rows or not rows[0]:
        raise InputError(kind.missing, source=name, n=1)
    return rows[0]


def _others_read(descriptor: int, about: os.stat_result) -> bool:
    """Return whether other users can read a file with a secret.

    The owner must be the user or root. A file of root may be readable by its group, like mounted secrets (for the root
    user: if it is not writable), and by the user named in an access control list, like systemd credentials.
    """
    if stat.S_ISCHR(about.st_mode):  # a terminal or /dev/null
        return False
    if about.st_uid not in {0, os.geteuid()} or about.st_mode & stat.S_IRWXO:
        return True
    ours = {0, os.geteuid()}
    mounted = about.st_uid == 0 and (os.geteuid() != 0 or not about.st_mode & stat.S_IWUSR)
    return any(
        grant.number not in ours if grant.is_user else not mounted or grant.bits != _READ
        for grant in trust.grants(descriptor, about)
    )


def _from_stdin(lines: int) -> bytes:
    """Return that many lines of stdin without waiting for its end."""
    if sys.stdin is None:
        return b""
    try:
        return files.read_opened(sys.stdin.fileno(), _LONGEST, _TYPED_S, lines)
    except files.ReadTimeout as error:
        raise InputError("INPUT_TIMED_OUT", file="stdin", waited_s=round(error.waited_s)) from error
    except OSError as error:
        raise InputError("PIN_FILE_UNREADABLE", file="stdin", reason=error.strerror) from error


def _rows(data: bytes) -> list[str]:
    """Return the lines without a byte order mark.

    Raises:
        PinFormatError: ``PIN_CHARACTERS``: not UTF-8; a PIN sent in another encoding would be wrong.
    """
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise PinFormatError("PIN_CHARACTERS", min=None, max=None) from error
