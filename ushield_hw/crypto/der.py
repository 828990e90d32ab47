"""The subset of DER that signed orders need: a minimal writer and a strict reader.

Implemented here for speed: reading a signed order takes a fraction of the time of its signature check, and signing does
not import a library for it. The reader supports single-octet tags and definite, minimal lengths; it refuses everything
else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
UTF8_STRING: Final = 0x0C
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

_LONG_FORM: Final = 0x80


class DerError(Exception):
    """The bytes do not have the expected form. ``problem`` is a short id."""

    def __init__(self, problem: str) -> None:
        self.problem = problem


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return an element.

    Args:
        tag: The tag.
        *parts: The content, which is concatenated.
    """
    content = b"".join(parts)
    return head(tag, len(content)) + content


def head(tag: int, size: int) -> bytes:
    """Return tag and length of an element.

    Args:
        tag: The tag.
        size: The length of the content in octets.
    """
    return _TAGS[tag] + (_LENGTHS[size] if size < len(_LENGTHS) else _length(size))


def heads(size: int, *tags: int) -> bytes:
    """Return the heads of nested elements.

    Args:
        size: The length of the content of the innermost element, in octets.
        *tags: The tags, outermost first.
    """
    found = b""
    for tag in reversed(tags):
        found = head(tag, size + len(found)) + found
    return found


def _length(size: int) -> bytes:
    if size < _LONG_FORM:
        return bytes((size,))
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((_LONG_FORM | len(octets),)) + octets


# Precomputed: a signed order has about a dozen elements, nearly all of them short.
_TAGS: Final = tuple(bytes((tag,)) for tag in range(256))
_LENGTHS: Final = tuple(_length(size) for size in range(2048))
_INTEGERS: Final = tuple(bytes((INTEGER, size)) for size in range(_LONG_FORM))


def set_of(elements: Iterable[bytes], tag: int = SET) -> bytes:
    """Return a SET OF, sorted as DER requires.

    Sorting by octets is sufficient: two complete elements differ before either of them ends.

    Args:
        elements: The complete elements.
        tag: The tag.
    """
    return tlv(tag, *sorted(elements))


def integer(value: int) -> bytes:
    """Return an INTEGER for a non-negative value."""
    size = value.bit_length() // 8 + 1
    return (_INTEGERS[size] if size < _LONG_FORM else head(INTEGER, size)) + value.to_bytes(size, "big")


def oid(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER.

    Args:
        dotted: The dotted form, such as ``1.2.840.113549.1.7.1``.
    """
    first, second, *arcs = (int(arc) for arc in dotted.split("."))
    return tlv(OID, *(_base128(arc) for arc in (40 * first + second, *arcs)))


def _base128(arc: int) -> bytes:
    octets = [arc & 0x7F]
    while arc := arc >> 7:
        octets.append(0x80 | arc & 0x7F)
    return bytes(reversed(octets))


class Reader:
    """Reads the elements of a part of ``data``, one by one.

    Every method takes the ``problem`` to raise if the data does not have the expected form.

    Args:
        data: The bytes that contain the part.
        at: The start of the part.
        end: The end of the part; default: the end of ``data``.

    Raises:
        DerError: From every method: ``problem``; ``not_der`` for a length that is indefinite or not minimal;
            ``overrun`` for a length that exceeds the part.
    """

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = at
        self._end = len(data) if end is None else end

    def enter(self, tag: int, problem: str) -> Reader:
        """Return a reader for the content of the next element, and advance."""
        start, self._at = self._bounds(tag, problem)
        return Reader(self._data, start, self._at)

    def content(self, tag: int, problem: str) -> bytes:
        """Return the content of the next element, and advance."""
        start, self._at = self._bounds(tag, problem)
        return self._data[start : self._at]

    def element(self, tag: int, problem: str) -> bytes:
        """Return the next element, complete, and advance."""
        begin = self._at
        _, self._at = self._bounds(tag, problem)
        return self._data[begin : self._at]

    def any(self, problem: str) -> tuple[int, bytes]:
        """Return tag and content of the next element of any type, and advance."""
        if self._at >= self._end:
            raise DerError(problem)
        tag = self._data[self._at]
        return tag, self.content(tag, problem)

    def elements(self, tag: int, problem: str) -> list[bytes]:
        """Return all remaining elements, complete."""
        found = []
        while self._at < self._end:
            found.append(self.element(tag, problem))
        return found

    def constant(self, expected: bytes, problem: str) -> None:
        """Check that the next bytes are ``expected``, and advance."""
        if not self._data.startswith(expected, self._at, self._end):
            raise DerError(problem)
        self._at += len(expected)

    def integer(self, problem: str) -> int:
        """Return the next INTEGER, minimal and not negative, and advance."""
        octets = self.content(INTEGER, problem)
        if not octets or octets[0] & 0x80 or (octets[0] == 0 and octets[1:2] < b"\x80" and len(octets) > 1):
            raise DerError(problem)
        return int.from_bytes(octets, "big")

    def sees(self, tag: int) -> bool:
        """Tell whether the next element has ``tag``."""
        return self._at < self._end and self._data[self._at] == tag

    def rest(self) -> bytes:
        """Return the remaining bytes without advancing."""
        return self._data[self._at : self._end]

    def close(self, problem: str) -> None:
        """Raise an error if there are remaining bytes."""
        if self._at != self._end:
            raise DerError(problem)

    def _bounds(self, tag: int, problem: str) -> tuple[int, int]:
        data, at, end = self._data, self._at, self._end
        if at >= end or data[at] != tag:
            raise DerError(problem)
        start = at + 2
        if start > end:
            raise DerError("overrun")
        size = data[at + 1]
        if size >= _LONG_FORM:
            octets = data[start : start + size - _LONG_FORM]  # empty for the indefinite form
            start += size - _LONG_FORM
            size = int.from_bytes(octets, "big")
            if size < _LONG_FORM or octets[0] == 0:
                raise DerError("not_der")
        stop = start + size
        if stop > end:
            raise DerError("overrun")
        return start, stop
