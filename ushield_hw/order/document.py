"""Order documents as text: strict JSON parsing, and the canonical form (RFC 8785)."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from ushield_hw.errors import InputError

ORDER: Final = "order"  # the place reported for errors of the whole document
DEEPEST: Final = 8

_STRUCTURE: Final = re.compile(r'"(?:[^"\\]+|\\.)*"?|([\[{])|([\]}])', re.DOTALL)


class Pairs(tuple[tuple[str, object], ...]):
    """A JSON object as it appears in the text: key and value pairs, including repeated keys."""

    __slots__ = ()


class Number(str):
    """A JSON number as it appears in the text, including NaN and Infinity. Orders have none; no value is computed."""

    __slots__ = ()


_READER: Final = json.JSONDecoder(object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=Number)
# For objects with ASCII keys and string values, the output is byte for byte the RFC 8785 form.
_WRITER: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def read(data: bytes | str, *, longest: int) -> object:
    """Parse JSON.

    Args:
        data: The document.
        longest: The maximum size in bytes.

    Returns:
        ``Pairs``, list, str, ``Number``, bool or None.

    Raises:
        InputError: ``ORDER_TOO_LARGE``, ``ORDER_NOT_UTF8`` (also for a byte order mark), ``ORDER_TOO_DEEP`` or
            ``ORDER_NOT_JSON``.
    """
    text = _text(data, longest)
    _check_depth(text)
    try:
        return _READER.decode(text)
    except json.JSONDecodeError as wrong:
        raise InputError("ORDER_NOT_JSON", place=ORDER, line=wrong.lineno, column=wrong.colno) from wrong


def canonical(document: dict[str, Any]) -> bytes:
    """Return the canonical form of a document.

    Args:
        document: Keys are ASCII; values are strings or such documents.
    """
    return _WRITER.encode(document).encode()


def decoded(data: bytes, *, longest: int) -> str:
    """Return UTF-8 bytes as text.

    Args:
        data: The bytes.
        longest: The maximum size in bytes.

    Raises:
        InputError: ``ORDER_TOO_LARGE`` or ``ORDER_NOT_UTF8``.
    """
    check_size(data, longest)
    try:
        return _without_mark(data.decode())
    except UnicodeDecodeError as wrong:
        raise InputError("ORDER_NOT_UTF8", place=ORDER, position=wrong.start + 1) from wrong


def check_size(data: bytes | str, longest: int) -> None:
    """Raise an error if data is larger than a limit.

    Args:
        data: Bytes, or text, which counts as its UTF-8 encoding.
        longest: The maximum size in bytes.

    Raises:
        InputError: ``ORDER_TOO_LARGE``.
    """
    size = len(data)
    if isinstance(data, str) and longest // 4 < size <= longest:  # a character has one to four bytes
        size = len(data.encode("utf-8", "surrogatepass"))
    if size > longest:
        raise InputError("ORDER_TOO_LARGE", place=ORDER, size=size, longest=longest)


def _text(data: bytes | str, longest: int) -> str:
    if isinstance(data, bytes):
        return decoded(data, longest=longest)
    check_size(data, longest)
    return _without_mark(data)


def _without_mark(text: str) -> str:
    if text.startswith("\ufeff"):
        raise InputError("ORDER_NOT_UTF8", place=ORDER, position=1)
    return text


def _check_depth(text: str) -> None:
    """Refuse deep nesting before the parser recurses into it. Brackets inside strings are not counted."""
    if text.count("{") + text.count("[") <= DEEPEST:
        return
    depth = 0
    for found in _STRUCTURE.finditer(text):
        if found[1]:
            depth += 1
        elif found[2]:
            depth -= 1
        if depth > DEEPEST:
            raise InputError("ORDER_TOO_DEEP", place=ORDER, deepest=DEEPEST)
