"""Counts the signature calls in progress, so that a program can wait for them before it exits on a signal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final


class UnderWay:
    """Counter of the C_Sign calls in progress; a call ends when it returns or is abandoned."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._own = threading.local()

    def __enter__(self) -> None:
        with self._changed:
            self._own.made = self.made() + 1
            self._count += 1

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def made(self) -> int:
        """Return the number of calls that this thread has started so far."""
        made: int = getattr(self._own, "made", 0)
        return made

    def any(self) -> bool:
        """Return whether a call of any thread is in progress."""
        return self._count > 0

    def over_within(self, seconds: float) -> bool:
        """Wait until no call is in progress.

        Args:
            seconds: timeout.

        Returns:
            False if the timeout expired first.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, seconds)

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Return whether a call is in progress; no call starts or ends inside the block."""
        with self._changed:
            yield self._count > 0


SIGNATURES: Final = UnderWay()
"""The signature calls of this process."""
