"""Revocation of certificates, and the CRL (RFC 5280 section 5)."""

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

CRL_LIFE: Final = timedelta(hours=24)
_RENEWED_BEFORE: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Revocation:
    """The result of a revocation.

    Attributes:
        certificate: the revoked certificate.
        replayed: whether it had been revoked before.
        also: its renewals that were not in use yet, which were revoked too.
        successor: the active certificate that was requested with its key, or None. A person who had the key may control
            it.
    """

    certificate: Certificate
    replayed: bool
    also: tuple[Certificate, ...]
    successor: Certificate | None


def revoke(database: Database, serial: str, reason: str, now: datetime) -> Revocation:
    """Revoke a certificate and its renewals that are not in use yet. Idempotent.

    Args:
        database: the CA's database.
        serial: serial number in hex, any case, with or without leading zeros.
        reason: one of ``REASONS``.
        now: the current time.

    Returns:
        What was revoked.

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
    """Return the newest CRL; creates one after a revocation or shortly before the last one expires.

    Args:
        service: the CA.

    Returns:
        The CRL, DER.

    Raises:
        UShieldError: the CA key or the database failed.
    """
    with service.making_crl:  # many clients ask at the same time when it expires; only one CRL is created
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
    """Return the next CRL number and all certificates revoked so far.

    The register row is locked first, and a revocation holds that lock until it is committed. Therefore a CRL with a
    higher number contains at least the entries of one with a lower number.
    """
    connection.execute(update(REGISTER).values(crl_number=REGISTER.c.crl_number + 1))
    register = connection.execute(select(REGISTER.c.crl_number, REGISTER.c.revocations)).one()
    entries = [Entry(int(serial, 16), at, reason) for serial, at, reason in certificates.revoked(connection)]
    values = {"number": register.crl_number, "revocations": register.revocations, "next_update": _next_update(now)}
    connection.execute(insert(CRLS).values(values))
    return register.crl_number, entries
