"""Which signatures of this process are under way: what a program must know before it ends at a signal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final


class UnderWay:
    """Counts calls of C_Sign, from before a module is asked until it has answered or is given up."""

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
        """Return how many calls this thread has begun so far."""
        made: int = getattr(self._own, "made", 0)
        return made

    def any(self) -> bool:
        """Tell whether a call of any thread is under way."""
        return self._count > 0

    def over_within(self, seconds: float) -> bool:
        """Wait until no call is under way; return whether that is so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, seconds)

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Tell whether a call is under way; none begins or ends while the block runs."""
        with self._changed:
            yield self._count > 0


SIGNATURES: Final = UnderWay()
"""Those of this process."""
