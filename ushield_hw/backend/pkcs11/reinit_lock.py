"""A lock that allows concurrent calls of a module, or one re-initialisation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ushield_hw.backend.pkcs11.ckr import NUMBERS, CkrError


class ReinitLock:
    """Allows several callers or one re-initialisation: C_Finalize must not run during another call.

    Args:
        initialise: calls C_Initialize. If it fails, the next caller retries it.
    """

    def __init__(self, initialise: Callable[[], None]) -> None:
        self._lock = threading.RLock()  # acquired directly by every call, because a condition is slower
        self._changed = threading.Condition(self._lock)
        self._waiting = False
        self._running = 0
        self._closed = False
        self._initialise = initialise
        self._initialised = True

    @property
    def usable(self) -> bool:
        """Whether the module is initialised and :meth:`close` was not called."""
        return self._initialised and not self._closed

    def __enter__(self) -> None:
        with self._lock:
            if self._closed:
                raise CkrError("C_Finalize", NUMBERS["CRYPTOKI_NOT_INITIALIZED"])
            if not self._initialised:
                self.initialise()
            self._running += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._running -= 1
            if self._waiting and not self._running:
                self._changed.notify_all()

    @contextmanager
    def alone(self, wait_s: float = 0) -> Iterator[bool]:
        """Yield whether no call is running; new calls are blocked inside the block.

        Args:
            wait_s: how long to wait for running calls, in seconds.
        """
        with self._lock:
            self._waiting = True
            try:
                idle = self._changed.wait_for(lambda: self._running == 0, timeout=wait_s)
            finally:
                self._waiting = False
            yield idle

    def initialise(self) -> None:
        """Initialise the module after C_Finalize. Call it only inside :meth:`alone`, when no call is running."""
        self._initialised = False
        self._initialise()
        self._initialised = True

    def close(self) -> None:
        """Refuse all further calls, because the module may be finalised or used by other code from now on."""
        self._closed = True
