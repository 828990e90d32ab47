"""The calls of the PC/SC API (winscard) through pyscard, with plain data as results.

The only module that imports pyscard. Its calls block; the package runs them in threads.

pyscard's own monitor is not used: it polls once a second, and its connections power the card down when they are closed,
which ends the logins of all other programs. This module disconnects with SCARD_LEAVE_CARD.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar, Final

from ushield_hw.errors import DriverError, TokenBusy, TokenError, TokenRemoved, UShieldError
from ushield_hw.system import installation

EXTRA: Final = "pcsc"
"""The extra of the project that installs pyscard."""

NO_ANSWER: Final = "NO_ANSWER"
NO_PYSCARD: Final = "NO_PYSCARD"
_NO_LIBRARY: Final = "NO_LIBRARY"
_LIBRARY: Final = "libpcsclite.so.1"  # the name under which pyscard loads it
_NEW_READER: Final = "\\\\?PnP?\\Notification"
_LONGEST_ATR: Final = 33
_MOST_READERS: Final = 16  # pcsc-lite's maximum in one query, including the entry for new readers
_COUNTER_SHIFT: Final = 16  # pcsc-lite and Windows count insertions and removals in the upper half of the state
_CHECK_S: Final = 0.1  # pause between two checks of a card to which a connection is held

# PC/SC return code -> error class and code; all others are PCSC_FAILED.
_ERRORS: Final[dict[str, tuple[type[UShieldError], str]]] = {
    NO_PYSCARD: (DriverError, "PCSC_NO_PYSCARD"),
    _NO_LIBRARY: (DriverError, "PCSC_NO_LIBRARY"),
    NO_ANSWER: (DriverError, "PCSC_NO_ANSWER"),
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
        name: name of the return code; ``NO_PYSCARD`` or ``NO_LIBRARY`` if no call could be made, ``NO_ANSWER`` if it
            did not return.
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
        if self.name == NO_PYSCARD:
            details["install"] = installation.command_for(EXTRA)
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
class Contact:
    """A card to which a connection was made. ``protocol``: T=0, T=1 or raw."""

    atr: bytes
    protocol: str


@cache
def is_installed() -> bool:
    """Return whether pyscard is installed, without importing it. It is an extra where it has no wheel."""
    return find_spec("smartcard") is not None


class CallFailed(Exception):
    """A PC/SC call failed; ``failure`` says which and why."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.name)


def contact(reader: str, hold_s: float, enough: threading.Event) -> Contact:
    """Connect to the card in a reader and stay connected for a time.

    Args:
        reader: the reader's name.
        hold_s: how long to stay connected, in seconds.
        enough: set it to disconnect earlier.

    Raises:
        CallFailed: a call failed; also if the card is reset or removed meanwhile.
    """
    with context() as service, connected(service, reader) as card:
        _, _, protocol, atr = call("SCardStatus", card)
        until = time.monotonic() + hold_s
        while time.monotonic() < until and not enough.wait(_CHECK_S):
            call("SCardStatus", card)
    names = {_scard().SCARD_PROTOCOL_T0: "T=0", _scard().SCARD_PROTOCOL_T1: "T=1"}
    return Contact(bytes(atr), names.get(protocol, "raw"))


def wait_for_card(reader: str) -> None:
    """Wait, without a timeout, until no other program holds the card in a reader.

    Raises:
        CallFailed: the card cannot be reached.
    """
    scard = _scard()
    with context() as service, connected(service, reader) as card:
        if scard.SCardBeginTransaction(card) == scard.SCARD_S_SUCCESS:
            scard.SCardEndTransaction(card, scard.SCARD_LEAVE_CARD)


@contextmanager
def connected(service: Any, reader: str) -> Iterator[Any]:
    """Connect to the card in a reader in shared mode; yield its handle.

    Raises:
        CallFailed: the connection cannot be made.
    """
    scard = _scard()
    protocols = scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
    card, _ = call("SCardConnect", service, reader, scard.SCARD_SHARE_SHARED, protocols)
    try:
        yield card
    finally:
        scard.SCardDisconnect(card, scard.SCARD_LEAVE_CARD)


def states(service: Any, known: dict[str, int], timeout_ms: int) -> list[tuple[str, int, bytes]]:
    """Return (name, state, ATR) of all readers and of the entry for new readers, after a change from ``known``."""
    found = list(dict.fromkeys(_names(service)))  # queries are by name: of two readers with one name, the first is used
    names = [name for name in found if name.isascii() or sys.platform == "linux"]
    if len(names) < _MOST_READERS:
        names.append(_NEW_READER)
    wanted = [(name, known.get(name, 0)) for name in names]
    plain = all(name.isascii() for name in names)
    ask = _scard().SCardGetStatusChange if plain else _status_change
    rv, states = ask(service, timeout_ms, wanted)
    failure = _failure("SCardGetStatusChange", rv)
    if failure is not None and failure.name != "SCARD_E_TIMEOUT":
        raise CallFailed(failure)
    changed = _scard().SCARD_STATE_CHANGED
    states_now = [(name, event & ~changed, bytes(atr)) for name, event, atr in states]
    unasked = [name for name in found if name not in names]
    return states_now + [(name, _scard().SCARD_STATE_UNAVAILABLE, b"") for name in unasked]


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
    pairs = zip(wanted, states, strict=True)
    return rv, [(name, state.event, bytes(state.atr[: state.atr_length])) for (name, _), state in pairs]


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
    raise CallFailed(failure)


def readers(found: Sequence[tuple[str, int, bytes]]) -> tuple[Reader, ...]:
    """Return the readers described by the result of :func:`states`."""
    return tuple(_reader(*state) for state in found if state[0] != _NEW_READER)


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
def context() -> Iterator[Any]:
    """Connect to the PC/SC service; yield the context.

    Raises:
        CallFailed: the service cannot be reached.
    """
    (service,) = call("SCardEstablishContext", _scard().SCARD_SCOPE_USER)
    try:
        yield service
    finally:
        _scard().SCardReleaseContext(service)


def call(function: str, *arguments: Any) -> list[Any]:
    """Call a PC/SC function; return its results without the return code.

    Raises:
        CallFailed: the return code is not SCARD_S_SUCCESS.
    """
    answer: list[Any]
    rv, *answer = getattr(_scard(), function)(*arguments)
    failure = _failure(function, rv)
    if failure is not None:
        raise CallFailed(failure)
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
    if not is_installed():
        raise CallFailed(Failure("import", NO_PYSCARD))
    try:
        if sys.platform == "linux":
            ctypes.CDLL(_LIBRARY)
        import smartcard.scard
    except (ImportError, OSError) as error:
        raise CallFailed(Failure("dlopen", _NO_LIBRARY)) from error
    return smartcard.scard  # type: ignore[no-any-return]
