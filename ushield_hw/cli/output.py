"""What is printed: documents and lines to stdout, errors, hints and progress to stderr."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from ushield_hw import messages
from ushield_hw.cli.pin_text import pin_state_text
from ushield_hw.errors import (
    DescriptorError,
    InputError,
    LastTryNotConfirmed,
    PinIncorrect,
    PinLocked,
    StorageError,
    UShieldError,
    jsonable,
)
from ushield_hw.pin_state import PinState

_PATIENCE_S: Final = 1.0


_achieved = False


class StdoutLost(StorageError):
    """Stdout takes no more: its disk is full. There is only stderr left to say so."""

    code = "OUTPUT_NOT_WRITTEN"


def begin() -> None:
    """Begin a command: nothing has been achieved yet."""
    _set_achieved(False)


def achieved() -> None:
    """Say that what the command was asked to do is done and can be found: what fails from now on is only a warning."""
    _set_achieved(True)


def is_achieved() -> bool:
    """Tell whether the command has done what it was asked to do."""
    return _achieved


def _set_achieved(value: bool) -> None:
    global _achieved  # noqa: PLW0603 - one command a process
    _achieved = value


def document(content: Mapping[str, object], *, one_line: bool = False) -> None:
    """Print one JSON document on stdout; valid JSON whatever the locale and the names of files."""
    plain = sys.stdout.encoding.lower() != "utf-8"
    import json  # a person sees none

    text = json.dumps(jsonable(dict(content)), ensure_ascii=plain, indent=None if one_line else 2)
    _write(text.encode("utf-8", "backslashreplace").decode() + "\n")


def speaks_utf8() -> bool:
    """Tell whether stdout takes every character."""
    return sys.stdout.encoding.lower() == "utf-8"


def lines(rows: Iterable[str]) -> None:
    """Print lines on stdout, each made safe for a terminal."""
    for row in rows:
        _write(messages.shown(row) + "\n")


def hint(message_id: str, **values: object) -> None:
    """Say something on stderr."""
    note(messages.text(message_id, **values))


def note(text: str) -> None:
    """Print a finished text on stderr, if there is one that takes it: what fails here changes nothing."""
    if sys.stderr:
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def table(rows: Iterable[tuple[str, object]], indent: str = "") -> list[str]:
    """Return ``label  value`` rows with the values under each other; wide characters count as two columns."""
    found = [(label, messages.shown(value)) for label, value in rows if value not in (None, "")]
    width = max((columns(label) for label, _ in found), default=0)
    return [f"{indent}{label}{' ' * (width - columns(label))}  {value}" for label, value in found]


def columns(text: str) -> int:
    """Return how many columns a terminal takes for a text."""
    import unicodedata

    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def afterwards(error: UShieldError) -> None:
    """Print what failed after the command had done what it was asked to do."""
    note(messages.text("cli.warning", message=error.message))
    hint("cli.result_stands")


def failure(error: UShieldError, *, as_json: bool) -> None:
    """Print an error: its sentence, its code, and what to do; on stderr too where stdout takes no document."""
    if as_json and _printed({"error": error.to_command_json()}):
        return
    note(messages.text("cli.error", message=error.message, code=error.code))
    if place := _file(error):
        note(f"  {place}")
    if known := _pin_known(error):
        note(f"  {known}")
    if error.command_remedy != f"{error.code}.remedy":
        note(messages.text("cli.remedy", remedy=error.command_remedy))


def _file(error: UShieldError) -> str:
    """Return the file that the error is about, where its sentence does not name it."""
    file = messages.shown(error.file or "") if isinstance(error, InputError | DescriptorError) else ""
    return messages.text("cli.in_file", file=file) if file and file not in error.message else ""


def _printed(content: Mapping[str, object]) -> bool:
    try:
        document(content)
        finish()
    except (StdoutLost, BrokenPipeError):
        silence()
        return False
    return True


def _pin_known(error: UShieldError) -> str:
    """Return what is left of the PIN's tries, where the error says."""
    state = error.state if isinstance(error, PinIncorrect | PinLocked | LastTryNotConfirmed) else PinState()
    return "" if state.locked else pin_state_text(state)


@contextmanager
def progress(message_id: str, **values: object) -> Iterator[None]:
    """Say what is going on if it takes more than a second and somebody is watching."""
    if not sys.stderr or not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(_PATIENCE_S, hint, (message_id,), values)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def finish() -> None:
    """Hand everything that was printed to whoever reads it.

    Raises:
        StdoutLost, BrokenPipeError: it cannot be handed over.
    """
    with _stdout():
        sys.stdout.flush()


def silence() -> None:
    """Print nothing any more, at exit either: stdout leads nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(text: str) -> None:
    with _stdout():
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:  # a locale that cannot hold it
            sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))


@contextmanager
def _stdout() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        silence()
        raise StdoutLost(path="stdout", reason=error.strerror) from error
