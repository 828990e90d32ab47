"""Files that a person names: read whole, bounded, and never waited for without end, whatever they turn out to be."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from typing import Final

WAIT_S: Final = 30.0
"""How long a pipe may take to give everything, if nothing else is said."""

_ONE_READ: Final = 1 << 20


class Silent(OSError):
    """A pipe, a terminal or another device did not end in time. ``waited_s``: how long it was given."""

    def __init__(self, waited_s: float) -> None:
        self.waited_s = waited_s
        super().__init__(errno.ETIMEDOUT, f"it did not end within {waited_s:g} s")


def opened(path: str | os.PathLike[str]) -> int:
    """Open a file for reading, without waiting for the other end of a pipe; return its descriptor.

    Raises:
        OSError: as the system says; a folder and a block device are refused.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(kind) or stat.S_ISBLK(kind):
        os.close(descriptor)
        number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
        raise OSError(number, os.strerror(number), str(path))
    return descriptor


def read_opened(descriptor: int, most: int, wait_s: float = WAIT_S, lines: int | None = None) -> bytes:
    """Return what a descriptor gives until its end.

    Args:
        descriptor: open for reading.
        most: octets; what comes after them is not read.
        wait_s: how long it may take altogether.
        lines: stop after so many lines, where the end may be long in coming.

    Raises:
        Silent: it did not end in time.
        OSError: as the system says.
    """
    data, until = bytearray(), time.monotonic() + wait_s
    watch = select.poll()
    watch.register(descriptor, select.POLLIN)
    while len(data) < most and (lines is None or data.count(b"\n") < lines):
        left = until - time.monotonic()
        # A pipe that nobody has opened for writing yet reads as ended, and is not: poll() knows the difference.
        if left <= 0 or not watch.poll(left * 1000):
            raise Silent(wait_s)
        try:
            part = os.read(descriptor, min(_ONE_READ, most - len(data)))
        except BlockingIOError:  # another process was faster
            continue
        if not part:
            break
        data += part
    return bytes(data)


def read(path: str | os.PathLike[str], most: int, wait_s: float = WAIT_S) -> bytes:
    """Return what a file holds, ``most`` octets of it at most.

    Raises:
        Silent, OSError: as :func:`opened` and :func:`read_opened`.
    """
    descriptor = opened(path)
    try:
        return read_opened(descriptor, most, wait_s)
    finally:
        os.close(descriptor)
