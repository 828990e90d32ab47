"""The mapping from errors to exit codes."""

from __future__ import annotations

from typing import Final

from ushield_hw import errors

DONE: Final = 0
INTERNAL: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

# The first matching class decides.
_CODES: Final[tuple[tuple[type[errors.UShieldError], int], ...]] = (
    (errors.InputError, USAGE),
    (errors.DescriptorError, USAGE),  # a file written by the user
    (errors.DriverError, 3),
    (errors.TokenError, 3),
    (errors.PinLocked, 5),
    (errors.LastTryNotConfirmed, 7),
    (errors.PinCancelled, 7),
    (errors.PinError, 4),
    (errors.CertificateError, 6),
    (errors.RequestRefused, 6),
    (errors.ConfirmationTimedOut, 8),
    (errors.OutcomeUnknown, 9),
    (errors.ConfirmationError, 7),
    (errors.InvalidError, 10),
    (errors.VerificationError, 11),
    (errors.NetworkError, 11),
    (errors.StorageError, 12),
)


ALL: Final = tuple(sorted({DONE, INTERNAL, USAGE, INTERRUPTED, *(code for _, code in _CODES)}))
"""Every exit code of the command."""


def code_of(error: errors.UShieldError) -> int:
    """Return the exit code of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), INTERNAL)
