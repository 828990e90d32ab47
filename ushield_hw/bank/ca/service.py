"""The CA service: database, CA key, clock and the bank's policy."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ushield_hw.bank.ca import certificates
from ushield_hw.bank.ca.authority import Authority, Wanted
from ushield_hw.bank.ca.certificates import Certificate, State
from ushield_hw.bank.ca.codes import UnknownCustomers
from ushield_hw.bank.ca.profiles import PROFILES
from ushield_hw.bank.database import Database
from ushield_hw.errors import RequestRefused
from ushield_hw.order import Rules
from ushield_hw.system.lazy import cached_property
from ushield_hw.verifier import TrustStore


@dataclass(frozen=True, slots=True)
class Policy:
    """The bank's policy.

    Attributes:
        bank_id: its short name.
        origin: its web origin.
        allow_same_key: whether a certificate may be renewed for the same key.
    """

    bank_id: str
    origin: str
    allow_same_key: bool = False

    @property
    def rules(self) -> Rules:
        """The schema rules for this bank's documents; an http origin marks a demo."""
        return Rules(demo=self.origin.startswith("http://"))


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class CaService:
    """A running CA. Thread-safe; several processes may serve the same CA.

    Attributes:
        database: the database, migrated.
        authority: the CA's certificate and key.
        policy: the bank's policy.
        now: the clock; returns aware datetimes.
        unknown_customers: counts wrong codes for unknown customer numbers.
        making_crl: lock that allows one CRL to be created at a time.
    """

    database: Database
    authority: Authority
    policy: Policy
    now: Callable[[], datetime] = _now
    unknown_customers: UnknownCustomers = field(default_factory=UnknownCustomers, repr=False)
    making_crl: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def trust(self) -> TrustStore:
        """A trust store with this CA; revocation is checked in the database instead."""
        return TrustStore([self.authority.certificate])

    def issue(self, reserve: Callable[[Connection], Certificate]) -> Certificate:
        """Return the certificate for a request. Idempotent: the same request gets the same certificate.

        Args:
            reserve: finds the certificate in the register or adds it. Runs in a transaction, and a second time if
                another process has meanwhile added one for the same key.

        Returns:
            The issued certificate.

        Raises:
            RequestRefused: from ``reserve``, or because the certificate was revoked before it was signed.
            UShieldError: the CA key failed; a retry yields the same certificate.
        """
        try:
            with self.database.writing() as connection:
                found = reserve(connection)
        except IntegrityError:
            with self.database.writing() as connection:
                found = reserve(connection)
        if found.der is None and found.state is State.RESERVED:
            found = self._signed(found)
        if found.state is State.REVOKED:
            raise RequestRefused("RENEWAL_CERTIFICATE_REVOKED", serial=found.serial)
        return found

    def _signed(self, reserved: Certificate) -> Certificate:
        wanted = Wanted(
            int(reserved.serial, 16),
            self._name(reserved),
            reserved.spki,
            PROFILES[reserved.profile],
            reserved.not_before,
            reserved.not_after,
        )
        der = self.authority.issue(wanted)
        with self.database.writing() as connection:
            certificates.sign(connection, reserved, der, hashlib.sha256(der).hexdigest())
            state = State.ISSUED if reserved.replaces else State.ACTIVE
            certificates.move(connection, reserved, state, self.now())
            found = certificates.by_serial(connection, reserved.serial)
        if found is None:
            raise AssertionError(f"{reserved.serial} has gone from the register")
        return found

    def _name(self, reserved: Certificate) -> x509.Name:
        """Return the subject; for a renewal it is byte for byte the subject of the replaced certificate."""
        if reserved.replaces is None:
            return x509.Name.from_rfc4514_string(reserved.subject)
        with self.database.reading() as connection:
            old = certificates.by_serial(connection, reserved.replaces)
        if old is None:
            raise AssertionError(f"{reserved.replaces} has gone from the register")
        return x509.load_der_x509_certificate(old.signed).subject
