"""One-time codes for a customer's first certificate, and what the bank registered when it issued the code.

A code has 100 random bits, so storing its SHA-256 is sufficient and guessing is not feasible. Wrong codes are limited
nevertheless, per customer number. For unknown customer numbers they are counted in memory and only for the most recent
numbers, so that untrusted clients cannot fill the database.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from ushield_hw.bank.ca.certificates import Device
from ushield_hw.bank.ca.tables import CODES, CUSTOMERS, FAILURES
from ushield_hw.crypto.names import parse_subject
from ushield_hw.errors import RequestRefused
from ushield_hw.order.text import check_text
from ushield_hw.order.values import REFERENCE, STRICT

WINDOW: Final = timedelta(minutes=15)
MOST_FAILURES: Final = 10
"""Maximum number of wrong codes for a customer number in one window."""

_MOST_UNKNOWN: Final = 4096
_LETTERS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's alphabet, without letters that can be confused
_READ_AS: Final = str.maketrans("OIL", "011", " -")
_LENGTH, _GROUP = 20, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(Device):
    """What a code authorizes.

    Attributes:
        customer: the customer number.
        subject: subject of the certificate, RFC 4514.
        certificate_days: validity of the certificate in days; None: as the profile specifies.
        expires: when the code expires.
        serial: the certificate it was used for, or None.
    """

    customer: str
    subject: str
    certificate_days: int | None
    expires: datetime
    serial: str | None = None


def new_code() -> str:
    """Return a new code, in groups of four characters."""
    letters = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    return "-".join(letters[at : at + _GROUP] for at in range(0, _LENGTH, _GROUP))


def registered_name(subject: str) -> str:
    """Return a subject in normalized form.

    Args:
        subject: RFC 4514.

    Raises:
        InputError: ``SUBJECT_INVALID``, or an error of a text that cannot be shown on a token's screen.
    """
    text = parse_subject(subject).rfc4514_string()
    check_text(text, "subject")  # it is part of the document that activates a renewal
    return text


def give(connection: Connection, code: str, grant: Grant, now: datetime) -> None:
    """Store a new code and what it authorizes.

    Args:
        connection: a writing transaction.
        code: the code.
        grant: what it authorizes.
        now: the current time.

    Raises:
        InputError: ``ORDER_REFERENCE``: not a valid customer number.
    """
    REFERENCE.check(grant.customer, "customer", STRICT)
    if not is_customer(connection, grant.customer):
        connection.execute(insert(CUSTOMERS).values(id=grant.customer, created=now))
    connection.execute(
        insert(CODES).values(
            digest=_digest(grant.customer, code),
            customer=grant.customer,
            subject=grant.subject,
            profile=grant.profile,
            confirmation=grant.confirmation,
            display=grant.display,
            token_serial=grant.token_serial,
            certificate_days=grant.certificate_days,
            created=now,
            expires=grant.expires,
        )
    )


def grant_of(connection: Connection, customer: str, code: str, *, lock: bool = False) -> Grant | None:
    """Return what a code authorizes, or None if it is wrong for this customer."""
    columns = [CODES.c[name] for name in Grant.__dataclass_fields__]
    wanted = select(*columns).where(CODES.c.digest == _digest(customer, code))
    row = connection.execute(wanted.with_for_update() if lock else wanted).first()
    return Grant(**row._mapping) if row else None


def use(connection: Connection, customer: str, code: str, serial: str, now: datetime) -> None:
    """Record the certificate a code was used for, and delete the count of wrong codes."""
    connection.execute(update(CODES).where(CODES.c.digest == _digest(customer, code)).values(used=now, serial=serial))
    connection.execute(delete(FAILURES).where(FAILURES.c.customer == _hash(customer)))


class UnknownCustomers:
    """Counts wrong codes for unknown customer numbers. Thread-safe, bounded, and kept in memory only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, tuple[int, datetime]] = OrderedDict()

    def note(self, customer: str, now: datetime) -> None:
        """Count a wrong code."""
        with self._lock:
            wrong, since = self._counts.pop(_hash(customer), (0, now))
            if since + WINDOW <= now:
                wrong, since = 0, now
            self._counts[_hash(customer)] = wrong + 1, since
            if len(self._counts) > _MOST_UNKNOWN:
                self._counts.popitem(last=False)

    def wait(self, customer: str, now: datetime) -> timedelta | None:
        """Return how long a number is still refused, or None."""
        with self._lock:
            wrong, since = self._counts.get(_hash(customer), (0, now))
        return since + WINDOW - now if wrong >= MOST_FAILURES and now < since + WINDOW else None


def check_allowed(connection: Connection, customer: str, now: datetime, unknown: UnknownCustomers) -> None:
    """Refuse a customer number with too many wrong codes.

    Raises:
        RequestRefused: ``CODES_TOO_MANY``; ``.wait_s``.
    """
    wanted = select(FAILURES.c.wrong, FAILURES.c.since).where(FAILURES.c.customer == _hash(customer))
    row = connection.execute(wanted).first()
    blocked = row is not None and row.wrong >= MOST_FAILURES and now < row.since + WINDOW
    wait = row.since + WINDOW - now if row is not None and blocked else unknown.wait(customer, now)
    if wait is not None:
        raise RequestRefused("CODES_TOO_MANY", wait_s=int(wait.total_seconds()) + 1)


def is_customer(connection: Connection, customer: str) -> bool:
    """Return whether a customer has this number."""
    return connection.execute(select(CUSTOMERS.c.id).where(CUSTOMERS.c.id == customer)).first() is not None


def note_wrong(connection: Connection, customer: str, now: datetime) -> None:
    """Count a wrong code, and delete expired counts."""
    connection.execute(delete(FAILURES).where(FAILURES.c.since <= now - WINDOW))
    key = _hash(customer)
    counted = update(FAILURES).where(FAILURES.c.customer == key).values(wrong=FAILURES.c.wrong + 1)
    if connection.execute(counted).rowcount == 0:
        connection.execute(insert(FAILURES).values(customer=key, wrong=1, since=now))


def _digest(customer: str, code: str) -> str:
    letters = code.upper().translate(_READ_AS)
    return _hash(f"{customer}\0{letters}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
