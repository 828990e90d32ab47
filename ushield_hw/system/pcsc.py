"""PC/SC: which readers there are, what is in them, and what changes. The only file that imports pyscard.

What crosses the edge is plain data and this library's errors. Without a service, or with one that dies in the middle or
does not answer, there are answers too: no call here waits longer than it was told to.

pyscard's own monitor is not used: it looks once a second, and its connections power the card down when they are closed,
which ends the logins of every other program. Here cards are left as they are.
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
_SERVICE_S: Final = 3.0  # a service that answers does so in milliseconds
_ANSWERED_S: Final = 0.5  # so long it is taken to go on answering
# pcsc-lite tells changes at once; but a reader that comes between two waits is seen only by the next list of readers.
_SLICE_MS: Final = 500
_RETRY_S: Final = 0.2  # asking a service that is not there costs microseconds
_BREATH_S: Final = 0.1  # should waits end at once, again and again, without a change
_NEW_READER: Final = "\\\\?PnP?\\Notification"
_LONGEST_ATR: Final = 33
_MOST_READERS: Final = 16  # pcsc-lite has no more, and refuses a question about more, that for new ones included
_COUNTER_SHIFT: Final = 16  # pcsc-lite and Windows count a reader's insertions and removals in the upper half
_LIBRARY: Final = "libpcsclite.so.1"  # the name that pyscard opens
_NO_LIBRARY: Final = "NO_LIBRARY"
_NO_ANSWER: Final = "NO_ANSWER"

# PC/SC's name -> error and code; everything else is PCSC_FAILED.
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
        function: the call.
        name: PC/SC's name of what it returned; ``NO_LIBRARY``, ``NO_ANSWER`` where no call could be made or none came
            back.
        number: what it returned, unsigned; 0 without one.
    """

    function: str
    name: str
    number: int = 0

    def error(self, **details: object) -> UShieldError:
        """Return it as an error of this library, with function, name and number among the details."""
        kind, code = _ERRORS.get(self.name, (DriverError, "PCSC_FAILED"))
        return kind(code, function=self.function, name=self.name, number=f"0x{self.number:08X}", **details)


class Slot(Enum):
    """What is in a reader."""

    EMPTY = "empty"
    CARD = "card"
    MUTE = "mute"  # a card that does not answer: upside down, dirty, or no card of this kind
    UNAVAILABLE = "unavailable"  # the reader itself cannot be asked


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader as it is now. Two are equal when nothing has come, gone or been locked in between.

    Attributes:
        name: as PC/SC gives it. Untrusted: it may say anything.
        slot: what is in it.
        atr: what the card answered to the reset; empty without a card.
        exclusive: a program keeps the card to itself.
        in_use: a program is connected to the card.
        changes: how often PC/SC saw something come or go here.
    """

    name: str
    slot: Slot
    atr: bytes = b""
    exclusive: bool = False
    in_use: bool = field(default=False, compare=False)
    changes: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """Every reader, or why none can be seen.

    Attributes:
        readers: in PC/SC's order.
        failure: why PC/SC cannot be asked; None: it can.
        era: how often a connection to the service was made; what was counted in another era cannot be compared.
    """

    readers: tuple[Reader, ...] = ()
    failure: Failure | None = None
    era: int = 0


@dataclass(frozen=True, slots=True)
class Contact:
    """A card that could be connected to. ``protocol``: T=0, T=1 or raw."""

    atr: bytes
    protocol: str


def readers(deadline_s: float = DEADLINE_S) -> tuple[Reader, ...]:
    """Return every reader as it is now; none is no error.

    Raises:
        DriverError: ``PCSC_NO_SERVICE``, ``PCSC_REFUSED``, ``PCSC_NO_ANSWER``, ``PCSC_NO_LIBRARY``, ``PCSC_FAILED``.
            The details name the call and PC/SC's own error.
    """

    def look() -> tuple[Reader, ...]:
        with _context() as context:
            return _readers(_states(context, {}, 0))

    return _within(deadline_s, look, "SCardGetStatusChange")


def contact(
    reader: str, deadline_s: float = DEADLINE_S, hold_s: float = 0.0, enough: threading.Event | None = None
) -> Contact:
    """Connect to the card in a reader beside whoever else uses it, and leave it as it was.

    Args:
        reader: the reader's name.
        deadline_s: how long to wait for an answer.
        hold_s: how long to stay connected; a card that is reset or pulled out meanwhile is an error that says so.
        enough: ends the hold early when it is set.

    Raises:
        TokenBusy: ``CARD_BUSY``: a program keeps it to itself.
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


_service: Final[list[tuple[float, UShieldError | None]]] = []  # when it was asked last, and what came of it
_service_lock = threading.Lock()


def answers() -> None:
    """Return at once where PC/SC answers or is not there; a module that asks one that hangs waits without an end.

    Asked by several threads, or again within a few seconds, it looks once.

    Raises:
        DriverError: ``PCSC_NO_ANSWER``.
    """
    with _service_lock:
        if not _service or time.monotonic() - _service[-1][0] > (_SERVICE_S if _service[-1][1] else _ANSWERED_S):
            error = _no_answer()
            _service[:] = [(time.monotonic(), error)]  # counted from now: who has waited for it meanwhile does not ask
        error = _service[-1][1]
    if error is not None:
        raise error


def _no_answer() -> UShieldError | None:
    try:
        readers(_SERVICE_S)
    except UShieldError as error:
        return error if error.code == "PCSC_NO_ANSWER" else None
    return None


_asking: Final[dict[str, tuple[threading.Thread, float]]] = {}  # and since when
_asking_lock = threading.Lock()


def held(patience_s: float, own: Collection[str] = (), *, anew: bool = False) -> tuple[str, ...]:
    """Return the readers whose card another program keeps to itself, after waiting at most so long for it to let go.

    A program that has begun a transaction makes every other one wait, in SCardConnect too, and PC/SC has no deadline
    for that. So a thread waits there for each such reader, and is found there again when the reader is asked for again.

    Args:
        patience_s: how long to wait.
        own: readers whose card this program itself keeps.
        anew: wait so long from now on, also for a card that was waited for before in vain.
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
    """Return the thread that waits for the card in a reader, and since when it does."""

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
    """In a forked child: its parent's threads are not there."""
    global _asking_lock, _service_lock
    _asking_lock, _service_lock = threading.Lock(), threading.Lock()
    _asking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Monitor:
    """Watches every reader. Close it, or use it as a context manager; safe to use from several threads.

    A thread of its own asks PC/SC, so that a service that stops answering keeps nobody: only that thread.
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
        """What was seen last."""
        return self._scene

    def wait(self, known: Scene | None = None, timeout_s: float | None = None) -> Scene:
        """Return what is there as soon as it is something else than ``known``.

        Args:
            known: what the caller knows; None: wait only for PC/SC's first answer.
            timeout_s: how long to wait at most; None: until there is a change or the monitor is closed.

        Returns:
            What is there; it equals ``known`` when the time is over or the monitor was closed.
        """
        with self._changed:
            known = known or Scene(failure=Failure("SCardEstablishContext", _NO_ANSWER))
            self._changed.wait_for(lambda: self._closed.is_set() or self._scene != known, timeout_s)
            return self._scene

    def close(self) -> None:
        """End every wait at once. May be called twice, and from any thread."""
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
        """Show every change until a call fails or the monitor is closed."""
        known: dict[str, int] = {}
        while not self._closed.is_set():
            asked_at = time.monotonic()
            try:
                states = _states(context, known, _SLICE_MS if known else 0)
            except _CallFailed as failed:
                if failed.failure.name != "SCARD_E_UNKNOWN_READER":
                    raise
                known = {}  # it went between the list and the question
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
    """Run PC/SC calls in a thread: one that waits for a service that hangs can only be left behind."""
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
    """Return (name, state, ATR) of every reader and of the question for new ones, once something differs from known."""
    found = list(dict.fromkeys(_names(context)))  # PC/SC asks by name: of two readers of one name the first answers
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
    """As pyscard's function, which takes ASCII names only, with pcsc-lite's own function."""
    states = (_State * len(wanted))()
    for state, (name, current) in zip(states, wanted, strict=True):
        state.reader, state.current = name.encode("utf-8", "surrogateescape"), current
    rv = _library().SCardGetStatusChange(context, timeout_ms, states, len(wanted))
    told = zip(wanted, states, strict=True)
    return rv, [(name, state.event, bytes(state.atr[: state.atr_length])) for (name, _), state in told]


@cache
def _library() -> ctypes.CDLL:
    """Return PC/SC's own library: the one that pyscard has loaded."""
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
    """Return PC/SC's names by number, from pyscard's own list."""
    scard = _scard()
    names = [name for name in vars(scard) if name.startswith(("SCARD_E_", "SCARD_W_", "SCARD_F_"))]
    return {getattr(scard, name) & 0xFFFFFFFF: name for name in sorted(names, reverse=True)}


@cache
def _scard() -> ModuleType:
    """Return pyscard's raw functions, imported when first needed.

    Without PC/SC's own library pyscard prints that on stdout and then says that there is no service.
    """
    try:
        if sys.platform == "linux":
            ctypes.CDLL(_LIBRARY)
        import smartcard.scard
    except (ImportError, OSError) as error:
        raise _CallFailed(Failure("dlopen", _NO_LIBRARY)) from error
    return smartcard.scard  # type: ignore[no-any-return]
