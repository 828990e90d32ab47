"""What the operating system refused: named as what it is, so that no driver or token is blamed for it."""

from __future__ import annotations

import errno
from typing import Final

from ushield_hw.errors import DriverError

# errno -> the limit's name and the id of its text (``problem.limit_*``).
_LIMITS: Final[dict[int, tuple[str, str]]] = {
    errno.EAGAIN: ("RLIMIT_NPROC", "limit_processes"),
    errno.EMFILE: ("RLIMIT_NOFILE", "limit_files"),
    errno.ENFILE: ("fs.file-max", "limit_files"),
    errno.ENOMEM: ("RLIMIT_AS", "limit_memory"),
    errno.ENOSPC: ("TMPDIR", "limit_space"),
    errno.EDQUOT: ("TMPDIR", "limit_space"),
    errno.EROFS: ("TMPDIR", "limit_space"),
    errno.EPERM: ("seccomp", "limit_sandbox"),
    errno.EACCES: ("seccomp", "limit_sandbox"),
    errno.ENOSYS: ("seccomp", "limit_sandbox"),
}
_NO_THREAD: Final = "can't start new thread"
# How the dynamic loader says the same: it keeps no errno.
_LOADER_SAYS: Final = {"Cannot allocate memory": errno.ENOMEM, "Too many open files": errno.EMFILE}


def limit_reached(error: BaseException) -> DriverError | None:
    """Return what an exception says of this process's limits; None: it is about something else.

    Args:
        error: an ``OSError`` of a call that takes processes, files or memory, a ``MemoryError``, or the
            ``RuntimeError`` of a thread that could not be started.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    elif isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        number = errno.EAGAIN
    return of_errno(number or 0)


def of_errno(number: int) -> DriverError | None:
    """Return the error for an errno that stands for a limit; None: it stands for something else."""
    if number not in _LIMITS:
        return None
    limit, problem = _LIMITS[number]
    return DriverError("SYSTEM_LIMIT", limit=limit, problem=problem, errno=errno.errorcode[number])


def of_loader(text: str) -> DriverError | None:
    """Return the error for what the dynamic loader said of a file, if that was about a limit."""
    return next((of_errno(number) for words, number in _LOADER_SAYS.items() if words in text), None)
