"""Errors of what the user does: PINs and confirmations. See :mod:`ushield_hw.errors`."""

from __future__ import annotations

from ushield_hw.errors.base import Detail, UShieldError
from ushield_hw.pin_state import PinState


class PinError(UShieldError):
    """An operation on the PIN failed.

    Attributes:
        ckr: name of the module's return code.
        function: the function that returned it.
        serial: the token's serial number.
    """

    code = "PIN_FAILED"
    ckr = Detail[str | None](None)
    function = Detail[str | None](None)
    serial = Detail[str | None](None)


class PinIncorrect(PinError):
    """The PIN was wrong; one attempt was used.

    Attributes:
        state: the attempts remaining.
    """

    code = "PIN_INCORRECT"
    state = Detail[PinState](PinState())


class PinLocked(PinError):
    """The PIN is locked: no attempts remain.

    Attributes:
        state: the state of the PIN.
        unblock: how this token is unblocked.
    """

    code = "PIN_LOCKED"
    state = Detail[PinState](PinState(locked=True))
    unblock = Detail[str | None](None)


class PinFormatError(PinError):
    """The PIN's length in bytes or its characters are invalid. No attempt was used.

    Attributes:
        min: shortest PIN in bytes.
        max: longest PIN in bytes.
    """

    code = "PIN_FORMAT"
    min = Detail[int | None](None)
    max = Detail[int | None](None)


class PinChangeRequired(PinError):
    """The PIN must be changed before it can be used."""

    code = "PIN_CHANGE_REQUIRED"


class LastTryNotConfirmed(PinError):
    """One attempt remains and the user did not agree to use it. No attempt was used.

    Attributes:
        state: the state of the PIN.
    """

    code = "LAST_TRY_NOT_CONFIRMED"
    state = Detail[PinState](PinState())


class PinCancelled(PinError):
    """A PIN was required and none was given. No attempt was used."""

    code = "PIN_CANCELLED"


class ConfirmationError(UShieldError):
    """The order was not confirmed.

    Attributes:
        tx_id: the order's transaction id.
        ckr: name of the module's return code.
        function: the function that returned it.
    """

    code = "CONFIRMATION_FAILED"
    tx_id = Detail[str | None](None)
    ckr = Detail[str | None](None)
    function = Detail[str | None](None)


class ConfirmationRejected(ConfirmationError):
    """The user rejected the order, on the token or on the host. Nothing was signed."""

    code = "CONFIRMATION_REJECTED"


class ConfirmationCancelled(ConfirmationError):
    """Cancelled on the host before the token signed. Nothing was signed."""

    code = "CONFIRMATION_CANCELLED"


class ConfirmationTimedOut(ConfirmationError):
    """The order was not confirmed before the timeout. Nothing was signed.

    Attributes:
        waited_s: time waited, in seconds.
    """

    code = "CONFIRMATION_TIMED_OUT"
    waited_s = Detail[float](0.0)


class OutcomeUnknown(ConfirmationError):
    """The token may have signed. Ask the bank; do not sign again.

    Attributes:
        reason: why the outcome is unknown.
    """

    code = "OUTCOME_UNKNOWN"
    reason = Detail[str | None](None)
