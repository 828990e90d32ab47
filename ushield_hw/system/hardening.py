"""What keeps a PIN from those who may look at a process: no core file, no other process that reads its memory.

Python cannot overwrite a string. What can be done is done here: the process is closed to others before it holds a PIN,
and errors do not keep what the functions that raised them had in hand.
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
    """Have this process leave no core file, and be closed to debuggers of the same user (Linux: not dumpable).

    For a process of our own: the command and the workers. A program that uses the library decides for itself. Programs
    that this process starts are as they would be otherwise, but leave no core file either.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def forgetting(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function that has PINs in hand: an error that leaves it does not keep them.

    An exception holds the frames it passed through, with their variables, for as long as anyone holds the exception.
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
    """Clear the variables of every function that has ended with this error, or with one that led to it."""
    import traceback

    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            left += [one.__cause__, one.__context__]
