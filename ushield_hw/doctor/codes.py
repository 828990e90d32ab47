"""Map error codes shown by any program to the most likely cause.

Supported are PKCS#11 (``CKR_…``), PC/SC (``SCARD_…``), card status words (SW1 SW2), GM/T 0016 (SAR) and the codes of
ushield itself, by name or number. A code alone is weak evidence: vendors use generic codes for many problems.
"""

from __future__ import annotations

import re
from typing import Final

from ushield_hw.backend.pkcs11.ckr import NUMBERS
from ushield_hw.doctor.finding import Finding, Outcome, Priority, Rule, Status
from ushield_hw.errors import UShieldError

_CKR: Final = {
    "SLOT_ID_INVALID": "F55",
    "GENERAL_ERROR": "F51",
    "FUNCTION_FAILED": "F52",
    "ARGUMENTS_BAD": "G66",
    "NEED_TO_CREATE_THREADS": "F54",
    "CANT_LOCK": "F54",
    "DATA_LEN_RANGE": "F60",
    "DEVICE_ERROR": "D32",
    "DEVICE_REMOVED": "D35",
    "FUNCTION_CANCELED": "H76",
    "FUNCTION_NOT_SUPPORTED": "E49",
    "KEY_TYPE_INCONSISTENT": "H73",
    "KEY_FUNCTION_NOT_PERMITTED": "H73",
    "MECHANISM_INVALID": "H74",
    "MECHANISM_PARAM_INVALID": "H74",
    "PIN_INCORRECT": "G62",
    "PIN_INVALID": "G66",
    "PIN_LEN_RANGE": "G63",
    "PIN_EXPIRED": "G65",
    "PIN_LOCKED": "G64",
    "TOKEN_NOT_PRESENT": "D29",
    "TOKEN_NOT_RECOGNIZED": "D37",
    "USER_ALREADY_LOGGED_IN": "G67",
    "USER_NOT_LOGGED_IN": "H75",
    "USER_PIN_NOT_INITIALIZED": "G65",
    "USER_ANOTHER_ALREADY_LOGGED_IN": "G67",
    "CRYPTOKI_NOT_INITIALIZED": "F53",
    "CRYPTOKI_ALREADY_INITIALIZED": "F53",
    "FUNCTION_REJECTED": "H76",
}
_SCARD: Final = {
    0x0B: ("E_SHARING_VIOLATION", "D32"),
    0x0C: ("E_NO_SMARTCARD", "D29"),
    0x17: ("E_READER_UNAVAILABLE", "C28"),
    0x1D: ("E_NO_SERVICE", "B11"),
    0x1E: ("E_SERVICE_STOPPED", "B12"),
    0x2E: ("E_NO_READERS_AVAILABLE", "C26"),
    0x2F: ("E_COMM_DATA_LOST", "H76"),
    0x66: ("W_UNRESPONSIVE_CARD", "D30"),
    0x67: ("W_UNPOWERED_CARD", "D31"),
    0x68: ("W_RESET_CARD", "D34"),
    0x69: ("W_REMOVED_CARD", "D35"),
    0x6A: ("W_SECURITY_VIOLATION", "B16"),
    0x6B: ("W_WRONG_CHV", "G62"),
    0x6C: ("W_CHV_BLOCKED", "G64"),
    0x6E: ("W_CANCELLED_BY_USER", "H76"),
}
_SW: Final = {
    0x6400: "H76",
    0x6401: "H76",
    0x6402: "G62",
    0x6403: "G63",
    0x6600: "H76",
    0x6982: "H75",
    0x6983: "G64",
    0x6985: "H76",
}
# Codes above 0x31 are vendor-specific.
_SAR: Final = {
    0x0F: "H76",
    0x1B: "H71",
    0x1C: "H71",
    0x23: "D35",
    0x24: "G62",
    0x25: "G64",
    0x26: "G66",
    0x27: "G63",
    0x28: "G67",
    0x29: "G65",
    0x2D: "H75",
}
_OURS: Final = {
    "PIN_FORMAT": "G63",
    "PIN_REFUSED": "G63",
    "LAST_TRY_NOT_CONFIRMED": "G62",
    "PIN_NOT_SET": "G65",
    "PIN_CHANGE_REQUIRED": "G65",
    "LOGIN_ENDED": "H75",
    "TOKEN_NONE_MATCHES": "F57",
    "TOKEN_MULTIPLE": "F58",
    "TOKEN_NOT_INITIALIZED": "F56",
    "TOKEN_REMOVED": "D35",
    "URI_REFUSED": "F55",
    "USED_AFTER_FORK": "F53",
    "DRIVER_NOT_FOUND": "E40",
    "MODULE_CRASHED": "E47",
    "MODULE_HUNG": "E48",
    "KEY_MISMATCH": "H69",
    "CERTIFICATE_NOT_FOUND": "H71",
    "CERTIFICATE_EXPIRED": "H72",
    "CERTIFICATE_NOT_YET_VALID": "H72",
    "KEY_USE_NOT_ALLOWED": "H73",
    "KEYS_AMBIGUOUS": "H69",
    "CERTIFICATE_NONE_MATCHES": "H70",
    "CERTIFICATE_SEVERAL_MATCH": "H70",
    "CERTIFICATE_MULTIPLE": "H73",
    "MECHANISM_MISSING": "H74",
    "CONFIRMATION_REJECTED": "H76",
    "CONFIRMATION_TIMED_OUT": "H76",
    "CONFIRMATION_CANCELLED": "H76",
}
_NAMES: Final = {f"SCARD_{name}": cause for name, cause in _SCARD.values()} | _OURS | _CKR
_TRIES_LEFT: Final = 0x63C0
_SW_FIRST: Final = frozenset({0x63, *range(0x64, 0x70), 0x90})
_NUMBER: Final = re.compile(r"(?:0x)?([0-9a-f]{1,8})", re.IGNORECASE)
_NEGATIVE: Final = re.compile(r"-\d{1,10}")  # an HRESULT as Windows programs print it


def explain(code: str) -> str | None:
    """Return the id of the most likely cause of a code, or None if the code is unknown or not specific.

    Args:
        code: a name (``CKR_PIN_LOCKED``, ``SCARD_E_NO_SERVICE``, ``PIN_FORMAT``) or a number: hexadecimal (``0xA4``,
            ``8010001D``, ``63C2``, ``0A000025``), or decimal if negative.
    """
    word = code.strip().upper()
    name = word.removeprefix("CKR_")
    if name in _NAMES:
        return _NAMES[name]
    if _NEGATIVE.fullmatch(word):
        return _by_number(int(word) & 0xFFFFFFFF)
    number = _NUMBER.fullmatch(word)
    return _by_number(int(number[1], 16)) if number else None


def explained(code: str) -> Finding | None:
    """Return the most likely cause of a code as a finding with texts, or None.

    Args:
        code: as for :func:`explain`.
    """
    cause = explain(code)
    if cause is None:
        return None
    return Finding(cause, "code", Status.FAIL, code.strip(), {"kind": "code", "code": code.strip()})


def unexplained(error: UShieldError, subject: str) -> Finding:
    """Return a finding for a token that cannot sign although no probe failed, based on the error of ``sign``."""
    cause = explain(error.code) or "H71"
    exits = {"G64": Outcome.PIN_LOCKED}.get(cause, Outcome.CERTIFICATE if cause.startswith("H") else Outcome.NO_TOKEN)
    evidence = {"kind": "code", "code": error.code, "message": error.message}
    return Finding(cause, "token.decision", Status.FAIL, subject, evidence, Rule(failed=Priority.TOKEN, exits=exits))


def _by_number(number: int) -> str | None:
    high, low = number >> 16, number & 0xFFFF
    if high == 0x8010:  # noqa: PLR2004 - FACILITY_SCARD
        return _SCARD.get(low, ("", None))[1]
    if high == 0x0A00:  # noqa: PLR2004 - GM/T 0016
        return _SAR.get(low)
    if not high and low >> 8 in _SW_FIRST:
        return _by_status_word(low)
    return next((_CKR.get(name) for name, value in NUMBERS.items() if value == number), None)


def _by_status_word(word: int) -> str | None:
    if word & 0xFFF0 == _TRIES_LEFT:
        return "G64" if word == _TRIES_LEFT else "G62"
    return _SW.get(word)


CAUSES: Final = frozenset({*_NAMES.values(), *_SW.values(), *_SAR.values(), "G62", "G64"})
"""All ids that a code can map to."""
