"""Revocation, and the CRL that tells of it (RFC 5280 section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, insert, select, update

from ushield_hw.bank.ca import certificates
from ushield_hw.bank.ca.authority import Entry
from ushield_hw.bank.ca.certificates import PENDING, Certificate, State
from ushield_hw.bank.ca.service import CaService
from ushield_hw.bank.ca.tables import CRLS, REGISTER
from ushield_hw.bank.database import Database
from ushield_hw.errors import RequestRefused

REASONS: Final = (
    *("keyCompromise", "affiliationChanged", "superseded", "cessationOfOperation", "privilegeWithdrawn"),
    "unspecified",
)
"""Why a customer's certificate may be revoked: those of RFC 5280 that are for good and not about a CA."""

CRL_LIFE: Final = timedelta(hours=24)
_RENEWED_BEFORE: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Revocation:
    """What a revocation did.

    Attributes:
        certificate: the one that was asked about, now or before.
        replayed: it was revoked already.
        also: renewals of it that were not in use yet, revoked with it.
        successor: the certificate in use that its key once asked for, if there is one: whoever had the key may have it.
    """

    certificate: Certificate
    replayed: bool
    also: tuple[Certificate, ...]
    successor: Certificate | None


def revoke(database: Database, serial: str, reason: str, now: datetime) -> Revocation:
    """Revoke a certificate, and with it what was issued to replace it and is not in use yet.

    Args:
        database: the CA's.
        serial: hex, any case, with leading zeros or without.
        reason: one of ``REASONS``.
        now: the moment.

    Raises:
        RequestRefused: ``CERTIFICATE_UNKNOWN``.
    """
    with database.writing() as connection:
        found = certificates.by_serial(connection, serial.lower().lstrip("0"), lock=True)
        if found is None:
            raise RequestRefused("CERTIFICATE_UNKNOWN", serial=serial)
        replayed = found.state is State.REVOKED
        if not replayed:
            certificates.revoke(connection, found, reason, now)
        also = certificates.successors(connection, found.serial, *PENDING, lock=True)
        for one in also:
            certificates.revoke(connection, one, reason, now)
        in_use = certificates.successors(connection, found.serial, State.ACTIVE)
        after = certificates.by_serial(connection, found.serial) or found
    return Revocation(after, replayed, also, in_use[0] if in_use else None)


def crl(service: CaService) -> bytes:
    """Return the newest CRL, DER; made anew when something was revoked since, or shortly before its time is over.

    Raises:
        UShieldError: as the CA's key or the database says.
    """
    with service.making_crl:  # many ask at once when it runs out: one makes it
        now = service.now()
        with service.database.reading() as connection:
            kept = _kept(connection, now)
        if kept is not None:
            return kept
        with service.database.writing() as connection:
            number, entries = _begun(connection, now)
        der = service.authority.crl(number, now.replace(microsecond=0), _next_update(now), entries)
        with service.database.writing() as connection:
            connection.execute(update(CRLS).where(CRLS.c.number == number).values(der=der))
        return der


def _next_update(now: datetime) -> datetime:
    return (now + CRL_LIFE).replace(microsecond=0)


def _kept(connection: Connection, now: datetime) -> bytes | None:
    revocations = select(REGISTER.c.revocations).scalar_subquery()
    good = (CRLS.c.revocations == revocations, CRLS.c.next_update > now + _RENEWED_BEFORE, CRLS.c.der.is_not(None))
    wanted = select(CRLS.c.der).where(*good).order_by(CRLS.c.number.desc()).limit(1)
    found: bytes | None = connection.execute(wanted).scalar_one_or_none()
    return found


def _begun(connection: Connection, now: datetime) -> tuple[int, list[Entry]]:
    """Take the next number and everything that is revoked by now.

    Whoever gets a higher number sees at least as much: the row of the register is locked first, and a revocation holds
    it until it is done.
    """
    connection.execute(update(REGISTER).values(crl_number=REGISTER.c.crl_number + 1))
    register = connection.execute(select(REGISTER.c.crl_number, REGISTER.c.revocations)).one()
    entries = [Entry(int(serial, 16), at, reason) for serial, at, reason in certificates.revoked(connection)]
    values = {"number": register.crl_number, "revocations": register.revocations, "next_update": _next_update(now)}
    connection.execute(insert(CRLS).values(values))
    return register.crl_number, entries
