"""Protect PINs in memory: no core files, no access by other processes, no PINs in the frames of exceptions.

Python cannot overwrite a string. Instead, a process is hardened before it holds a PIN, and exceptions do not keep the
local variables of the functions that raised them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h


def harden() -> None:
    """Disable core files and debuggers of the same user for this process (Linux: not dumpable).

    Called in the command and in worker processes; a program that uses the library decides for itself. Programs started
    by this process inherit only the core file limit.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def forgetting(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that handles PINs so that its exceptions do not keep them.

    An exception keeps the frames in its traceback, with their local variables, as long as the exception exists.
    """

    @wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> T:
        try:
            return function(*arguments, **named)
        except BaseException as error:
            forget_frames(error)
            raise

    return run


def forget_frames(error: BaseException) -> None:
    """Clear the local variables in the tracebacks of an exception, and of its causes and contexts.

    Args:
        error: the exception.
    """
    import traceback

    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            left += [one.__cause__, one.__context__]
