"""Contact pcscd's socket directly, without its client library.

The library only reports that there is no service. This module distinguishes a missing service, one that does not
answer, and one that rejected the library.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Final

from ushield_hw.system.processes import PCSCD_SOCKET, PCSCD_VARIABLE

SOCKET: Final = PCSCD_SOCKET
VARIABLE: Final = PCSCD_VARIABLE
PLACES: Final = (SOCKET, "/var/run/pcscd/pcscd.comm", "/usr/local/var/run/pcscd/pcscd.comm", "/var/run/pcscd.comm")

ABSENT: Final = "absent"  # no socket
DEAF: Final = "deaf"  # a socket without a process
BARRED: Final = "barred"  # the socket's permissions deny access
CLOSED: Final = "closed"  # connection closed at once: pcscd does this if polkit denies access
SILENT: Final = "silent"  # connected, but no answer

_ANSWER_S: Final = 1.0
_HELLO: Final = struct.Struct("=IIiiI")  # size, command, major, minor, result
_VERSION: Final = struct.Struct("=iiI")
_CMD_VERSION: Final = 0x11
_PROTOCOL: Final = (4, 4)


def hail(place: Path) -> str:
    """Contact a socket and return pcscd's protocol version, for example ``4:4``, or one of the constants above.

    Args:
        place: path of the socket.
    """
    try:
        path = place.resolve()  # the path of a Unix socket has a maximum length
        path.lstat()
    except PermissionError:
        return BARRED
    except OSError:
        return ABSENT
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_ANSWER_S)
        try:
            client.connect(str(path))
        except PermissionError:
            return BARRED
        except (BlockingIOError, TimeoutError):  # the backlog is full
            return SILENT
        except OSError:
            return DEAF
        return _protocol(client)


def dangling(place: Path) -> Path | None:
    """Return the dangling symbolic link on the path of a socket, or None."""
    for way in (*reversed(place.parents), place):
        try:
            if way.is_symlink() and not way.exists():
                return way
        except OSError:  # a folder that is not searchable: its content is unknown
            return None
    return None


def _protocol(client: socket.socket) -> str:
    try:
        client.sendall(_HELLO.pack(_VERSION.size, _CMD_VERSION, *_PROTOCOL, 0))
        answer = client.recv(_VERSION.size, socket.MSG_WAITALL)
    except TimeoutError:
        return SILENT
    except OSError:
        return CLOSED
    if len(answer) < _VERSION.size:
        return CLOSED
    major, minor, _ = _VERSION.unpack(answer)
    return f"{major}:{minor}"
