"""The register of certificates: their data, states and state transitions.

A certificate is *reserved* before it is signed: its serial number and validity are committed first, so that after a
crash while the token signs the next attempt signs the same bytes. *Issued* is a renewed certificate whose key has not
been proved to work yet. *Active* is the one in use. *Superseded* was in use before; its signatures stay valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, insert, select, update

from ushield_hw.bank.ca.tables import CERTIFICATES, REGISTER


class State(StrEnum):
    """The state of a certificate."""

    RESERVED = "reserved"
    ISSUED = "issued"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    REVOKED = "revoked"


FOLLOWS: Final[dict[State, frozenset[State]]] = {
    State.RESERVED: frozenset({State.ISSUED, State.ACTIVE, State.REVOKED}),
    State.ISSUED: frozenset({State.ACTIVE, State.REVOKED}),
    State.ACTIVE: frozenset({State.SUPERSEDED, State.REVOKED}),
    State.SUPERSEDED: frozenset({State.REVOKED}),
    State.REVOKED: frozenset(),
}
"""Allowed state transitions."""

PENDING: Final = (State.RESERVED, State.ISSUED)

_WHEN: Final = {State.ACTIVE: "activated", State.SUPERSEDED: "superseded", State.REVOKED: "revoked"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What was registered about the token at enrolment; not what a host claims.

    Attributes:
        profile: the purpose of the key: ``payment`` or ``login``.
        confirmation: how the user confirms on the token, a value of ``ushield_hw.cms.Confirmation``.
        display: whether the token shows what it signs.
        token_serial: its serial number, if the bank knows it.
    """

    profile: str
    confirmation: str
    display: bool
    token_serial: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate(Device):
    """A certificate in the register. ``serial``: lower-case hex; ``der``: None while it is reserved."""

    serial: str
    request_key: str = field(repr=False)
    spki_sha256: str
    spki: bytes = field(repr=False)
    subject: str
    customer: str
    state: State
    not_before: datetime
    not_after: datetime
    created: datetime
    activated: datetime | None = None
    superseded: datetime | None = None
    revoked: datetime | None = None
    reason: str | None = None
    replaces: str | None = None
    request: bytes = field(repr=False)
    der: bytes | None = field(default=None, repr=False)
    sha256: str | None = None

    @property
    def device(self) -> dict[str, Any]:
        """The token's registration data by column name."""
        return {one.name: getattr(self, one.name) for one in fields(Device)}

    @property
    def signed(self) -> bytes:
        """The certificate, DER. It must not be in state reserved."""
        if self.der is None:
            raise AssertionError(f"{self.serial} is not signed yet")
        return self.der


_COLUMNS: Final = tuple(CERTIFICATES.c[one.name] for one in fields(Certificate))
_ALL: Final = select(*_COLUMNS)


def add(connection: Connection, certificate: Certificate) -> Certificate:
    """Reserve a certificate.

    Args:
        connection: a writing transaction.
        certificate: the certificate to add.

    Returns:
        ``certificate``.

    Raises:
        IntegrityError: a certificate for this request exists.
    """
    values = {one.name: getattr(certificate, one.name) for one in fields(Certificate)}
    connection.execute(insert(CERTIFICATES).values(values))
    return certificate


def by_serial(connection: Connection, serial: str, *, lock: bool = False) -> Certificate | None:
    """Return the certificate with a serial number, or None; with ``lock`` locked until the end of the transaction."""
    return _one(connection, _ALL.where(CERTIFICATES.c.serial == serial), lock=lock)


def by_sha256(connection: Connection, digest: str, *, lock: bool = False) -> Certificate | None:
    """Return the certificate whose DER has this SHA-256, or None."""
    return _one(connection, _ALL.where(CERTIFICATES.c.sha256 == digest), lock=lock)


def by_request_key(connection: Connection, key: str) -> Certificate | None:
    """Return the certificate for a request, or None."""
    return _one(connection, _ALL.where(CERTIFICATES.c.request_key == key))


def is_certified(connection: Connection, spki_sha256: str) -> bool:
    """Return whether a certificate was ever issued for a key."""
    wanted = select(CERTIFICATES.c.serial).where(CERTIFICATES.c.spki_sha256 == spki_sha256)
    return connection.execute(wanted.limit(1)).first() is not None


def renewed_with(connection: Connection, spki_sha256: str) -> Certificate | None:
    """Return the newest renewal for a key, or None; a renewal always expires later than the certificate it replaces."""
    wanted = _ALL.where(CERTIFICATES.c.spki_sha256 == spki_sha256, CERTIFICATES.c.replaces.is_not(None))
    return _one(connection, wanted.order_by(CERTIFICATES.c.not_after.desc()).limit(1))


def successors(connection: Connection, serial: str, *states: State, lock: bool = False) -> tuple[Certificate, ...]:
    """Return the renewals of a certificate that are in one of ``states``."""
    wanted = _ALL.where(CERTIFICATES.c.replaces == serial, CERTIFICATES.c.state.in_(states))
    return tuple(_found(connection, wanted.order_by(CERTIFICATES.c.serial), lock=lock))


def listed(connection: Connection, *, ending: datetime | None = None) -> tuple[Certificate, ...]:
    """Return all certificates, or the active ones that expire until ``ending``, in the order of their expiry."""
    wanted = _ALL.order_by(CERTIFICATES.c.not_after, CERTIFICATES.c.serial)
    if ending is not None:
        wanted = wanted.where(CERTIFICATES.c.state == State.ACTIVE, CERTIFICATES.c.not_after <= ending)
    return tuple(_found(connection, wanted))


def revoked(connection: Connection) -> Sequence[Row[Any, Any, Any]]:
    """Return serial number, time and reason of all revoked certificates."""
    columns = (CERTIFICATES.c.serial, CERTIFICATES.c.revoked, CERTIFICATES.c.reason)
    wanted = select(*columns).where(CERTIFICATES.c.state == State.REVOKED).order_by(CERTIFICATES.c.serial)
    return connection.execute(wanted).all()


def sign(connection: Connection, certificate: Certificate, der: bytes, sha256: str) -> None:
    """Store the signed certificate of a reserved one, unless another process has stored it already."""
    wanted = update(CERTIFICATES).where(CERTIFICATES.c.serial == certificate.serial, CERTIFICATES.c.der.is_(None))
    connection.execute(wanted.values(der=der, sha256=sha256))


def move(connection: Connection, certificate: Certificate, state: State, now: datetime, **more: Any) -> bool:
    """Change the state of a certificate.

    Args:
        connection: a writing transaction.
        certificate: the certificate as it was read.
        state: the new state.
        now: the time of the change, which is stored.
        more: other columns to set.

    Returns:
        False if the state has changed since ``certificate`` was read.

    Raises:
        ValueError: the transition is not allowed.
    """
    if state not in FOLLOWS[certificate.state]:
        raise ValueError(f"{certificate.state} -> {state}")
    values = {"state": state, **more, **({_WHEN[state]: now} if state in _WHEN else {})}
    same = (CERTIFICATES.c.serial == certificate.serial, CERTIFICATES.c.state == certificate.state)
    return connection.execute(update(CERTIFICATES).where(*same).values(values)).rowcount == 1


def revoke(connection: Connection, certificate: Certificate, reason: str, now: datetime) -> None:
    """Revoke a certificate that the caller has locked, and mark existing CRLs as outdated."""
    if not move(connection, certificate, State.REVOKED, now, reason=reason):
        raise AssertionError(f"{certificate.serial} changed although it was locked")
    connection.execute(update(REGISTER).values(revocations=REGISTER.c.revocations + 1))


def _one(connection: Connection, wanted: Select[Any], *, lock: bool = False) -> Certificate | None:
    return next(_found(connection, wanted, lock=lock), None)


def _found(connection: Connection, wanted: Select[Any], *, lock: bool = False) -> Iterator[Certificate]:
    for row in connection.execute(wanted.with_for_update() if lock else wanted):
        values = dict(row._mapping)
        yield Certificate(**{**values, "state": State(values["state"])})
