"""The keys of a token with their certificates: every certificate once, with the private key that is its own.

Which key that is, ``pairing`` decides; which pair does a job, ``selection``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from ushield_hw.backend.model import CertificateRecord, KeyRecord
from ushield_hw.cms import CertificateFacts
from ushield_hw.cms.names import Canonical, comparable
from ushield_hw.crypto.algorithms import RSA_LEAST_BITS, KeyKind
from ushield_hw.errors import CertificateMultiple, InputError
from ushield_hw.order import KeyUse
from ushield_hw.order.times import time_text
from ushield_hw.token.key_matching import KeyRing, Proof, Wanted, trimmed, with_id
from ushield_hw.token.session import Session

PENDING: Final = "#pending"
"""Ends the label of a key or certificate that is not in use yet: a renewal that was not finished."""

REPLACED: Final = "#replaced"
"""Ends the label of one that gives way to any newer pair of its subject and use, whoever has issued that."""

_FINGERPRINT: Final = 16  # hex digits of a certificate's SHA-256 that a list shows: --certificate takes them
_LEAST_PREFIX: Final = 8
_HEX: Final = re.compile("[0-9a-f]{1,128}")


class Why(Enum):
    """Why a pair does not do a job."""

    NOT_ASKED = "not-asked"  # another key or certificate was named
    PENDING = "pending"
    KIND = "kind"  # a kind of key that no signed order may use
    WEAK = "weak"  # an RSA key that is too short
    VERSION_1 = "version-1"  # a certificate that cannot say what its key is for
    NOT_TOLD_APART = "not-told-apart"  # several private keys may be its own
    OTHER_KEY = "other-key"  # the key that bears its id is another certificate's
    NO_KEY = "no-key"
    KEY_HIDDEN = "key-hidden"  # nobody is logged in
    NO_SIGN = "no-sign"  # CKA_SIGN is false
    USAGE = "usage"  # the certificate's keyUsage
    NO_MECHANISM = "no-mechanism"  # the token offers none for this kind of key
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate on a token and, where there is one, its private key.

    Attributes:
        certificate: the object on the token; of several that hold the same certificate, the one that stands for it.
        facts: what the certificate says.
        key: the private key; None where there is none, it cannot be seen, or it cannot be told from others.
        has_key: True or False where that is known; None before login on a token that hides private keys, and where
            several keys cannot be told apart.
        superseded: a newer pair for the same subject, issuer and use is in use.
        proof: what makes the key the certificate's; None without a key.
        rivals: the private keys that cannot be told apart, each of which may be the certificate's.
        of_another: what bears the certificate's CKA_ID is the key of another certificate.
        copies: the other objects that hold the same certificate.
    """

    certificate: CertificateRecord
    facts: CertificateFacts
    key: KeyRecord | None
    has_key: bool | None
    superseded: bool = False
    proof: Proof | None = None
    rivals: tuple[KeyRecord, ...] = ()
    of_another: bool = False
    copies: tuple[CertificateRecord, ...] = field(default=(), repr=False)

    @property
    def key_id(self) -> str:
        """The CKA_ID in lower-case hex: the key's, or the certificate's where there is no key."""
        return (self.key or self.certificate).key_id.hex()

    @property
    def pending(self) -> bool:
        """Whether it is a renewal's new pair that was not put into use yet."""
        return all(one.label.endswith(PENDING) for one in (self.certificate, *self.copies))

    @property
    def activated(self) -> bool:
        """Whether the pair is in use: neither pending nor superseded."""
        return not self.pending and not self.superseded

    @property
    def fingerprint(self) -> str:
        """What ``--certificate`` takes for this certificate and for no other: the beginning of its SHA-256."""
        return self.facts.sha256.hex()[:_FINGERPRINT]

    @property
    def names(self) -> tuple[Canonical | bytes, Canonical | bytes]:
        """Subject and issuer, as they are compared (RFC 5280 section 7.1)."""
        return comparable(self.facts.subject), comparable(self.facts.issuer)

    @property
    def subject(self) -> str:
        """The subject as RFC 4514 writes it; of a name that cannot be read, its DER in hex."""
        try:
            return self.facts.subject_text()
        except InputError:
            return f"#{self.facts.subject.hex()}"

    def brief(self) -> str:
        """Return what tells it from others: its id, whose it is, how long it is valid, and how to choose it."""
        return f"{self.key_id} {self.subject} ({time_text(self.facts.not_after)}) --certificate {self.fingerprint}"

    def fits(self, use: KeyUse) -> bool:
        """Tell whether the certificate allows a job; one without a keyUsage extension allows every job."""
        return self.unfit(use) is None

    def unfit(self, use: KeyUse) -> Why | None:
        """Return why the certificate does not allow a job; None: it does."""
        facts = self.facts
        if facts.key is None:
            return Why.KIND
        if facts.key is KeyKind.RSA and facts.key_bits < RSA_LEAST_BITS:
            return Why.WEAK
        if facts.version == 1:
            return Why.VERSION_1
        return Why.USAGE if facts.key_usage is not None and use.usages.isdisjoint(facts.key_usage) else None

    @property
    def age(self) -> tuple[datetime, datetime]:
        """What newer pairs have more of."""
        return self.facts.not_before, self.facts.not_after

    def valid_at(self, moment: datetime) -> bool:
        """Tell whether the certificate is within its time."""
        return self.facts.not_before <= moment <= self.facts.not_after

    def to_json(self) -> dict[str, object]:
        """Return what documents say of a pair."""
        return {
            "key_id": self.key_id,
            "label": self.certificate.label,
            "subject": self.subject,
            "issuer": _issuer(self.facts),
            "serial": self.facts.serial_hex,
            "sha256": self.facts.sha256.hex(),
            "not_before": time_text(self.facts.not_before),
            "not_after": time_text(self.facts.not_after),
            "key_usage": None if self.facts.key_usage is None else sorted(self.facts.key_usage),
            "has_key": self.has_key,
            "activated": self.activated,
        }

    def __repr__(self) -> str:
        return f"<Pair {self.key_id} serial={self.facts.serial_hex}>"


def _issuer(facts: CertificateFacts) -> str:
    try:
        return facts.issuer_text()
    except InputError:
        return f"#{facts.issuer.hex()}"


@dataclass(frozen=True, slots=True)
class KeyChoice:
    """Which key a person wants; nothing set means the newest that fits.

    Attributes:
        key_id: its CKA_ID or its certificate's.
        label: its label or its certificate's.
        certificate: the certificate's serial number, or 8 or more digits of its SHA-256 from the left, in hex.
    """

    key_id: bytes | None = None
    label: str | None = None
    certificate: str | None = None

    def __post_init__(self) -> None:
        """Bring ``certificate`` into lower case without colons.

        Raises:
            InputError: ``CERTIFICATE_CHOICE_INVALID``: it is no hex number.
        """
        if self.certificate is not None:
            plain = self.certificate.strip().lower().replace(":", "").removeprefix("0x")
            if not _HEX.fullmatch(plain):
                raise InputError("CERTIFICATE_CHOICE_INVALID", certificate=self.certificate)
            object.__setattr__(self, "certificate", plain)

    def takes(self, pair: Pair) -> bool:
        """Tell whether a pair is one of those asked for."""
        keys = [*([pair.key] if pair.key else pair.rivals)]
        objects = [pair.certificate, *pair.copies, *keys]
        return (
            (self.key_id is None or any(_same_id(one.key_id, self.key_id) for one in objects))
            and (self.label is None or any(one.label == self.label for one in objects))
            and (self.certificate is None or self.names(pair.facts))
        )

    def among(self, found: Iterable[Pair]) -> list[Pair]:
        """Return the pairs asked for; an id that certificates bear means these, and not another one of the same key."""
        named = [pair for pair in found if self.takes(pair)]
        bear_it = [pair for pair in named if any(one.key_id == self.key_id for one in (pair.certificate, *pair.copies))]
        return bear_it or named

    def resolved(self, pair: Pair) -> Pair:
        """Return a pair with the one key of its rivals that is asked for by id or label, if that is one."""
        named = [
            key
            for key in pair.rivals
            if (self.key_id is None or _same_id(key.key_id, self.key_id)) and self.label in (None, key.label)
        ]
        if len(named) != 1:
            return pair
        return replace(pair, key=named[0], has_key=True, proof=Proof.ID, rivals=())

    def names(self, facts: CertificateFacts) -> bool:
        """Tell whether ``certificate`` is this one's serial number or fingerprint."""
        named = self.certificate or ""
        by_digest = len(named) >= _LEAST_PREFIX and facts.sha256.hex().startswith(named)
        return by_digest or int(named, 16) == facts.serial


ANY: Final = KeyChoice()


def _same_id(one: bytes, other: bytes) -> bool:
    return trimmed(one) == trimmed(other)


# --- pairs ------------------------------------------------------------------------------------------------------------


def pairs(
    certificates: Iterable[CertificateRecord],
    keys: Iterable[KeyRecord],
    *,
    logged_in: bool,
    now: datetime | None = None,
) -> tuple[Pair, ...]:
    """Pair certificates with keys, each certificate once. Objects that are no X.509 certificate are left out."""
    moment = now or datetime.now(UTC)
    ring = KeyRing(keys)
    read = _read(certificates)
    claimed = {(facts.key, trimmed(one.key_id)) for facts, objects in read for one in objects if one.key_id}
    found = [_paired(facts, objects, ring, claimed, logged_in=logged_in) for facts, objects in read]
    living: dict[Canonical | bytes, list[Pair]] = {}
    for pair in found:
        if not pair.pending and pair.has_key is not False and pair.valid_at(moment):
            living.setdefault(comparable(pair.facts.subject), []).append(pair)
    return tuple(
        replace(pair, superseded=True) if _superseded(pair, living.get(comparable(pair.facts.subject), ())) else pair
        for pair in found
    )


def session_pairs(session: Session) -> tuple[Pair, ...]:
    """Return the pairs of an open token."""
    return pairs(session.certificates(), session.keys(), logged_in=session.shows_all)


def private_key_of(session: Session, kind: KeyKind | None, spki: bytes, key_id: bytes) -> KeyRecord | None:
    """Return the private key of a public one on an open token; None: it is not there.

    Args:
        session: an open token.
        kind: of key.
        spki: the public key, SubjectPublicKeyInfo, DER.
        key_id: its CKA_ID.

    Raises:
        CertificateMultiple: ``KEYS_NOT_TOLD_APART``.
    """
    match = KeyRing(session.keys()).match(Wanted.by(kind, spki), key_id)
    if match.rivals:
        raise not_told_apart(match.rivals, key_id.hex())
    return match.key


def not_told_apart(rivals: Iterable[KeyRecord], wanted: str) -> CertificateMultiple:
    """Return the error that says that several private keys may be the one that is wanted, and which."""
    candidates = [f"{key.key_id.hex() or '-'} {key.label or '-'}" for key in rivals]
    return CertificateMultiple("KEYS_NOT_TOLD_APART", wanted=wanted, candidates=candidates)


def _read(certificates: Iterable[CertificateRecord]) -> list[tuple[CertificateFacts, list[CertificateRecord]]]:
    """Return each certificate once, with the objects that hold it."""
    found: dict[bytes, tuple[CertificateFacts, list[CertificateRecord]]] = {}
    for record in certificates:
        try:
            known = found.setdefault(record.der, (CertificateFacts.read(record.der), []))
        except InputError:
            continue
        if all(record.handle != other.handle for other in known[1]):
            known[1].append(record)
    return list(found.values())


def _paired(
    facts: CertificateFacts,
    objects: Sequence[CertificateRecord],
    ring: KeyRing,
    claimed: set[tuple[KeyKind | None, bytes]],
    *,
    logged_in: bool,
) -> Pair:
    def taken(key: KeyRecord) -> bool:
        return facts.is_ca or (facts.key, trimmed(key.key_id)) in claimed  # a CA's key is on no person's token

    wanted = Wanted.by(facts.key, facts.spki)
    matches = [ring.match(wanted, one.key_id, taken) for one in objects]
    match = next((found for found in matches if found.key is not None), matches[0])
    best = min(objects, key=lambda one: (one.label.endswith(PENDING), not _beside(one, match.key)))
    if match.key is not None:
        has_key: bool | None = True
    elif match.rivals:
        has_key = None
    else:
        has_key = False if logged_in else True if ring.shows(wanted) else None
    copies = tuple(one for one in objects if one is not best)
    return Pair(best, facts, match.key, has_key, False, match.proof, match.rivals, match.of_another, copies)


def _beside(certificate: CertificateRecord, key: KeyRecord | None) -> bool:
    return key is not None and bool(with_id([key], certificate.key_id))


def _superseded(pair: Pair, living: Iterable[Pair]) -> bool:
    """Tell whether another pair signs in this one's place: newer, in use, for the same subject, issuer and use."""
    newer = (other for other in living if other.age > pair.age)
    return any(_kin(other.facts, pair) == _kin(pair.facts, pair) for other in newer)


def _kin(facts: CertificateFacts, of: Pair) -> tuple[object, ...]:
    """Return what else must be the same, beside the subject, for one to take the other's place."""
    marked = of.certificate.label.endswith(REPLACED)
    return facts.key_usage, None if marked else comparable(facts.issuer)
