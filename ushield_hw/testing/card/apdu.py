"""Command and response APDUs (ISO/IEC 7816-4), status words, and both kinds of chaining."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_CHAINED: Final = 0x10  # class byte: more command data follows
_SHORT: Final = 256
_EXTENDED: Final = 65536
GET_RESPONSE: Final = 0xC0

OK: Final = 0x9000
MORE: Final = 0x6100  # | number of bytes, 00 for 256 or more
EXECUTION_ERROR: Final = 0x6400
TIMED_OUT: Final = 0x6401  # chosen by this project: OpenSC distinguishes it from a refusal
WRONG_LENGTH: Final = 0x6700
SECURITY_NOT_SATISFIED: Final = 0x6982
PIN_BLOCKED: Final = 0x6983
DATA_INVALID: Final = 0x6984
NOT_SATISFIED: Final = 0x6985  # chosen by this project for a refusal on the token
WRONG_DATA: Final = 0x6A80
FUNCTION_NOT_SUPPORTED: Final = 0x6A81
FILE_NOT_FOUND: Final = 0x6A82
MEMORY_FULL: Final = 0x6A84
WRONG_PARAMETERS: Final = 0x6A86
REFERENCE_NOT_FOUND: Final = 0x6A88
INS_NOT_SUPPORTED: Final = 0x6D00
CLA_NOT_SUPPORTED: Final = 0x6E00
PIN_TRIES: Final = 0x63C0  # | attempts remaining


class Refused(Exception):
    """The card answers a command with a status word other than 9000."""

    def __init__(self, sw: int, data: bytes = b"") -> None:
        super().__init__(f"{sw:04X}")
        self.sw = sw
        self.data = data


@dataclass(frozen=True, slots=True)
class Command:
    """A command APDU, short or extended. ``le``: maximum length of the response data; 0: none."""

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = b""
    le: int = 0

    @property
    def p1p2(self) -> int:
        """P1 and P2 as one number."""
        return self.p1 << 8 | self.p2

    @property
    def chained(self) -> bool:
        """Whether more data of the command follows in the next APDU."""
        return bool(self.cla & _CHAINED)

    @classmethod
    def parse(cls, raw: bytes) -> Command:
        """Parse a command APDU (ISO/IEC 7816-3, section 12.1.3: cases 1 to 4, short and extended).

        Raises:
            Refused: ``WRONG_LENGTH``.
        """
        if len(raw) < 4:
            raise Refused(WRONG_LENGTH)
        cla, ins, p1, p2 = raw[:4]
        data, le = _body(raw[4:])
        return cls(cla, ins, p1, p2, data, le)


def _body(body: bytes) -> tuple[bytes, int]:
    """Return a command's data and the maximum length of the response."""
    if len(body) <= 1:
        return b"", (body[0] or _SHORT) if body else 0
    extended = body[0] == 0 and len(body) > 2
    width, most = (2, _EXTENDED) if extended else (1, _SHORT)
    body = body[1:] if extended else body
    if len(body) == width:
        return b"", int.from_bytes(body, "big") or most
    size = int.from_bytes(body[:width], "big")
    data, tail = body[width : width + size], body[width + size :]
    if len(data) != size or len(tail) not in {0, width}:
        raise Refused(WRONG_LENGTH)
    return data, (int.from_bytes(tail, "big") or most) if tail else 0


class Chaining:
    """Joins chained commands, and splits responses to the requested length (61xx, GET RESPONSE)."""

    def __init__(self) -> None:
        self._coming = b""
        self._rest = b""

    def clear(self) -> None:
        """Clear both buffers, because the card was reset."""
        self._coming = self._rest = b""

    def collect(self, command: Command) -> Command | None:
        """Return the complete command, or None while parts are missing."""
        data, self._coming = self._coming + command.data, b""
        if len(data) > _EXTENDED:
            raise Refused(WRONG_LENGTH)
        if command.chained:
            self._coming = data
            return None
        return Command(command.cla, command.ins, command.p1, command.p2, data, command.le)

    def answer(self, data: bytes, command: Command) -> bytes:
        """Return the requested part of a response with the status word for the rest."""
        most = command.le or _SHORT
        now, self._rest = data[:most], data[most:]
        return now + (MORE | min(len(self._rest), 0xFF) if self._rest else OK).to_bytes(2, "big")

    def more(self, command: Command) -> bytes:
        """Answer GET RESPONSE."""
        if not self._rest:
            raise Refused(NOT_SATISFIED)
        return self.answer(self._rest, command)


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return a BER-TLV object."""
    value = b"".join(parts)
    name = tag.to_bytes((tag.bit_length() + 7) // 8 or 1, "big")
    if len(value) < 0x80:
        return name + bytes((len(value),)) + value
    size = len(value).to_bytes((len(value).bit_length() + 7) // 8, "big")
    return name + bytes((0x80 | len(size),)) + size + value


def tlvs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and value of the BER-TLV objects in ``data``.

    Raises:
        Refused: ``WRONG_DATA``: malformed.
    """
    at = 0
    while at < len(data):
        tag, at = _tag(data, at)
        size, at = _size(data, at)
        if at + size > len(data):
            raise Refused(WRONG_DATA)
        yield tag, data[at : at + size]
        at += size


def _tag(data: bytes, at: int) -> tuple[int, int]:
    tag, at = data[at], at + 1
    if tag & 0x1F == 0x1F:
        while at < len(data):
            tag, at = tag << 8 | data[at], at + 1
            if not data[at - 1] & 0x80:
                return tag, at
        raise Refused(WRONG_DATA)
    return tag, at


def _size(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise Refused(WRONG_DATA)
    size, at = data[at], at + 1
    if size < 0x80:
        return size, at
    width = size & 0x7F
    return int.from_bytes(data[at : at + width], "big"), at + width
