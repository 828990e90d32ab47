"""Decode the strings of a token: every byte string becomes text that can be displayed and typed again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

_HIDDEN: Final = frozenset(
    {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
)  # control characters, direction marks, and characters without a glyph
_PLAIN: Final = re.compile(rb"[\x20-\x7e]*")
_ESCAPE: Final = re.compile(rb"\\x(?=[0-9a-f]{2})")


def label(raw: bytes) -> str:
    """Return a label: blank-padded, ends at the first NUL.

    Decoded as UTF-8, as the standard requires; else as GB18030, which the tools of bank tokens write, if the whole
    string is printable text then; other octets become ``\\x`` and two hex digits.

    Args:
        raw: the octets of the field.
    """
    raw = raw.partition(b"\0")[0].rstrip(b" ")
    return _escaped(raw) if _is_utf8(raw) else _as_gb18030(raw) or _escaped(raw)


def serial(raw: bytes) -> str:
    """Return a serial number: padded with blanks or NULs. Different octets before the padding give different text.

    Args:
        raw: the octets of the field.
    """
    return _escaped(raw.rstrip(b" \0"))


def _is_utf8(raw: bytes) -> bool:
    """Return whether octets are UTF-8, possibly with the last character truncated by the field's length."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return "unexpected end" in error.reason and not raw[: error.start].isascii()
    return True


def _as_gb18030(raw: bytes) -> str | None:
    try:
        text = raw.decode("gb18030")
    except UnicodeDecodeError:
        return None
    return text if _shows(text) and not _ESCAPE.search(raw) and text.encode("gb18030") == raw else None


def _shows(text: str) -> bool:
    return not any(unicodedata.category(character) in _HIDDEN for character in text)


def _escaped(raw: bytes) -> str:
    """Return octets as text; existing escape sequences are escaped too, so that the result is unambiguous."""
    if _PLAIN.fullmatch(raw) and not _ESCAPE.search(raw):  # the usual case
        return raw.decode("ascii")
    raw = _ESCAPE.sub(rb"\\x5cx", raw)
    return "".join(_pieces(raw))


def _pieces(raw: bytes) -> Iterator[str]:
    while raw:
        try:
            text, raw = raw.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            text, bad, raw = raw[: error.start].decode("utf-8"), raw[error.start : error.end], raw[error.end :]
            yield from _visible(text)
            yield _hex(bad)
        else:
            yield from _visible(text)


def _visible(text: str) -> Iterator[str]:
    for character in text:
        yield _hex(character.encode()) if unicodedata.category(character) in _HIDDEN else character


def _hex(octets: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in octets)
