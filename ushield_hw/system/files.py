"""Read files named by the user, with a size limit and a timeout, whatever type of file they are."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from typing import Final

WAIT_S: Final = 30.0
"""Default timeout for reading a pipe to its end, in seconds."""

_ONE_READ: Final = 1 << 20


class ReadTimeout(OSError):
    """A pipe, a terminal or another device did not reach its end before the timeout.

    Args:
        waited_s: the timeout in seconds.
    """

    def __init__(self, waited_s: float) -> None:
        self.waited_s = waited_s
        super().__init__(errno.ETIMEDOUT, f"it did not end within {waited_s:g} s")


def opened(path: str | os.PathLike[str]) -> int:
    """Open a file for reading, without waiting for the writer of a pipe.

    Returns:
        Its descriptor.

    Raises:
        OSError: it cannot be opened, or is a folder or a block device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(kind) or stat.S_ISBLK(kind):
        os.close(descriptor)
        number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
        raise OSError(number, os.strerror(number), str(path))
    return descriptor


def read_opened(descriptor: int, most: int, wait_s: float = WAIT_S, lines: int | None = None) -> bytes:
    """Read a descriptor to its end.

    Args:
        descriptor: open for reading.
        most: size limit in octets; the rest is not read.
        wait_s: timeout for everything, in seconds.
        lines: stop after this number of lines; None: at the end.

    Raises:
        ReadTimeout: the end was not reached before the timeout.
        OSError: reading failed.
    """
    data, until = bytearray(), time.monotonic() + wait_s
    watch = select.poll()
    watch.register(descriptor, select.POLLIN)
    while len(data) < most and (lines is None or data.count(b"\n") < lines):
        left = until - time.monotonic()
        # read() returns end-of-file for a pipe without a writer yet; poll() does not.
        if left <= 0 or not watch.poll(left * 1000):
            raise ReadTimeout(wait_s)
        try:
            part = os.read(descriptor, min(_ONE_READ, most - len(data)))
        except BlockingIOError:  # another process has read the data
            continue
        if not part:
            break
        data += part
    return bytes(data)


def read(path: str | os.PathLike[str], most: int, wait_s: float = WAIT_S) -> bytes:
    """Read a file.

    Args:
        path: the file.
        most: size limit in octets; the rest is not read.
        wait_s: timeout in seconds.

    Raises:
        ReadTimeout, OSError: as for :func:`opened` and :func:`read_opened`.
    """
    descriptor = opened(path)
    try:
        return read_opened(descriptor, most, wait_s)
    finally:
        os.close(descriptor)
