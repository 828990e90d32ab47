"""Knocking at pcscd's socket, without its library.

A program that asks through the library only hears that there is no service. Whether nobody is there, somebody does not
answer, or somebody answers and turned this very library away, is told apart here.
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
DEAF: Final = "deaf"  # a socket, and nobody behind it
BARRED: Final = "barred"  # the socket's permissions keep us out
CLOSED: Final = "closed"  # somebody hangs up at once: that is how pcscd says that polkit does not allow it
SILENT: Final = "silent"  # somebody is there and does not answer

_ANSWER_S: Final = 1.0
_HELLO: Final = struct.Struct("=IIiiI")  # size, command, major, minor, result
_VERSION: Final = struct.Struct("=iiI")
_CMD_VERSION: Final = 0x11
_PROTOCOL: Final = (4, 4)


def hail(place: Path) -> str:
    """Knock at a socket: return the protocol that pcscd speaks there, such as ``4:4``, or one of the words above."""
    try:
        path = place.resolve()  # a socket's path has to be short
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
        except (BlockingIOError, TimeoutError):  # as many as may wait already do
            return SILENT
        except OSError:
            return DEAF
        return _protocol(client)


def dangling(place: Path) -> Path | None:
    """Return the link on the way to a socket that leads nowhere; None: there is none."""
    for way in (*reversed(place.parents), place):
        try:
            if way.is_symlink() and not way.exists():
                return way
        except OSError:  # a closed folder: what is in it is not known
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
