"""Everything human goes through one object: PIN, consent, confirmation, waiting, cancelling.

The library never prints and never prompts. A program gives it an :class:`Interaction`; without one it gets
:class:`Silent`, which refuses whatever would need a person.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from ushield_hw.pin_state import CountSource, PinState

if TYPE_CHECKING:
    from ushield_hw.order import Line

__all__ = [
    "ConfirmRequest",
    "CountSource",
    "Interaction",
    "Pin",
    "PinKind",
    "PinRequest",
    "PinState",
    "Silent",
    "TokenAction",
]


class Pin(str):
    """A PIN on its way from the person to the token. Its repr shows nothing: test runners print what a frame holds."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Pin(…)"


class PinKind(Enum):
    """Which PIN is asked for."""

    USER = "user"
    SO = "so"
    PUK = "puk"
    NEW = "new"
    CONTEXT = "context"  # once more, for one signature


@dataclass(frozen=True, slots=True)
class PinRequest:
    """A PIN is needed: which, for which token, with how many tries left, and what for."""

    kind: PinKind
    serial: str
    label: str
    state: PinState
    purpose: str


class _Lazy(Protocol):
    def __iter__(self) -> Iterator[tuple[Line, ...]]: ...


@dataclass(frozen=True, slots=True)
class ConfirmRequest:
    """An order to confirm or compare. ``lines`` come from the bytes that will be signed.

    Attributes:
        type: the order's type, such as ``ushield.payment/1``.
        lines: what a person must compare, as (label, value), the most important first.
        items: for a batch, the lines of each payment, read when asked for.
    """

    type: str
    lines: tuple[Line, ...]
    items: _Lazy = ()


@dataclass(frozen=True, slots=True)
class TokenAction:
    """The token is waiting for its owner.

    Attributes:
        kind: what the person must do there: ``touch``, ``button``, ``display``, ``pinpad``, or ``none`` when the token
            is just slow.
        timeout_s: how long the token waits, where known.
        can_cancel: whether cancelling reaches the token. If it does not, the outcome is unknown afterwards.
    """

    kind: str
    timeout_s: float | None
    can_cancel: bool
    _stop: Callable[[], None] = field(repr=False, compare=False, default=lambda: None)
    _cancelled: threading.Event = field(repr=False, compare=False, default_factory=threading.Event)

    def cancel(self) -> None:
        """Stop waiting; may be called from any thread, more than once.

        What the token says within two seconds still counts: a signature, or a refusal. After that the outcome is
        unknown. The token goes on asking, the session stays open, and other calls on its module may have to wait.
        """
        self._cancelled.set()
        self._stop()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled.is_set()


class Interaction(Protocol):
    """What a program does for the library towards the person."""

    def request_pin(self, ask: PinRequest) -> str | None:
        """Return the PIN, or None when the person cancels."""
        ...

    def confirm_last_try(self, ask: PinRequest) -> bool:
        """Return whether the person agrees to use the last try."""
        ...

    def confirm_order(self, ask: ConfirmRequest) -> bool:
        """Show the lines and return whether the person agrees; for tokens without a display."""
        ...

    def compare_on_token(self, ask: ConfirmRequest) -> None:
        """Show what must stand on the token's own screen."""
        ...

    def waiting_for_token(self, action: TokenAction) -> None:
        """The token has been working for half a second; called once, from another thread."""
        ...


class Silent:
    """Nobody is there: no PIN, no consent, no confirmation."""

    def request_pin(self, ask: PinRequest) -> str | None:
        """Return None."""
        return None

    def confirm_last_try(self, ask: PinRequest) -> bool:
        """Return False."""
        return False

    def confirm_order(self, ask: ConfirmRequest) -> bool:
        """Return False."""
        return False

    def compare_on_token(self, ask: ConfirmRequest) -> None:
        """Do nothing."""

    def waiting_for_token(self, action: TokenAction) -> None:
        """Do nothing."""
