"""The value types of orders: the allowed form of each, and how a screen shows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from ushield_hw.errors import InputError
from ushield_hw.order.currency import DECIMAL_PLACES, PUBLISHED
from ushield_hw.order.text import check_text

TOTAL_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class Rules:
    """What may differ between installations.

    Args:
        demo: Whether to also accept an origin on this host: ``http://localhost``, ``http://127.0.0.1`` or
            ``http://[::1]``, with or without a port.
    """

    demo: bool = False


STRICT: Final = Rules()


class Rule(NamedTuple):
    """A value type.

    Args:
        check: Called with the value, its place and the rules; raises ``InputError``.
        spaced: Whether a value may contain spaces. A screen line has at most one such value.
        shown: Formats a value for the screen.
        read: The inverse of ``shown``. Text that ``shown`` cannot have written is returned unchanged, and then refused.
    """

    check: Callable[[str, str, Rules], None]
    spaced: bool = False
    shown: Callable[[str], str] = str
    read: Callable[[str], str] = str


def _form(code: str, pattern: str, **details: object) -> Rule:
    match = re.compile(pattern, re.ASCII).fullmatch

    def check(value: str, place: str, _rules: Rules) -> None:
        if match(value) is None:
            raise InputError(code, place=place, **details)

    return Rule(check)


# A DNS name in lower-case ASCII, at least two labels. The last begins with a letter: browsers treat a host whose last
# label is a number as an IPv4 address.
_LABEL_END: Final = r"(?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = rf"(?=.{{1,253}}\Z)(?:[a-z0-9]{_LABEL_END}\.)+[a-z]{_LABEL_END}"
_ORIGIN: Final = re.compile(rf"https://{_HOST}")
_PORT: Final = r"(?!80\Z)[1-9][0-9]{0,4}"  # an origin omits the default port
_LOOPBACK: Final = re.compile(rf"http://(?:localhost|127\.0\.0\.1|\[::1\])(?::({_PORT}))?")
_HIGHEST_PORT: Final = 65535


def _check_origin(value: str, place: str, rules: Rules) -> None:
    if _ORIGIN.fullmatch(value) or (rules.demo and _is_loopback(value)):
        return
    raise InputError("ORDER_ORIGIN", place=place)


def _is_loopback(origin: str) -> bool:
    found = _LOOPBACK.fullmatch(origin)
    return found is not None and int(found[1] or 0) <= _HIGHEST_PORT


# The hour is limited here because newer Python versions parse 24:00:00 as the next day.
_TIME: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})T((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])Z")
_TIME_SHOWN: Final = re.compile(r"(\S+) (\S+) UTC")


def time_of(value: str) -> datetime:
    """Return the time in ``YYYY-MM-DDTHH:MM:SSZ`` form as an aware datetime.

    Args:
        value: The text.

    Raises:
        ValueError: It has another form, or there is no such day.
    """
    found = _TIME.fullmatch(value)
    if found is None:
        raise ValueError(value)
    return datetime.fromisoformat(f"{found[1]}T{found[2]}+00:00")


def _check_time(value: str, place: str, _rules: Rules) -> None:
    try:
        time_of(value)
    except ValueError as wrong:
        raise InputError("ORDER_TIME", place=place) from wrong


def _time_shown(value: str) -> str:
    return f"{value[:10]} {value[11:19]} UTC"


def _time_read(text: str) -> str:
    return _TIME_SHOWN.sub(r"\1T\2Z", text)


def _check_text(value: str, place: str, _rules: Rules) -> None:
    check_text(value, place)


def _check_currency(value: str, place: str, _rules: Rules) -> None:
    if value not in DECIMAL_PLACES:
        raise InputError("ORDER_AMOUNT_CURRENCY", place=place, published=PUBLISHED)


TYPE: Final = _form("ORDER_TYPE", r"ushield\.[a-z]+/[1-9][0-9]*")
TEXT: Final = Rule(_check_text, spaced=True)
TIME: Final = Rule(_check_time, shown=_time_shown, read=_time_read)
ORIGIN: Final = Rule(_check_origin)
BANK_ID: Final = _form("ORDER_BANK_ID", r"(?=.{1,35}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
# A random UUID (version 4, variant 10) in lower case, as in the UETR of ISO 20022.
TX_ID: Final = _form("ORDER_TX_ID", r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
# Fits the Max35Text of an EndToEndIdentification. Letters and digits, with single punctuation marks between them.
REFERENCE: Final = _form("ORDER_REFERENCE", r"(?=.{1,35}\Z)[0-9A-Za-z]+(?:[-._/:+][0-9A-Za-z]+)*")
ACCOUNT: Final = _form("ORDER_ACCOUNT", r"[0-9A-Z](?:-?[0-9A-Z]){0,33}")
CNAPS: Final = _form("ORDER_CNAPS", r"[0-9]{12}")
# The pattern that ISO 20022 gives for an ISO 9362 code (BICFIDec2014Identifier).
BIC: Final = _form("ORDER_BIC", r"[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}(?:[A-Z0-9]{3})?")
# 32 bytes are 42 characters and four bits; the two unused bits of the last character are zero.
NONCE: Final = _form("ORDER_NONCE", r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
# A certificate's serial number in hex: at most 20 octets (RFC 5280 section 4.1.2.2), no leading zero.
SERIAL: Final = _form("ORDER_SERIAL", r"(?=.{1,40}\Z)[1-9a-f][0-9a-f]*")
DIGEST: Final = _form("ORDER_DIGEST", r"[0-9a-f]{64}")
CURRENCY: Final = Rule(_check_currency)
AMOUNT: Final = _form("ORDER_AMOUNT_FORM", r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


def check_amount(amount: Mapping[str, str], place: str) -> None:
    """Raise an error unless ``currency`` and ``value`` fit each other and the amount is not zero.

    All digits as written count towards the maximum of 18.

    Args:
        amount: ``currency`` and ``value``, each already checked.
        place: The place of the group.

    Raises:
        InputError: ``ORDER_AMOUNT_DIGITS``, ``ORDER_AMOUNT_TOO_LONG`` or ``ORDER_AMOUNT_ZERO``.
    """
    place = f"{place}.value"
    whole, _, fraction = amount["value"].partition(".")
    places = DECIMAL_PLACES[amount["currency"]]
    if len(fraction) != places:
        raise InputError("ORDER_AMOUNT_DIGITS", place=place, currency=amount["currency"], digits=places)
    digits = whole + fraction
    if len(digits) > TOTAL_DIGITS:
        raise InputError("ORDER_AMOUNT_TOO_LONG", place=place, longest=TOTAL_DIGITS)
    if not digits.strip("0"):
        raise InputError("ORDER_AMOUNT_ZERO", place=place)
