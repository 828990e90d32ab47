"""Where PINs come from on the command line: a prompt, a file that only its owner can read, a pipe, or stdin.

Never an argument's value and never the environment: both can be read by others on the machine.
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
_TYPED_S: Final = 120.0  # another program's person may have to type it
_ORDER: Final = (PinKind.USER, PinKind.SO, PinKind.PUK, PinKind.NEW)


@dataclass
class Sources:
    """The sources given on a command line, by kind of PIN; read when first needed, stdin once and in order.

    Attributes:
        given: kind -> file name, or ``-``.
        person: asked for what no source gives.
        allow_last_try: the consent that was given on the command line.
    """

    given: dict[PinKind, str]
    person: Interaction
    allow_last_try: bool = False
    _read: dict[str, str] = field(default_factory=dict, repr=False)
    _typed: str | None = field(default=None, repr=False)
    _spent: set[str] = field(default_factory=set, repr=False)  # sources that can be read but once

    def request_pin(self, ask: PinRequest) -> str | None:
        """Return the PIN of a source, else ask the person."""
        kind = PinKind.USER if ask.kind is PinKind.CONTEXT else ask.kind
        source = self.given.get(kind)
        if source is None:
            return self._ask(ask)
        if source in self._spent:
            raise InputError("PIN_MISSING", source=source, n=1)
        return self._stdin[kind] if source == STDIN else self._file(source)

    def _ask(self, ask: PinRequest) -> str | None:
        """Ask the person, once for the one signature of a command: the PIN they have just typed was meant for it."""
        if ask.kind is PinKind.CONTEXT and self._typed is not None:
            typed, self._typed = self._typed, None
            return typed
        pin = self.person.request_pin(ask)
        self._typed = pin if ask.kind is PinKind.USER else None
        return pin

    def confirm_last_try(self, ask: PinRequest) -> bool:
        """Return the consent of the command line, else ask the person who typed the PIN."""
        if self.allow_last_try:
            return True
        return PinKind.USER not in self.given and self.person.confirm_last_try(ask)

    def confirm_order(self, ask: ConfirmRequest) -> bool:
        """Ask the person."""
        return self.person.confirm_order(ask)

    def compare_on_token(self, ask: ConfirmRequest) -> None:
        """Tell the person."""
        self.person.compare_on_token(ask)

    def waiting_for_token(self, action: TokenAction) -> None:
        """Tell the person."""
        self.person.waiting_for_token(action)

    def check(self) -> None:
        """Read every source now, so that a wrong one is found before the token is asked for anything.

        Raises:
            InputError: ``PIN_FILE_MODE``, ``PIN_FILE_UNREADABLE``, ``PIN_MISSING``, ``INPUT_TIMED_OUT``.
            PinFormatError: ``PIN_CHARACTERS``.
        """
        for kind, source in self.given.items():
            _ = self._stdin[kind] if source == STDIN else self._file(source)

    def forget(self) -> None:
        """Drop what was typed or came through a pipe: no further login needs it. A pipe gives no other."""
        self._spent |= {*self._read, STDIN}
        self._read.clear()
        self._typed = None
        self.__dict__.pop("_stdin", None)

    @cached_property
    def _stdin(self) -> dict[PinKind, str]:
        """The PINs on stdin: a line each, the old one first."""
        kinds = [kind for kind in _ORDER if self.given.get(kind) == STDIN]
        rows = _rows(_from_stdin(len(kinds)))
        if len(rows) < len(kinds):
            raise InputError("PIN_MISSING", source="stdin", n=len(kinds))
        return dict(zip(kinds, map(Pin, rows), strict=False))

    def _file(self, name: str) -> str:
        """Return the PIN of a file. It is read again whenever it is needed; only what a pipe gave is kept."""
        if name in self._read:
            return self._read[name]
        with _opened(name, PIN_FILE) as descriptor:
            pin = Pin(_first_line(descriptor, name, PIN_FILE))
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._read[name] = pin
        return pin


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A kind of file with a secret on its first line; the codes of what can be wrong with it."""

    mode: str
    unreadable: str
    missing: str


PIN_FILE: Final = SecretFile("PIN_FILE_MODE", "PIN_FILE_UNREADABLE", "PIN_MISSING")
CODE_FILE: Final = SecretFile("CODE_FILE_MODE", "CODE_FILE_UNREADABLE", "CODE_MISSING")


def read_secret(name: str, kind: SecretFile) -> str:
    """Return the first line of a file that only its owner can read.

    Raises:
        InputError: the codes of ``kind``: others may read it, it cannot be read, it is empty; ``INPUT_TIMED_OUT``.
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
    except files.Silent as error:
        raise InputError("INPUT_TIMED_OUT", file=name, waited_s=round(error.waited_s)) from error
    except OSError as error:
        raise InputError(kind.unreadable, file=name, reason=error.strerror) from error
    rows = _rows(data)
    if not rows or not rows[0]:
        raise InputError(kind.missing, source=name, n=1)
    return rows[0]


def _others_read(descriptor: int, about: os.stat_result) -> bool:
    """Tell whether others may open a file with a secret.

    It belongs to the user or to root. A file of root's may be read by its group, as mounted secrets are (for root:
    one that nobody may write), and by the user whom an access control list names, as systemd's credentials are.
    """
    if stat.S_ISCHR(about.st_mode):  # a terminal, /dev/null
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
    """Return what stdin gives: so many lines, though its other end stays open."""
    if sys.stdin is None:
        return b""
    try:
        return files.read_opened(sys.stdin.fileno(), _LONGEST, _TYPED_S, lines)
    except files.Silent as error:
        raise InputError("INPUT_TIMED_OUT", file="stdin", waited_s=round(error.waited_s)) from error
    except OSError as error:
        raise InputError("PIN_FILE_UNREADABLE", file="stdin", reason=error.strerror) from error


def _rows(data: bytes) -> list[str]:
    """Return the lines; an editor's byte order mark is no part of a PIN.

    Raises:
        PinFormatError: ``PIN_CHARACTERS``: sent in any other encoding, the PIN could only be wrong.
    """
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise PinFormatError("PIN_CHARACTERS", min=None, max=None) from error
