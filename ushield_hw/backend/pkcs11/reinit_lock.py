"""Who may call a module now: many callers at once, or one that pulls the floor from under them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ushield_hw.backend.pkcs11.ckr import NUMBERS, CkrError


class Gate:
    """Many callers or one re-initialisation, never both: C_Finalize pulls the floor from under a running call.

    Args:
        lay: lays the floor again: C_Initialize. If that fails, whoever comes in next tries it once more.
    """

    def __init__(self, lay: Callable[[], None]) -> None:
        self._lock = threading.RLock()  # taken directly: every call does, and a condition is slower
        self._changed = threading.Condition(self._lock)
        self._waiting = False
        self._inside = 0
        self._shut = False
        self._lay = lay
        self._floor = True

    @property
    def open(self) -> bool:
        """Whether the module is initialised, and still in these hands."""
        return self._floor and not self._shut

    def __enter__(self) -> None:
        with self._lock:
            if self._shut:
                raise CkrError("C_Finalize", NUMBERS["CRYPTOKI_NOT_INITIALIZED"])
            if not self._floor:
                self.lay()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._waiting and not self._inside:
                self._changed.notify_all()

    @contextmanager
    def alone(self, wait_s: float = 0) -> Iterator[bool]:
        """Yield whether nobody else is inside, after waiting for that at most ``wait_s``; hold newcomers back."""
        with self._lock:
            self._waiting = True
            try:
                nobody = self._changed.wait_for(lambda: self._inside == 0, timeout=wait_s)
            finally:
                self._waiting = False
            yield nobody

    def lay(self) -> None:
        """Initialise the module after C_Finalize; only for one who is alone."""
        self._floor = False
        self._lay()
        self._floor = True

    def shut(self) -> None:
        """Let nobody in any more: the module may be in other hands from now on."""
        self._shut = True
