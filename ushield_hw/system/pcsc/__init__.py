"""PC/SC: readers, their cards, and changes of both.

It returns plain data and raises the library's errors. Every call has a timeout, also if the PC/SC service is not
running, ends during the call or does not respond.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from ushield_hw.errors import UShieldError
from ushield_hw.system.limits import limit_reached
from ushield_hw.system.log import LOG
from ushield_hw.system.pcsc import winscard
from ushield_hw.system.pcsc.winscard import EXTRA, NO_ANSWER, NO_PYSCARD, Contact, Failure, Reader, Slot, is_installed

__all__ = [
    "DEADLINE_S",
    "EXTRA",
    "NO_PYSCARD",
    "Contact",
    "Failure",
    "Monitor",
    "Reader",
    "ReaderList",
    "Slot",
    "answers",
    "contact",
    "held",
    "is_installed",
    "readers",
]

T = TypeVar("T")

DEADLINE_S: Final = 5.0
_SERVICE_S: Final = 3.0  # timeout; a service that works responds in milliseconds
_ANSWERED_S: Final = 0.5  # how long a response of the service is cached
# pcsc-lite reports changes immediately, but a reader that is added between two waits only in the next reader list.
_SLICE_MS: Final = 500
_RETRY_S: Final = 0.2  # a call to a service that is not running costs microseconds
_PAUSE_S: Final = 0.1  # pause if waits return immediately without a change


@dataclass(frozen=True, slots=True)
class ReaderList:
    """All readers, or the reason why they cannot be listed.

    Attributes:
        readers: the readers in PC/SC's order.
        failure: why PC/SC cannot be used; None: it can.
        era: number of connections made to the service so far; ``changes`` of different eras cannot be compared.
    """

    readers: tuple[Reader, ...] = ()
    failure: Failure | None = None
    era: int = 0


def readers(deadline_s: float = DEADLINE_S) -> tuple[Reader, ...]:
    """Return the current state of every reader; empty if there are none.

    Args:
        deadline_s: timeout in seconds.

    Raises:
        DriverError: ``PCSC_NO_SERVICE``, ``PCSC_REFUSED``, ``PCSC_NO_ANSWER``, ``PCSC_NO_LIBRARY``,
            ``PCSC_NO_PYSCARD``, ``PCSC_FAILED``.
            The details contain the function and PC/SC's return code.
    """

    def look() -> tuple[Reader, ...]:
        with winscard.context() as service:
            return winscard.readers(winscard.states(service, {}, 0))

    return _within(deadline_s, look, "SCardGetStatusChange")


def contact(
    reader: str, deadline_s: float = DEADLINE_S, hold_s: float = 0.0, enough: threading.Event | None = None
) -> Contact:
    """Connect to the card in a reader in shared mode, and disconnect without changing its state.

    Args:
        reader: the reader's name.
        deadline_s: timeout in seconds.
        hold_s: how long to stay connected, in seconds; fails if the card is reset or removed meanwhile.
        enough: set it to disconnect earlier.

    Raises:
        TokenBusy: ``CARD_BUSY``: a program holds the card exclusively.
        TokenRemoved: ``CARD_ABSENT``, ``READER_GONE``.
        TokenError: ``CARD_MUTE``.
        DriverError: as for :func:`readers`.
    """
    return _within(
        deadline_s + hold_s,
        lambda: winscard.contact(reader, hold_s, enough or threading.Event()),
        "SCardConnect",
        reader=reader,
    )


_service: Final[list[tuple[float, UShieldError | None]]] = []  # time and result of the last query
_service_lock = threading.Lock()


def answers() -> None:
    """Check that the PC/SC service does not hang; a module that calls a service that hangs blocks forever.

    Returns if the service responds or is not running. The result is cached for a short time, for all threads.

    Raises:
        DriverError: ``PCSC_NO_ANSWER``.
    """
    with _service_lock:
        if not _service or time.monotonic() - _service[-1][0] > (_SERVICE_S if _service[-1][1] else _ANSWERED_S):
            error = _no_answer()
            _service[:] = [(time.monotonic(), error)]  # time after the query, so that waiting threads use the result
        error = _service[-1][1]
    if error is not None:
        raise error


def _no_answer() -> UShieldError | None:
    try:
        readers(_SERVICE_S)
    except UShieldError as error:
        return error if error.code == "PCSC_NO_ANSWER" else None
    return None


_asking: Final[dict[str, tuple[threading.Thread, float]]] = {}  # reader -> thread that waits for its card, start time
_asking_lock = threading.Lock()


def held(timeout_s: float, own: Collection[str] = (), *, from_now: bool = False) -> tuple[str, ...]:
    """Return the readers whose card another program holds exclusively and does not release before a timeout.

    A transaction of one program blocks all others, also in SCardConnect, and PC/SC has no timeout for that. Therefore
    one thread for each such reader waits, and later calls for the same reader reuse it while it is waiting.

    Args:
        timeout_s: timeout in seconds.
        own: readers whose card this process holds.
        from_now: count the timeout from now; otherwise from the time when the thread started to wait.
    """
    try:
        seen = readers(_SERVICE_S)
    except UShieldError:
        return ()
    try:
        waits = {reader.name: _waits_for(reader.name) for reader in seen if reader.in_use and reader.name not in own}
    except RuntimeError:  # can't start new thread
        return ()
    now = time.monotonic()
    for thread, since in waits.values():
        thread.join(max(0.0, (now if from_now else since) + timeout_s - time.monotonic()))
    waiting = {name for name, (thread, _) in waits.items() if thread.is_alive()}
    return tuple(
        reader.name for reader in seen if reader.name not in own and (reader.exclusive or reader.name in waiting)
    )


def _waits_for(reader: str) -> tuple[threading.Thread, float]:
    """Return the thread that waits for the card in a reader, and its start time; start it if necessary."""

    def wait() -> None:
        with suppress(winscard.CallFailed):
            winscard.wait_for_card(reader)

    with _asking_lock:
        known = _asking.get(reader)
        if known is not None and known[0].is_alive():
            return known
        thread = threading.Thread(target=wait, name="card in use", daemon=True)
        thread.start()
        found = _asking[reader] = thread, time.monotonic()
        return found


def _after_fork() -> None:
    """Reset locks and threads in a forked child, where the parent's threads do not exist."""
    global _asking_lock, _service_lock
    _asking_lock, _service_lock = threading.Lock(), threading.Lock()
    _asking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Monitor:
    """Watches all readers. Close it, or use it as a context manager. Thread-safe.

    PC/SC is called in a separate thread, so that only this thread blocks if the service stops responding.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._current = ReaderList(failure=Failure("SCardEstablishContext", NO_ANSWER))
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="readers", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def reader_list(self) -> ReaderList:
        """The most recent state."""
        return self._current

    def wait(self, known: ReaderList | None = None, timeout_s: float | None = None) -> ReaderList:
        """Wait until the state differs from ``known``.

        Args:
            known: the state known to the caller; None: wait for the first state.
            timeout_s: timeout in seconds; None: wait until there is a change or the monitor is closed.

        Returns:
            The current state; equal to ``known`` if the timeout expired or the monitor was closed.
        """
        with self._changed:
            known = known or ReaderList(failure=Failure("SCardEstablishContext", NO_ANSWER))
            self._changed.wait_for(lambda: self._closed.is_set() or self._current != known, timeout_s)
            return self._current

    def close(self) -> None:
        """Stop watching and end every wait immediately. Idempotent; may be called from any thread."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()

    def _run(self) -> None:
        era = 0
        while not self._closed.is_set():
            try:
                with winscard.context() as context:
                    era += 1
                    self._follow(context, era)
            except winscard.CallFailed as failed:
                self._show(ReaderList((), failed.failure, era))
            self._closed.wait(_RETRY_S)

    def _follow(self, context: Any, era: int) -> None:
        """Publish every change until a call fails or the monitor is closed."""
        known: dict[str, int] = {}
        while not self._closed.is_set():
            asked_at = time.monotonic()
            try:
                states = winscard.states(context, known, _SLICE_MS if known else 0)
            except winscard.CallFailed as failed:
                if failed.failure.name != "SCARD_E_UNKNOWN_READER":
                    raise
                known = {}  # a reader was removed after it was listed
                continue
            now = {name: event for name, event, _ in states}
            self._show(ReaderList(winscard.readers(states), None, era))
            if now == known and time.monotonic() - asked_at < _PAUSE_S:
                self._closed.wait(_PAUSE_S)
            known = now

    def _show(self, reader_list: ReaderList) -> None:
        with self._changed:
            if reader_list.failure and reader_list.failure != self._current.failure:
                LOG.info("PC/SC: %s: %s", reader_list.failure.function, reader_list.failure.name)
            if reader_list != self._current:
                self._current = reader_list
                self._changed.notify_all()


def _within(deadline_s: float, call: Callable[[], T], function: str, **details: object) -> T:
    """Run PC/SC calls in a thread, which is abandoned if it does not return before the timeout."""
    answer: list[T | BaseException] = []

    def run() -> None:
        try:
            answer.append(call())
        except BaseException as error:
            answer.append(error)

    thread = threading.Thread(target=run, name="PC/SC call", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # can't start new thread
        raise limit_reached(error) or error from error
    thread.join(deadline_s)
    found = answer[0] if answer else winscard.CallFailed(Failure(function, NO_ANSWER))
    if isinstance(found, winscard.CallFailed):
        raise found.failure.error(**details) from found
    if isinstance(found, BaseException):
        raise found
    return found
