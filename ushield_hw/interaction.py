"""The callbacks through which the library asks the user: PIN, consent, confirmation, waiting, cancelling.

The library never prints and never prompts. A program passes an :class:`Interaction`; the default is :class:`Silent`,
which refuses every operation that needs the user.
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
    """A PIN. Its repr does not show it, because test runners print the local variables of a frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Pin(…)"


class PinKind(Enum):
    """Which PIN is requested."""

    USER = "user"
    SO = "so"
    PUK = "puk"
    NEW = "new"
    CONTEXT = "context"  # the user PIN again, for one signature (CKA_ALWAYS_AUTHENTICATE)


@dataclass(frozen=True, slots=True)
class PinRequest:
    """A request for a PIN.

    Attributes:
        kind: which PIN.
        serial: the token's serial number.
        label: the token's label.
        state: attempts remaining and length limits, as far as known.
        purpose: what the PIN is needed for.
    """

    kind: PinKind
    serial: str
    label: str
    state: PinState
    purpose: str


class _Lazy(Protocol):
    def __iter__(self) -> Iterator[tuple[Line, ...]]: ...


@dataclass(frozen=True, slots=True)
class ConfirmRequest:
    """An order to confirm or to compare.

    Attributes:
        type: the order's type, such as ``ushield.payment/1``.
        lines: what the user must compare, as (label, value), the most important first; read from the bytes to be
            signed.
        items: for a batch, the lines of each payment; computed on iteration.
    """

    type: str
    lines: tuple[Line, ...]
    items: _Lazy = ()


@dataclass(frozen=True, slots=True)
class TokenAction:
    """The token is waiting for the user.

    Attributes:
        kind: what the user must do on the token: ``touch``, ``button``, ``display``, ``pinpad``, or ``none`` if the
            token is only slow.
        timeout_s: how long the token waits, in seconds, if known.
        can_cancel: whether cancelling reaches the token. If it does not, the outcome is unknown afterwards.
    """

    kind: str
    timeout_s: float | None
    can_cancel: bool
    _stop: Callable[[], None] = field(repr=False, compare=False, default=lambda: None)
    _cancelled: threading.Event = field(repr=False, compare=False, default_factory=threading.Event)

    def cancel(self) -> None:
        """Stop waiting. Idempotent; may be called from any thread.

        A signature or rejection that the token returns within two seconds is still used. After that the outcome is
        unknown. The token continues to ask, the session stays open, and other calls on its module may have to wait.
        """
        self._cancelled.set()
        self._stop()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled.is_set()


class Interaction(Protocol):
    """The callbacks that a program implements to ask the user."""

    def request_pin(self, ask: PinRequest) -> str | None:
        """Ask the user for a PIN.

        Args:
            ask: which PIN, for which token.

        Returns:
            The PIN; None if the user cancels.
        """
        ...

    def confirm_last_try(self, ask: PinRequest) -> bool:
        """Ask the user whether to use the last attempt.

        Args:
            ask: which PIN, for which token.

        Returns:
            Whether the user agrees.
        """
        ...

    def confirm_order(self, ask: ConfirmRequest) -> bool:
        """Show the lines of an order and ask the user to confirm; for tokens without a display.

        Args:
            ask: the order.

        Returns:
            Whether the user confirms.
        """
        ...

    def compare_on_token(self, ask: ConfirmRequest) -> None:
        """Show the lines that the token's own display must show, so that the user can compare them.

        Args:
            ask: the order.
        """
        ...

    def waiting_for_token(self, action: TokenAction) -> None:
        """Report that the token has been busy for half a second; called once, from another thread.

        Args:
            action: what the token waits for, and how to cancel.
        """
        ...


class Silent:
    """An interaction without a user: gives no PIN, no consent and no confirmation."""

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
