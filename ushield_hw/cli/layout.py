"""Layout of text in a terminal: width in columns, wrapping, colour."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from datetime import datetime

# Units that are not broken: words, and each wide character with punctuation that must not begin or end a line.
_PIECES: Final = re.compile(r"\s+|[（“‘「《【]*(?:[!-~]+|[^\s!-~])[，。；：、！？）”’」》】]*")
_STYLES: Final = {"good": "32", "warning": "33", "bad": "31", "strong": "1", "faint": "2"}


def columns(text: str) -> int:
    """Return the number of terminal columns of a text."""
    import unicodedata

    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def padded(text: str, width: int) -> str:
    """Return a text with spaces up to a width in columns."""
    return text + " " * max(0, width - columns(text))


def folded(text: str, width: int, indent: str = "") -> Iterator[str]:
    """Yield a text wrapped to a width; a piece wider than a line is not broken.

    Args:
        text: one line of text; leading spaces are kept.
        width: the width in columns.
        indent: what each line but the first begins with.
    """
    line = ""
    for piece in _PIECES.findall(text):
        if line.strip() and not piece.isspace() and columns(line + piece) > width:
            yield line.rstrip()
            line = indent
        line += "" if piece.isspace() and line == indent and indent else piece
    yield line.rstrip()


def local_time(moment: datetime) -> str:
    """Return a time in the local time zone with its offset; empty if the zone is UTC.

    Args:
        moment: a timezone-aware time.
    """
    here = moment.astimezone()
    return f"{here:%Y-%m-%d %H:%M:%S} UTC{here.isoformat()[-6:]}" if here.utcoffset() else ""


def coloured(stream: TextIO | None) -> bool:
    """Return whether colour is to be used on a stream.

    ``NO_COLOR`` turns it off, ``FORCE_COLOR`` turns it on also where the stream is not a terminal (no-color.org,
    force-color.org); an empty variable counts as not set.

    Args:
        stream: stdout or stderr.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def painted(text: str, style: str) -> str:
    """Return a text with the control sequences of a style (ECMA-48 SGR).

    Args:
        text: the text, already escaped for a terminal.
        style: ``good``, ``warning``, ``bad``, ``strong`` or ``faint``.
    """
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if text else text
