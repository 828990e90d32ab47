"""PC/SC: readers, their cards, and changes of both. The only module that imports pyscard.

It returns plain data and raises the library's errors. Every call has a timeout, also if the PC/SC service is not
running, ends during the call or does not respond.

pyscard's own monitor is not used: it polls once a second, and its connections power the card down when they are closed,
which ends the logins of all other programs. This module disconnects with SCARD_LEAVE_CARD.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from types import ModuleType
from typing import Any, ClassVar, Final, Self, TypeVar

from ushield_hw.errors import DriverError, TokenBusy, TokenError, TokenRemoved, UShieldError
from ushield_hw.system.limits import limit_reached
from ushield_hw.system.log import LOG

T = TypeVar("T")


DEADLINE_S: Final = 5.0
_SERVICE_S: Final = 3.0  # timeout; a service that works responds in milliseconds
_ANSWERED_S: Final = 0.5  # how long a response of the service is cached
# pcsc-lite reports changes immediately, but a reader that is added between two waits only in the next reader list.
_SLICE_MS: Final = 500
_RETRY_S: Final = 0.2  # a call to a service that is not running costs microseconds
_BREATH_S: Final = 0.1  # pause if waits return immediately without a change
_NEW_READER: Final = "\\\\?PnP?\\Notification"
_LONGEST_ATR: Final = 33
_MOST_READERS: Final = 16  # pcsc-lite's maximum in one query, including the entry for new readers
_COUNTER_SHIFT: Final = 16  # pcsc-lite and Windows count insertions and removals in the upper half of the state
_LIBRARY: Final = "libpcsclite.so.1"  # the name under which pyscard loads it
_NO_LIBRARY: Final = "NO_LIBRARY"
_NO_ANSWER: Final = "NO_ANSWER"

# PC/SC return code -> error class and code; all others are PCSC_FAILED.
_ERRORS: Final[dict[str, tuple[type[UShieldError], str]]] = {
    _NO_LIBRARY: (DriverError, "PCSC_NO_LIBRARY"),
    _NO_ANSWER: (DriverError, "PCSC_NO_ANSWER"),
    "SCARD_E_NO_SERVICE": (DriverError, "PCSC_NO_SERVICE"),
    "SCARD_E_SERVICE_STOPPED": (DriverError, "PCSC_NO_SERVICE"),
    "SCARD_F_COMM_ERROR": (DriverError, "PCSC_NO_SERVICE"),
    "SCARD_E_NO_ACCESS": (DriverError, "PCSC_REFUSED"),
    "SCARD_W_SECURITY_VIOLATION": (DriverError, "PCSC_REFUSED"),
    "SCARD_E_SHARING_VIOLATION": (TokenBusy, "CARD_BUSY"),
    "SCARD_E_NO_SMARTCARD": (TokenRemoved, "CARD_ABSENT"),
    "SCARD_W_REMOVED_CARD": (TokenRemoved, "CARD_ABSENT"),
    "SCARD_E_READER_UNAVAILABLE": (TokenRemoved, "READER_GONE"),
    "SCARD_E_UNKNOWN_READER": (TokenRemoved, "READER_GONE"),
    "SCARD_W_UNPOWERED_CARD": (TokenError, "CARD_MUTE"),
    "SCARD_W_UNRESPONSIVE_CARD": (TokenError, "CARD_MUTE"),
    "SCARD_W_UNSUPPORTED_CARD": (TokenError, "CARD_MUTE"),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A PC/SC call that failed.

    Attributes:
        function: the function.
        name: name of the return code; ``NO_LIBRARY`` if no call could be made, ``NO_ANSWER`` if it did not return.
        number: the return code, unsigned; 0 if there is none.
    """

    function: str
    name: str
    number: int = 0

    def error(self, **details: object) -> UShieldError:
        """Return the library's error for it, with function, name and number in the details.

        Args:
            **details: further details.
        """
        kind, code = _ERRORS.get(self.name, (DriverError, "PCSC_FAILED"))
        return kind(code, function=self.function, name=self.name, number=f"0x{self.number:08X}", **details)


class Slot(Enum):
    """State of a reader."""

    EMPTY = "empty"
    CARD = "card"
    MUTE = "mute"  # a card that does not respond: inserted upside down, dirty, or not a supported card
    UNAVAILABLE = "unavailable"  # the reader itself cannot be queried


@dataclass(frozen=True, slots=True)
class Reader:
    """The current state of a reader. Two are equal if no card was inserted, removed or locked in between.

    Attributes:
        name: its name in PC/SC. Untrusted: it may contain any text.
        slot: state of the reader.
        atr: the card's ATR; empty without a card.
        exclusive: a program holds the card exclusively.
        in_use: a program is connected to the card.
        changes: number of insertions and removals counted by PC/SC.
    """

    name: str
    slot: Slot
    atr: bytes = b""
    exclusive: bool = False
    in_use: bool = field(default=False, compare=False)
    changes: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """All readers, or the reason why they cannot be listed.

    Attributes:
        readers: the readers in PC/SC's order.
        failure: why PC/SC cannot be used; None: it can.
        era: number of connections made to the service so far; ``changes`` of different eras cannot be compared.
    """

    readers: tuple[Reader, ...] = ()
    failure: Failure | None = None
    era: int = 0


@dataclass(frozen=True, slots=True)
class Contact:
    """A card to which a connection was made. ``protocol``: T=0, T=1 or raw."""

    atr: bytes
    protocol: str


def readers(deadline_s: float = DEADLINE_S) -> tuple[Reader, ...]:
    """Return the current state of every reader; empty if there are none.

    Args:
        deadline_s: timeout in seconds.

    Raises:
        DriverError: ``PCSC_NO_SERVICE``, ``PCSC_REFUSED``, ``PCSC_NO_ANSWER``, ``PCSC_NO_LIBRARY``, ``PCSC_FAILED``.
            The details contain the function and PC/SC's return code.
    """

    def look() -> tuple[Reader, ...]:
        with _context() as context:
            return _readers(_states(context, {}, 0))

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
        lambda: _contact(reader, hold_s, enough or threading.Event()),
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


def held(patience_s: float, own: Collection[str] = (), *, anew: bool = False) -> tuple[str, ...]:
    """Return the readers whose card another program holds exclusively and does not release before a timeout.

    A transaction of one program blocks all others, also in SCardConnect, and PC/SC has no timeout for that. Therefore
    one thread for each such reader waits, and later calls for the same reader reuse it while it is waiting.

    Args:
        patience_s: timeout in seconds.
        own: readers whose card this process holds.
        anew: count the timeout from now; otherwise from the time when the thread started to wait.
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
        thread.join(max(0.0, (now if anew else since) + patience_s - time.monotonic()))
    waiting = {name for name, (thread, _) in waits.items() if thread.is_alive()}
    return tuple(
        reader.name for reader in seen if reader.name not in own and (reader.exclusive or reader.name in waiting)
    )


def _waits_for(reader: str) -> tuple[threading.Thread, float]:
    """Return the thread that waits for the card in a reader, and its start time; start it if necessary."""

    def wait() -> None:
        with suppress(_CallFailed), _context() as context:
            scard = _scard()
            protocols = scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
            card, _ = _call("SCardConnect", context, reader, scard.SCARD_SHARE_SHARED, protocols)
            try:
                if scard.SCardBeginTransaction(card) == scard.SCARD_S_SUCCESS:
                    scard.SCardEndTransaction(card, scard.SCARD_LEAVE_CARD)
            finally:
                scard.SCardDisconnect(card, scard.SCARD_LEAVE_CARD)

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
        self._scene = Scene(failure=Failure("SCardEstablishContext", _NO_ANSWER))
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="readers", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def scene(self) -> Scene:
        """The most recent state."""
        return self._scene

    def wait(self, known: Scene | None = None, timeout_s: float | None = None) -> Scene:
        """Wait until the state differs from ``known``.

        Args:
            known: the state known to the caller; None: wait for the first state.
            timeout_s: timeout in seconds; None: wait until there is a change or the monitor is closed.

        Returns:
            The current state; equal to ``known`` if the timeout expired or the monitor was closed.
        """
        with self._changed:
            known = known or Scene(failure=Failure("SCardEstablishContext", _NO_ANSWER))
            self._changed.wait_for(lambda: self._closed.is_set() or self._scene != known, timeout_s)
            return self._scene

    def close(self) -> None:
        """Stop watching and end every wait immediately. Idempotent; may be called from any thread."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()

    def _run(self) -> None:
        era = 0
        while not self._closed.is_set():
            try:
                with _context() as context:
                    era += 1
                    self._follow(context, era)
            except _CallFailed as failed:
                self._show(Scene((), failed.failure, era))
            self._closed.wait(_RETRY_S)

    def _follow(self, context: Any, era: int) -> None:
        """Publish every change until a call fails or the monitor is closed."""
        known: dict[str, int] = {}
        while not self._closed.is_set():
            asked_at = time.monotonic()
            try:
                states = _states(context, known, _SLICE_MS if known else 0)
            except _CallFailed as failed:
                if failed.failure.name != "SCARD_E_UNKNOWN_READER":
                    raise
                known = {}  # a reader was removed after it was listed
                continue
            now = {name: event for name, event, _ in states}
            self._show(Scene(_readers(states), None, era))
            if now == known and time.monotonic() - asked_at < _BREATH_S:
                self._closed.wait(_BREATH_S)
            known = now

    def _show(self, scene: Scene) -> None:
        with self._changed:
            if scene.failure and scene.failure != self._scene.failure:
                LOG.info("PC/SC: %s: %s", scene.failure.function, scene.failure.name)
            if scene != self._scene:
                self._scene = scene
                self._changed.notify_all()


class _CallFailed(Exception):
    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.name)


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
    found = answer[0] if answer else _CallFailed(Failure(function, _NO_ANSWER))
    if isinstance(found, _CallFailed):
        raise found.failure.error(**details) from found
    if isinstance(found, BaseException):
        raise found
    return found


def _contact(reader: str, hold_s: float, enough: threading.Event) -> Contact:
    scard = _scard()
    with _context() as context:
        protocols = scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
        card, _ = _call("SCardConnect", context, reader, scard.SCARD_SHARE_SHARED, protocols)
        try:
            _, _, protocol, atr = _call("SCardStatus", card)
            until = time.monotonic() + hold_s
            while time.monotonic() < until and not enough.wait(_BREATH_S):
                _call("SCardStatus", card)
        finally:
            scard.SCardDisconnect(card, scard.SCARD_LEAVE_CARD)
    names = {scard.SCARD_PROTOCOL_T0: "T=0", scard.SCARD_PROTOCOL_T1: "T=1"}
    return Contact(bytes(atr), names.get(protocol, "raw"))


def _states(context: Any, known: dict[str, int], timeout_ms: int) -> list[tuple[str, int, bytes]]:
    """Return (name, state, ATR) of all readers and of the entry for new readers, after a change from ``known``."""
    found = list(dict.fromkeys(_names(context)))  # queries are by name: of two readers with one name, the first is used
    names = [name for name in found if name.isascii() or sys.platform == "linux"]
    if len(names) < _MOST_READERS:
        names.append(_NEW_READER)
    wanted = [(name, known.get(name, 0)) for name in names]
    plain = all(name.isascii() for name in names)
    ask = _scard().SCardGetStatusChange if plain else _status_change
    rv, states = ask(context, timeout_ms, wanted)
    failure = _failure("SCardGetStatusChange", rv)
    if failure is not None and failure.name != "SCARD_E_TIMEOUT":
        raise _CallFailed(failure)
    changed = _scard().SCARD_STATE_CHANGED
    told = [(name, event & ~changed, bytes(atr)) for name, event, atr in states]
    unasked = [name for name in found if name not in names]
    return told + [(name, _scard().SCARD_STATE_UNAVAILABLE, b"") for name in unasked]


class _State(ctypes.Structure):
    """SCARD_READERSTATE of pcsc-lite."""

    _fields_: ClassVar = [
        ("reader", ctypes.c_char_p),
        ("user_data", ctypes.c_void_p),
        ("current", ctypes.c_ulong),
        ("event", ctypes.c_ulong),
        ("atr_length", ctypes.c_ulong),
        ("atr", ctypes.c_ubyte * _LONGEST_ATR),
    ]


def _status_change(
    context: int, timeout_ms: int, wanted: Sequence[tuple[str, int]]
) -> tuple[int, list[tuple[str, int, bytes]]]:
    """Call SCardGetStatusChange of pcsc-lite directly; pyscard's function takes only ASCII names."""
    states = (_State * len(wanted))()
    for state, (name, current) in zip(states, wanted, strict=True):
        state.reader, state.current = name.encode("utf-8", "surrogateescape"), current
    rv = _library().SCardGetStatusChange(context, timeout_ms, states, len(wanted))
    told = zip(wanted, states, strict=True)
    return rv, [(name, state.event, bytes(state.atr[: state.atr_length])) for (name, _), state in told]


@cache
def _library() -> ctypes.CDLL:
    """Return the PC/SC library, the same one that pyscard has loaded."""
    found = ctypes.CDLL(_LIBRARY)
    arguments: list[Any] = [ctypes.c_long, ctypes.c_ulong, ctypes.POINTER(_State), ctypes.c_ulong]
    found.SCardGetStatusChange.argtypes, found.SCardGetStatusChange.restype = arguments, ctypes.c_long
    return found


def _names(context: Any) -> Sequence[str]:
    rv, names = _scard().SCardListReaders(context, [])
    failure = _failure("SCardListReaders", rv)
    if failure is None:
        return names  # type: ignore[no-any-return]
    if failure.name == "SCARD_E_NO_READERS_AVAILABLE":
        return ()
    raise _CallFailed(failure)


def _readers(states: Sequence[tuple[str, int, bytes]]) -> tuple[Reader, ...]:
    return tuple(_reader(*state) for state in states if state[0] != _NEW_READER)


def _reader(name: str, event: int, atr: bytes) -> Reader:
    scard = _scard()

    def has(flag: str) -> bool:
        return bool(event & getattr(scard, f"SCARD_STATE_{flag}"))

    if has("UNAVAILABLE") or has("UNKNOWN"):
        slot = Slot.UNAVAILABLE
    elif has("MUTE"):
        slot = Slot.MUTE
    else:
        slot = Slot.CARD if has("PRESENT") else Slot.EMPTY
    return Reader(name, slot, atr, has("EXCLUSIVE"), has("INUSE"), event >> _COUNTER_SHIFT)


@contextmanager
def _context() -> Iterator[Any]:
    (context,) = _call("SCardEstablishContext", _scard().SCARD_SCOPE_USER)
    try:
        yield context
    finally:
        _scard().SCardReleaseContext(context)


def _call(function: str, *arguments: Any) -> list[Any]:
    answer: list[Any]
    rv, *answer = getattr(_scard(), function)(*arguments)
    failure = _failure(function, rv)
    if failure is not None:
        raise _CallFailed(failure)
    return answer


def _failure(function: str, rv: int) -> Failure | None:
    number = rv & 0xFFFFFFFF
    return Failure(function, _error_names().get(number, f"0x{number:08X}"), number) if number else None


@cache
def _error_names() -> dict[int, str]:
    """Return the names of PC/SC's return codes by number, from pyscard's constants."""
    scard = _scard()
    names = [name for name in vars(scard) if name.startswith(("SCARD_E_", "SCARD_W_", "SCARD_F_"))]
    return {getattr(scard, name) & 0xFFFFFFFF: name for name in sorted(names, reverse=True)}


@cache
def _scard() -> ModuleType:
    """Return pyscard's low-level module, imported at first use.

    The PC/SC library is loaded first, because without it pyscard prints to stdout and then reports a missing service.
    """
    try:
        if sys.platform == "linux":
            ctypes.CDLL(_LIBRARY)
        import smartcard.scard
    except (ImportError, OSError) as error:
        raise _CallFailed(Failure("dlopen", _NO_LIBRARY)) from error
    return smartcard.scard  # type: ignore[no-any-return]
