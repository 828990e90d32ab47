"""Where PINs come from on the command line: a prompt, a file that only its owner can read, or stdin.

Never an argument's value and never the environment: both can be read by others on the machine.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from ushield_hw.errors import InputError, PinFormatError
from ushield_hw.interaction import ConfirmRequest, Interaction, PinKind, PinRequest, TokenAction

STDIN: Final = "-"
_LONGEST: Final = 4096
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

    def request_pin(self, ask: PinRequest) -> str | None:
        """Return the PIN of a source, else ask the person."""
        kind = PinKind.USER if ask.kind is PinKind.CONTEXT else ask.kind
        source = self.given.get(kind)
        if source is None:
            return self._ask(ask)
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
            InputError: ``PIN_FILE_MODE``, ``PIN_FILE_UNREADABLE``, ``PIN_MISSING``.
            PinFormatError: ``PIN_CHARACTERS``.
        """
        for kind, source in self.given.items():
            _ = self._stdin[kind] if source == STDIN else self._file(source)

    @cached_property
    def _stdin(self) -> dict[PinKind, str]:
        """The PINs on stdin: a line each, the old one first."""
        kinds = [kind for kind in _ORDER if self.given.get(kind) == STDIN]
        rows = _rows(sys.stdin.buffer.read(_LONGEST) if sys.stdin else b"")
        if len(rows) < len(kinds):
            raise InputError("PIN_MISSING", source="stdin", n=len(kinds))
        return dict(zip(kinds, rows, strict=False))

    def _file(self, name: str) -> str:
        if name not in self._read:
            self._read[name] = read_pin_file(name)
        return self._read[name]


def read_pin_file(name: str) -> str:
    """Return the first line of a PIN file.

    Raises:
        InputError: ``PIN_FILE_MODE``: others may read it; ``PIN_FILE_UNREADABLE``; ``PIN_MISSING``: it is empty.
        PinFormatError: ``PIN_CHARACTERS``: it is not UTF-8.
    """
    try:
        with open(name, "rb") as file:
            about = os.fstat(file.fileno())
            if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO) and stat.S_ISREG(about.st_mode):
                raise InputError("PIN_FILE_MODE", file=name, mode=f"{stat.S_IMODE(about.st_mode):o}")
            data = file.read(_LONGEST)
    except OSError as error:
        raise InputError("PIN_FILE_UNREADABLE", file=name, reason=error.strerror) from error
    rows = _rows(data)
    if not rows or not rows[0]:
        raise InputError("PIN_MISSING", source=name, n=1)
    return rows[0]


def _rows(data: bytes) -> list[str]:
    """Return the lines; an editor's byte order mark is no part of a PIN.

    Raises:
        PinFormatError: ``PIN_CHARACTERS``: sent in any other encoding, the PIN could only be wrong.
    """
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise PinFormatError("PIN_CHARACTERS", min=None, max=None) from error
