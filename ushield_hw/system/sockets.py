"""List Unix sockets and their peers, through the kernel interface that ``ss -xp`` uses (sock_diag(7)).

``/proc`` shows that a process has a socket, but not its peer.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY, _REQUEST_ALL, _DONE, _ERROR = 20, 0x301, 3, 2
_EVERY_STATE: Final = 0xFFFFFFFF
_SHOW_NAME_AND_PEER: Final = 0x1 | 0x4
_NAME, _PEER = 0, 2
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_QUESTION: Final = struct.Struct("=BBHIIIII")
_SOCKET: Final = struct.Struct("=BBBBIII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ANSWER_S: Final = 1.0
_BUFFER: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """A Unix socket.

    Attributes:
        inode: its inode number.
        name: the path that it is bound to, or that of the listening socket that accepted it.
        peer: inode number of its peer; 0: none.
    """

    inode: int
    name: str
    peer: int


def lines() -> list[Line]:
    """Return the Unix sockets of this network namespace; empty if the kernel does not report them."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
            kernel.settimeout(_ANSWER_S)
            question = _QUESTION.pack(socket.AF_UNIX, 0, 0, _EVERY_STATE, 0, _SHOW_NAME_AND_PEER, 0, 0)
            kernel.send(_HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _REQUEST_ALL, 1, 0) + question)
            return list(_answers(kernel))
    except (OSError, AttributeError, struct.error):  # AttributeError: not Linux
        return []


def _answers(kernel: socket.socket) -> Iterator[Line]:
    while True:
        for kind, body in _split(kernel.recv(_BUFFER), _HEADER):
            if kind in {_DONE, _ERROR}:
                return
            yield _line(body)


def _split(data: bytes, head: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Yield (type, body) of consecutive netlink messages or attributes, each aligned to four bytes."""
    while len(data) >= head.size:
        length, kind = head.unpack_from(data)[:2]
        if length < head.size:
            return
        yield kind, data[head.size : length]
        data = data[(length + 3) & ~3 :]


def _line(body: bytes) -> Line:
    inode = _SOCKET.unpack_from(body)[4]
    said = dict(_split(body[_SOCKET.size :], _ATTRIBUTE))
    peer = said.get(_PEER, b"")
    name = said.get(_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    return Line(inode, name, int.from_bytes(peer, sys.byteorder))
