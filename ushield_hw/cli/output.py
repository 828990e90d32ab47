"""Output: documents and lines to stdout; errors, hints and progress to stderr."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from ushield_hw import messages
from ushield_hw.cli.layout import columns
from ushield_hw.cli.pin_text import pin_state_text
from ushield_hw.errors import (
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
    """Stdout cannot be written, for example because its disk is full. Reported on stderr only."""

    code = "OUTPUT_NOT_WRITTEN"


def begin() -> None:
    """Reset the state at the start of a command."""
    _set_achieved(False)


def achieved() -> None:
    """Record that the command has achieved its purpose: errors from now on are only warnings."""
    _set_achieved(True)


def is_achieved() -> bool:
    """Return whether the command has achieved its purpose."""
    return _achieved


def _set_achieved(value: bool) -> None:
    global _achieved  # noqa: PLW0603 - one command a process
    _achieved = value


def document(content: Mapping[str, object], *, one_line: bool = False) -> None:
    """Print a JSON document on stdout; always valid JSON, whatever the locale and file names.

    Args:
        content: the document.
        one_line: print it on one line.
    """
    plain = sys.stdout.encoding.lower() != "utf-8"
    import json  # only needed for JSON output

    text = json.dumps(jsonable(dict(content)), ensure_ascii=plain, indent=None if one_line else 2)
    _write(text.encode("utf-8", "backslashreplace").decode() + "\n")


def speaks_utf8() -> bool:
    """Return whether stdout can encode every character."""
    return sys.stdout.encoding.lower() == "utf-8"


def lines(rows: Iterable[str], *, colour: bool = False) -> None:
    """Print lines on stdout, escaped for a terminal.

    Args:
        rows: the lines.
        colour: they are escaped already and contain control sequences for colour.
    """
    for row in rows:
        _write((row if colour else messages.shown(row)) + "\n")


def hint(message_id: str, **values: object) -> None:
    """Print a message on stderr."""
    note(messages.text(message_id, **values))


def note(text: str) -> None:
    """Print a text on stderr; errors are ignored."""
    if sys.stderr:
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def table(rows: Iterable[tuple[str, object]], indent: str = "") -> list[str]:
    """Return ``label  value`` rows with aligned values; wide characters count as two columns."""
    found = [(label, messages.shown(value)) for label, value in rows if value not in (None, "")]
    width = max((columns(label) for label, _ in found), default=0)
    return [f"{indent}{label}{' ' * (width - columns(label))}  {value}" for label, value in found]


def afterwards(error: UShieldError) -> None:
    """Print an error that occurred after the command had achieved its purpose."""
    note(messages.text("cli.warning", message=error.message))
    hint("cli.result_stands")


def failure(error: UShieldError, *, as_json: bool) -> None:
    """Print an error with its code and remedy; as JSON on stdout if requested and possible, else on stderr."""
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
    """Return the file that the error concerns if its message does not name it."""
    file = messages.shown(error.file or "")
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
    """Return the PIN attempts remaining if the error has them."""
    state = error.state if isinstance(error, PinIncorrect | PinLocked | LastTryNotConfirmed) else PinState()
    return "" if state.locked else pin_state_text(state)


@contextmanager
def progress(message_id: str, **values: object) -> Iterator[None]:
    """Print a progress message if the block takes more than a second and stderr is a terminal."""
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
    """Flush stdout.

    Raises:
        StdoutLost, BrokenPipeError: it cannot be written.
    """
    with _stdout():
        sys.stdout.flush()


def silence() -> None:
    """Redirect stdout to /dev/null, so that nothing is written at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(text: str) -> None:
    with _stdout():
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:  # the locale's encoding lacks a character
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
