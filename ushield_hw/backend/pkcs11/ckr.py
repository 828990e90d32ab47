"""The table that maps CKR_* return values to the library's errors.

Names and numbers are those of PKCS#11 v2.40, and a few of v3.0 that modules return. A code that is not in the table is
named by its number (``CKR_VENDOR_DEFINED+0x…`` for vendor codes).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from ushield_hw import errors

_NAMES: Final[dict[int, str]] = {
    0x01: "CANCEL",
    0x02: "HOST_MEMORY",
    0x03: "SLOT_ID_INVALID",
    0x05: "GENERAL_ERROR",
    0x06: "FUNCTION_FAILED",
    0x07: "ARGUMENTS_BAD",
    0x08: "NO_EVENT",
    0x09: "NEED_TO_CREATE_THREADS",
    0x0A: "CANT_LOCK",
    0x10: "ATTRIBUTE_READ_ONLY",
    0x11: "ATTRIBUTE_SENSITIVE",
    0x12: "ATTRIBUTE_TYPE_INVALID",
    0x13: "ATTRIBUTE_VALUE_INVALID",
    0x1B: "ACTION_PROHIBITED",
    0x20: "DATA_INVALID",
    0x21: "DATA_LEN_RANGE",
    0x30: "DEVICE_ERROR",
    0x31: "DEVICE_MEMORY",
    0x32: "DEVICE_REMOVED",
    0x40: "ENCRYPTED_DATA_INVALID",
    0x41: "ENCRYPTED_DATA_LEN_RANGE",
    0x42: "AEAD_DECRYPT_FAILED",
    0x50: "FUNCTION_CANCELED",
    0x51: "FUNCTION_NOT_PARALLEL",
    0x54: "FUNCTION_NOT_SUPPORTED",
    0x60: "KEY_HANDLE_INVALID",
    0x62: "KEY_SIZE_RANGE",
    0x63: "KEY_TYPE_INCONSISTENT",
    0x64: "KEY_NOT_NEEDED",
    0x65: "KEY_CHANGED",
    0x66: "KEY_NEEDED",
    0x67: "KEY_INDIGESTIBLE",
    0x68: "KEY_FUNCTION_NOT_PERMITTED",
    0x69: "KEY_NOT_WRAPPABLE",
    0x6A: "KEY_UNEXTRACTABLE",
    0x70: "MECHANISM_INVALID",
    0x71: "MECHANISM_PARAM_INVALID",
    0x82: "OBJECT_HANDLE_INVALID",
    0x90: "OPERATION_ACTIVE",
    0x91: "OPERATION_NOT_INITIALIZED",
    0xA0: "PIN_INCORRECT",
    0xA1: "PIN_INVALID",
    0xA2: "PIN_LEN_RANGE",
    0xA3: "PIN_EXPIRED",
    0xA4: "PIN_LOCKED",
    0xB0: "SESSION_CLOSED",
    0xB1: "SESSION_COUNT",
    0xB3: "SESSION_HANDLE_INVALID",
    0xB4: "SESSION_PARALLEL_NOT_SUPPORTED",
    0xB5: "SESSION_READ_ONLY",
    0xB6: "SESSION_EXISTS",
    0xB7: "SESSION_READ_ONLY_EXISTS",
    0xB8: "SESSION_READ_WRITE_SO_EXISTS",
    0xC0: "SIGNATURE_INVALID",
    0xC1: "SIGNATURE_LEN_RANGE",
    0xD0: "TEMPLATE_INCOMPLETE",
    0xD1: "TEMPLATE_INCONSISTENT",
    0xE0: "TOKEN_NOT_PRESENT",
    0xE1: "TOKEN_NOT_RECOGNIZED",
    0xE2: "TOKEN_WRITE_PROTECTED",
    0xF0: "UNWRAPPING_KEY_HANDLE_INVALID",
    0xF1: "UNWRAPPING_KEY_SIZE_RANGE",
    0xF2: "UNWRAPPING_KEY_TYPE_INCONSISTENT",
    0x100: "USER_ALREADY_LOGGED_IN",
    0x101: "USER_NOT_LOGGED_IN",
    0x102: "USER_PIN_NOT_INITIALIZED",
    0x103: "USER_TYPE_INVALID",
    0x104: "USER_ANOTHER_ALREADY_LOGGED_IN",
    0x105: "USER_TOO_MANY_TYPES",
    0x110: "WRAPPED_KEY_INVALID",
    0x112: "WRAPPED_KEY_LEN_RANGE",
    0x113: "WRAPPING_KEY_HANDLE_INVALID",
    0x114: "WRAPPING_KEY_SIZE_RANGE",
    0x115: "WRAPPING_KEY_TYPE_INCONSISTENT",
    0x120: "RANDOM_SEED_NOT_SUPPORTED",
    0x121: "RANDOM_NO_RNG",
    0x130: "DOMAIN_PARAMS_INVALID",
    0x140: "CURVE_NOT_SUPPORTED",
    0x150: "BUFFER_TOO_SMALL",
    0x160: "SAVED_STATE_INVALID",
    0x170: "INFORMATION_SENSITIVE",
    0x180: "STATE_UNSAVEABLE",
    0x190: "CRYPTOKI_NOT_INITIALIZED",
    0x191: "CRYPTOKI_ALREADY_INITIALIZED",
    0x1A0: "MUTEX_BAD",
    0x1A1: "MUTEX_NOT_LOCKED",
    0x1B0: "NEW_PIN_MODE",
    0x1B1: "NEXT_OTP",
    0x1B5: "EXCEEDED_MAX_ITERATIONS",
    0x1B6: "FIPS_SELF_TEST_FAILED",
    0x1B7: "LIBRARY_LOAD_FAILED",
    0x1B8: "PIN_TOO_WEAK",
    0x1B9: "PUBLIC_KEY_INVALID",
    0x200: "FUNCTION_REJECTED",
    0x201: "TOKEN_RESOURCE_EXCEEDED",
    0x202: "OPERATION_CANCEL_FAILED",
    0x203: "KEY_EXHAUSTED",
}
NUMBERS: Final[dict[str, int]] = {name: number for number, name in _NAMES.items()}

_VENDOR_DEFINED: Final = 0x80000000


def name_of(rv: int) -> str:
    """Return the name of a return value: ``CKR_PIN_INCORRECT``, ``CKR_VENDOR_DEFINED+0x12``, ``CKR_0x1234``."""
    if rv in _NAMES:
        return f"CKR_{_NAMES[rv]}"
    return f"CKR_VENDOR_DEFINED+0x{rv - _VENDOR_DEFINED:x}" if rv >= _VENDOR_DEFINED else f"CKR_0x{rv:x}"


class CkrError(Exception):
    """A PKCS#11 function did not return CKR_OK. Not raised outside the ``backend`` package.

    Args:
        function: name of the function.
        rv: its return value.
    """

    def __init__(self, function: str, rv: int) -> None:
        self.function = function
        self.rv = rv
        super().__init__(f"{function}: {name_of(rv)}")

    @property
    def name(self) -> str:
        """Name of the return value, with ``CKR_``."""
        return name_of(self.rv)

    def among(self, *names: str) -> bool:
        """Return whether the return value has one of these names (without ``CKR_``)."""
        return _NAMES.get(self.rv) in names


class StaleLogin(Exception):
    """The login that a call uses has ended."""


class LoadFailed(Exception):
    """The module could not be loaded.

    Args:
        reason: why.
        kind: "refused", "crashed", "hung" or "proxy", see :class:`ushield_hw.errors.LoadOutcome`.
    """

    def __init__(self, reason: str, kind: str = "refused") -> None:
        self.reason = reason
        self.kind = kind
        super().__init__(reason)


GONE: Final = ("DEVICE_REMOVED", "TOKEN_NOT_PRESENT", "SESSION_HANDLE_INVALID", "SESSION_CLOSED", "SLOT_ID_INVALID")
"""The session's token was removed: all state kept for it must be dropped."""


_STEPS: Final = {
    "C_Login": errors.Step.LOGIN,
    "C_SetPIN": errors.Step.SET_PIN,
    "C_Sign": errors.Step.SIGN,
}

# What codes mean for the caller, independent of the function that returned them.
_TRAITS: Final[tuple[tuple[errors.Trait, str], ...]] = (
    (errors.Trait.VAGUE, "GENERAL_ERROR DEVICE_ERROR FUNCTION_FAILED"),
    (
        errors.Trait.NOTHING_DONE,
        "ARGUMENTS_BAD CANCEL CRYPTOKI_NOT_INITIALIZED FUNCTION_CANCELED FUNCTION_NOT_SUPPORTED FUNCTION_REJECTED "
        "SESSION_READ_ONLY TOKEN_WRITE_PROTECTED USER_NOT_LOGGED_IN",
    ),
    (errors.Trait.NO_LOGIN, "USER_PIN_NOT_INITIALIZED USER_TYPE_INVALID FUNCTION_NOT_SUPPORTED"),
    (errors.Trait.LOGGED_IN, "USER_ALREADY_LOGGED_IN"),
    (
        errors.Trait.ATTRIBUTE_FIXED,
        "ACTION_PROHIBITED ARGUMENTS_BAD ATTRIBUTE_READ_ONLY ATTRIBUTE_TYPE_INVALID ATTRIBUTE_VALUE_INVALID "
        "FUNCTION_FAILED FUNCTION_NOT_SUPPORTED OBJECT_HANDLE_INVALID TEMPLATE_INCONSISTENT",
    ),
    (errors.Trait.UNSUPPORTED, "FUNCTION_NOT_SUPPORTED"),
    (errors.Trait.LENGTH_UNSETTLED, "BUFFER_TOO_SMALL"),
)


def failure(error: CkrError) -> errors.ModuleFailure:
    """Return the failure that a return value stands for, in terms that do not depend on PKCS#11."""
    name, traits = error.name.removeprefix("CKR_"), errors.Trait.NONE
    for trait, names in _TRAITS:
        if name in names.split():
            traits |= trait
    return errors.ModuleFailure(error.function, error.name, _STEPS.get(error.function, errors.Step.OTHER), traits)


class Doing(Enum):
    """The operation during which a code was returned; the meaning of a code depends on it."""

    LOADING = "loading"
    READING = "reading"
    LOGIN = "login"
    SIGNING = "signing"
    WRITING = "writing"


class Outcome(Enum):
    """What a return code of C_Sign means on a token that asks the user to confirm."""

    REJECTED = "rejected"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed-out"
    REMOVED = "removed"
    UNKNOWN = "unknown"
    CONTENT_REFUSED = "content-refused"
    KEY_REFUSED = "key-refused"


_SIMPLE: Final[dict[str, type[errors.UShieldError]]] = {
    **dict.fromkeys(GONE, errors.TokenRemoved),
    "TOKEN_NOT_RECOGNIZED": errors.TokenNotInitialized,
    "USER_PIN_NOT_INITIALIZED": errors.TokenNotInitialized,
    "DEVICE_MEMORY": errors.TokenFull,
    "PIN_INCORRECT": errors.PinIncorrect,
    "PIN_LOCKED": errors.PinLocked,
    "PIN_EXPIRED": errors.PinChangeRequired,
    "PIN_INVALID": errors.PinFormatError,
    "PIN_LEN_RANGE": errors.PinFormatError,
    "PIN_TOO_WEAK": errors.PinFormatError,
    "USER_ALREADY_LOGGED_IN": errors.TokenBusy,
    "USER_ANOTHER_ALREADY_LOGGED_IN": errors.TokenBusy,
    "SESSION_READ_ONLY_EXISTS": errors.TokenBusy,
    "SESSION_READ_WRITE_SO_EXISTS": errors.TokenBusy,
    "SESSION_EXISTS": errors.TokenBusy,
    "SESSION_COUNT": errors.TokenBusy,
}

_OUTCOMES: Final[dict[Outcome, tuple[type[errors.UShieldError], str | None]]] = {  # class, code if not the class's own
    Outcome.REJECTED: (errors.ConfirmationRejected, None),
    Outcome.CANCELLED: (errors.ConfirmationCancelled, None),
    Outcome.TIMED_OUT: (errors.ConfirmationTimedOut, None),
    Outcome.REMOVED: (errors.TokenRemoved, None),
    Outcome.UNKNOWN: (errors.OutcomeUnknown, None),
    Outcome.CONTENT_REFUSED: (errors.ConfirmationRejected, "CONTENT_REFUSED"),
    Outcome.KEY_REFUSED: (errors.CertificateError, "KEY_REFUSED"),
}

# Functions that write to a token; C_Login does if the token counts failed attempts.
_WRITES: Final = frozenset(
    "C_Login C_InitToken C_InitPIN C_SetPIN C_CreateObject C_DestroyObject C_SetAttributeValue "
    "C_GenerateKeyPair".split()
)

# Return value -> code of the TokenError.
_CODES: Final = {
    "TOKEN_WRITE_PROTECTED": "TOKEN_WRITE_PROTECTED",
    "SESSION_READ_ONLY": "TOKEN_WRITE_PROTECTED",
    "BUFFER_TOO_SMALL": "MODULE_NEVER_SETTLES",
    "HOST_MEMORY": "HOST_OUT_OF_MEMORY",
    **dict.fromkeys(
        (
            *("MECHANISM_INVALID", "MECHANISM_PARAM_INVALID", "FUNCTION_NOT_SUPPORTED", "ACTION_PROHIBITED"),
            *("KEY_SIZE_RANGE", "KEY_TYPE_INCONSISTENT", "KEY_FUNCTION_NOT_PERMITTED", "KEY_EXHAUSTED"),
            *("CURVE_NOT_SUPPORTED", "DOMAIN_PARAMS_INVALID", "PUBLIC_KEY_INVALID"),
            *("ATTRIBUTE_READ_ONLY", "TEMPLATE_INCOMPLETE", "TEMPLATE_INCONSISTENT"),
        ),
        "TOKEN_CANNOT",
    ),
}

# PKCS#11 defines these for a rejection by the user; they apply even if the descriptor does not declare them.
_STANDARD_OUTCOMES: Final = {"FUNCTION_REJECTED": Outcome.REJECTED, "FUNCTION_CANCELED": Outcome.REJECTED}

# What tokens without declared codes return after the confirmation timeout; returned quickly, it is another failure.
_NOT_CONFIRMED: Final = frozenset({"GENERAL_ERROR", "FUNCTION_FAILED", "DEVICE_ERROR", "USER_NOT_LOGGED_IN"})
_PERSON_S: Final = 8.0

# What C_SignInit returns for an object that another program has deleted.
_NO_SUCH_KEY: Final = frozenset({"KEY_HANDLE_INVALID", "OBJECT_HANDLE_INVALID"})


def to_error(error: CkrError, doing: Doing, **how: Any) -> errors.UShieldError:
    """Return the library's error for a return value, with ``failure`` set.

    Args:
        error: the failed PKCS#11 call.
        doing: the operation it belongs to.
        **how: the keyword arguments of :func:`_to_error`.
    """
    found = _to_error(error, doing, **how)
    found.failure = failure(error)
    return found


def _to_error(
    error: CkrError,
    doing: Doing,
    *,
    codes: Mapping[str, str] | None = None,
    waited_s: float = 0.0,
    asks: bool = False,
    in_files: bool = False,
) -> errors.UShieldError:
    """Return the library's error for a return value.

    Args:
        error: the failed PKCS#11 call.
        doing: the operation it belongs to.
        codes: the descriptor's ``confirm.codes``: CKR name with prefix -> outcome. They have precedence for C_Sign.
        waited_s: duration of C_Sign in seconds.
        asks: the token asks the user: an unspecific failure after a long wait is treated as a confirmation timeout.
        in_files: the module stores its tokens in files, and returns CKR_GENERAL_ERROR if it cannot write one.
    """
    facts: dict[str, object] = {"ckr": error.name, "function": error.function}
    name = error.name.removeprefix("CKR_")
    if doing is Doing.SIGNING:
        declared = (codes or {}).get(error.name)
        late = asks and waited_s >= _PERSON_S
        if found := _of_signing(name, facts, declared, late=late, waited_s=round(waited_s, 1)):
            return found
    if in_files and name == "GENERAL_ERROR" and error.function in _WRITES:
        return errors.SoftTokenNotWritten(**facts)
    if name in _CODES:
        return errors.TokenError(_CODES[name], **facts)
    if _SIMPLE.get(name) is errors.PinFormatError:
        return errors.PinFormatError("PIN_REFUSED", **facts)
    if _SIMPLE.get(name) is errors.TokenBusy:  # logins are per process; the number of sessions is shared by all
        facts["holder"] = "another program" if name == "SESSION_COUNT" else "this process"
    return _SIMPLE.get(name, errors.TokenError)(**facts)


def _of_signing(
    name: str, facts: dict[str, object], declared: str | None, *, late: bool, waited_s: float
) -> errors.UShieldError | None:
    """Return the error for a code that has a special meaning while signing.

    Args:
        name: the code, without CKR_.
        facts: code and function, as details of the error.
        declared: the outcome that the descriptor declares for the code.
        late: the token asks the user, and the call took at least as long as a confirmation timeout.
        waited_s: duration of the call in seconds.
    """
    if facts["function"] == "C_Sign":
        outcome = Outcome(declared) if declared else _STANDARD_OUTCOMES.get(name)
        if outcome is None and late and name in _NOT_CONFIRMED:
            outcome = Outcome.TIMED_OUT
        if outcome is not None:
            kind, code = _OUTCOMES[outcome]
            order = {"tx_id": None} if outcome is Outcome.UNKNOWN else {}  # the caller sets it
            return kind(code, waited_s=waited_s, **facts, **order)
    if name == "USER_NOT_LOGGED_IN":
        return errors.LoginEnded(**facts)
    if facts["function"] == "C_SignInit" and name in _NO_SUCH_KEY:
        return errors.KeyGone(**facts)
    return None
