"""The keys of a token: paired with their certificates, and chosen for a job.

A key and a certificate belong together when they share CKA_ID and, where the token shows the public key, that too; a
pair whose ids differ is still found by its public key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from ushield_hw.cms import CertificateFacts
from ushield_hw.cryptoki.model import CertificateRecord, KeyRecord
from ushield_hw.errors import (
    CertificateExpired,
    CertificateMultiple,
    CertificateNotFound,
    InputError,
)
from ushield_hw.order import KeyUse
from ushield_hw.order.values import time_text
from ushield_hw.session import Session
from ushield_hw.suites import KeyKind

PENDING: Final = "#pending"
"""Ends the label of a key or certificate that is not in use yet: a renewal that was not finished."""

REPLACED: Final = "#replaced"
"""Ends the label of one that gives way to any newer pair of its subject and use, whoever has issued that."""

_LEAST_RSA_BITS: Final = 2048


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate on a token and, where there is one, its private key.

    Attributes:
        certificate: the object on the token.
        facts: what the certificate says.
        key: the private key; None where there is none or it cannot be seen.
        has_key: True or False where that is known; None before login on a token that hides private keys.
        superseded: a newer pair for the same subject, issuer and use is in use.
    """

    certificate: CertificateRecord
    facts: CertificateFacts
    key: KeyRecord | None
    has_key: bool | None
    superseded: bool = False

    @property
    def key_id(self) -> str:
        """The CKA_ID in lower-case hex: the key's, or the certificate's where there is no key."""
        return (self.key or self.certificate).key_id.hex()

    @property
    def pending(self) -> bool:
        """Whether it is a renewal's new pair that was not put into use yet."""
        return self.certificate.label.endswith(PENDING)

    @property
    def activated(self) -> bool:
        """Whether the pair is in use: neither pending nor superseded."""
        return not self.pending and not self.superseded

    def brief(self) -> str:
        """Return what tells it from others: its id, whose it is, and how long it is valid."""
        return f"{self.key_id} {self.facts.subject_text()} ({time_text(self.facts.not_after)})"

    def fits(self, use: KeyUse) -> bool:
        """Tell whether the certificate allows a job; one without a keyUsage extension allows every job."""
        facts = self.facts
        strong = facts.key is not KeyKind.RSA or facts.key_bits >= _LEAST_RSA_BITS
        return (
            facts.key is not None and strong and (facts.key_usage is None or not use.usages.isdisjoint(facts.key_usage))
        )

    def valid_at(self, moment: datetime) -> bool:
        """Tell whether the certificate is within its time."""
        return self.facts.not_before <= moment <= self.facts.not_after

    def to_json(self) -> dict[str, object]:
        """Return what documents say of a pair."""
        return {
            "key_id": self.key_id,
            "label": self.certificate.label,
            "subject": self.facts.subject_text(),
            "issuer": self.facts.issuer_text(),
            "serial": self.facts.serial_hex,
            "not_before": time_text(self.facts.not_before),
            "not_after": time_text(self.facts.not_after),
            "key_usage": None if self.facts.key_usage is None else sorted(self.facts.key_usage),
            "has_key": self.has_key,
            "activated": self.activated,
        }


@dataclass(frozen=True, slots=True)
class KeyChoice:
    """Which key a person wants; nothing set means the newest that fits."""

    key_id: bytes | None = None
    label: str | None = None

    def takes(self, pair: Pair) -> bool:
        """Tell whether a pair is one of those asked for."""
        ids = {pair.certificate.key_id} | ({pair.key.key_id} if pair.key else set())
        labels = {pair.certificate.label} | ({pair.key.label} if pair.key else set())
        return (self.key_id is None or self.key_id in ids) and (self.label is None or self.label in labels)


ANY: Final = KeyChoice()


def pairs(
    certificates: Iterable[CertificateRecord],
    keys: Sequence[KeyRecord],
    *,
    logged_in: bool,
    now: datetime | None = None,
) -> tuple[Pair, ...]:
    """Pair certificates with keys. Objects that are no X.509 certificate are left out."""
    moment = now or datetime.now(UTC)
    found = []
    for certificate in certificates:
        try:
            facts = CertificateFacts.read(certificate.der)
        except InputError:
            continue
        key = _key_of(certificate, facts, keys)
        public = any(_same_public(record, facts) for record in keys if not record.private)
        has_key = True if key is not None else False if logged_in else True if public else None
        found.append(Pair(certificate, facts, key, has_key))
    living: dict[bytes, list[Pair]] = {}
    for pair in found:
        if not pair.pending and pair.has_key is not False and pair.valid_at(moment):
            living.setdefault(pair.facts.subject, []).append(pair)
    return tuple(
        replace(pair, superseded=True) if _superseded(pair, living.get(pair.facts.subject, ())) else pair
        for pair in found
    )


def session_pairs(session: Session) -> tuple[Pair, ...]:
    """Return the pairs of an open token."""
    return pairs(session.certificates(), session.keys(), logged_in=True)


def choose(found: Sequence[Pair], use: KeyUse, choice: KeyChoice = ANY, now: datetime | None = None) -> Pair:
    """Return the newest activated pair that fits a job.

    Raises:
        CertificateNotFound: none; says what there is.
        CertificateExpired: the only ones that would fit are out of their time.
        CertificateMultiple: pairs of different subjects or issuers fit; somebody must choose.
    """
    moment = now or datetime.now(UTC)
    asked = [pair for pair in found if choice.takes(pair) and pair.key is not None and pair.key.can_sign]
    usable = [pair for pair in asked if not pair.pending and pair.fits(use)]
    usable = [pair for pair in usable if pair.activated] or usable  # a superseded one may be asked for by its id
    if not usable:
        code = "KEY_USE_NOT_ALLOWED" if any(not pair.pending for pair in asked) else None
        candidates = [pair.brief() for pair in found]
        raise CertificateNotFound(code, use=use.value, candidates=candidates)
    living = [pair for pair in usable if pair.valid_at(moment)]
    if not living:
        last = max(usable, key=lambda pair: pair.facts.not_after)
        code = "CERTIFICATE_NOT_YET_VALID" if last.facts.not_before > moment else None
        raise CertificateExpired(
            code,
            not_before=time_text(last.facts.not_before),
            not_after=time_text(last.facts.not_after),
            subject=last.facts.subject_text(),
            key_id=last.key_id,
        )
    if len({(pair.facts.subject, pair.facts.issuer) for pair in living}) > 1:
        raise CertificateMultiple(candidates=[pair.brief() for pair in living])
    return max(living, key=lambda pair: (pair.facts.not_before, pair.facts.not_after))


def _superseded(pair: Pair, living: Iterable[Pair]) -> bool:
    """Tell whether another pair signs in this one's place: newer, in use, for the same subject, issuer and use."""
    newer = (other for other in living if _age(other.facts) > _age(pair.facts))
    return any(_kin(other.facts, pair) == _kin(pair.facts, pair) for other in newer)


def _kin(facts: CertificateFacts, of: Pair) -> tuple[object, ...]:
    """Return what else must be the same, beside the subject, for one to take the other's place."""
    marked = of.certificate.label.endswith(REPLACED)
    return facts.key_usage, None if marked else facts.issuer


def _age(facts: CertificateFacts) -> tuple[datetime, datetime]:
    return facts.not_before, facts.not_after


def _key_of(certificate: CertificateRecord, facts: CertificateFacts, keys: Sequence[KeyRecord]) -> KeyRecord | None:
    """Return the certificate's private key: same CKA_ID unless the public key says otherwise; else by public key."""
    private = [key for key in keys if key.private]
    by_id = [key for key in private if key.key_id == certificate.key_id and certificate.key_id]
    for key in by_id:
        if not _other_public(key, facts, keys):
            return key
    ids = {record.key_id for record in keys if _same_public(record, facts)}
    return next((key for key in private if _same_public(key, facts) or (key.key_id and key.key_id in ids)), None)


def _same_public(record: KeyRecord, facts: CertificateFacts) -> bool:
    # An uncompressed point or a modulus is long enough to stand for the key where it appears in the certificate's own.
    return record.public is not None and record.public in facts.spki


def _other_public(key: KeyRecord, facts: CertificateFacts, keys: Sequence[KeyRecord]) -> bool:
    """Tell whether what is known of a private key's public half contradicts the certificate."""
    halves = [key, *(record for record in keys if not record.private and record.key_id == key.key_id)]
    known = [half for half in halves if half.public is not None]
    return bool(known) and not any(_same_public(half, facts) for half in known)
