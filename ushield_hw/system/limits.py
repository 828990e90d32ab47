"""Recognise errors caused by operating system limits, so that they are not reported as driver or token errors."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, TypeVar

from ushield_hw.errors import DriverError

S = TypeVar("S")
T = TypeVar("T")

# errno -> name of the limit and id of its message (``problem.limit_*``).
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
# The dynamic loader returns only text, no errno.
_LOADER_SAYS: Final = {"Cannot allocate memory": errno.ENOMEM, "Too many open files": errno.EMFILE}


def limit_reached(error: BaseException) -> DriverError | None:
    """Return an error that names the limit that an exception is about; None: it is not about a limit.

    Args:
        error: an ``OSError`` of a call that needs processes, files or memory, a ``MemoryError``, or the
            ``RuntimeError`` of a thread that could not be started.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    elif isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        number = errno.EAGAIN
    return of_errno(number or 0)


def of_errno(number: int) -> DriverError | None:
    """Return the error for an errno that stands for a limit; None: it does not."""
    if number not in _LIMITS:
        return None
    limit, problem = _LIMITS[number]
    return DriverError("SYSTEM_LIMIT", limit=limit, problem=problem, errno=errno.errorcode[number])


def of_loader(text: str) -> DriverError | None:
    """Return the error for a message of the dynamic loader that is about a limit; None: it is not."""
    return next((of_errno(number) for words, number in _LOADER_SAYS.items() if words in text), None)


def side_by_side(do: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """Call a function for each item concurrently, as far as threads can be started.

    Args:
        do: the function.
        items: its arguments.

    Returns:
        The results in the order of the items.
    """
    results: list[Future[T]] = [Future() for _ in items]

    def run(item: S, result: Future[T]) -> None:
        try:
            result.set_result(do(item))
        except BaseException as error:
            result.set_exception(error)

    for item, result in zip(items, results, strict=True):
        try:
            threading.Thread(target=run, args=(item, result), daemon=True).start()
        except RuntimeError:  # can't start new thread
            run(item, result)
    return [result.result() for result in results]
