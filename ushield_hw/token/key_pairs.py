"""The key pairs of a token: every certificate once, with its private key.

:mod:`~ushield_hw.token.key_matching` decides which private key belongs to a certificate, and
:mod:`~ushield_hw.token.selection` which pair is used for a purpose.
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
from ushield_hw.crypto.algorithms import KeyKind, too_short
from ushield_hw.errors import CertificateMultiple, InputError
from ushield_hw.order import KeyUse
from ushield_hw.order.times import time_text
from ushield_hw.token.key_matching import KeyRing, Proof, Wanted, trimmed, with_id
from ushield_hw.token.session import Session

PENDING: Final = "#pending"
"""Label suffix of a key or certificate that is not in use yet: its renewal is not finished."""

REPLACED: Final = "#replaced"
"""Label suffix of a pair that is superseded by any newer pair with its subject and use, from any issuer."""

_FINGERPRINT: Final = 16  # hex digits of a certificate's SHA-256 in lists; --certificate accepts them
_LEAST_PREFIX: Final = 8
_HEX: Final = re.compile("[0-9a-f]{1,128}")


class Why(Enum):
    """The reason why a pair is not used for a purpose."""

    NOT_ASKED = "not-asked"  # another key or certificate was named
    PENDING = "pending"
    KIND = "kind"  # a kind of key not allowed in signed orders
    WEAK = "weak"  # an RSA key that is too short
    VERSION_1 = "version-1"  # a version 1 certificate cannot state a key usage
    AMBIGUOUS = "ambiguous"  # several private keys may belong to the certificate
    OTHER_KEY = "other-key"  # the key with the certificate's CKA_ID belongs to another certificate
    NO_KEY = "no-key"
    KEY_HIDDEN = "key-hidden"  # private keys are visible only after a login
    NO_SIGN = "no-sign"  # CKA_SIGN is false
    USAGE = "usage"  # the certificate's keyUsage
    NO_MECHANISM = "no-mechanism"  # the token offers no mechanism for this kind of key
    NOT_YET_VALID = "not-yet-valid"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate on a token and, if there is one, its private key.

    Attributes:
        certificate: The object on the token. If several objects hold the same certificate, the preferred one.
        facts: The certificate's fields.
        key: The private key. None if there is none, it is not visible, or it cannot be distinguished from others.
        has_key: Whether there is a private key. None if unknown: before login on a token that hides private keys, or if
            several keys cannot be distinguished.
        superseded: Whether a newer pair with the same subject, issuer and use is active.
        proof: Why the key belongs to the certificate; None without a key.
        rivals: The private keys that cannot be distinguished, any of which may belong to the certificate.
        of_another: Whether the key with the certificate's CKA_ID belongs to another certificate.
        copies: The other objects that hold the same certificate.
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
        """The CKA_ID of the key, in lower-case hex; without a key, that of the certificate."""
        return (self.key or self.certificate).key_id.hex()

    @property
    def pending(self) -> bool:
        """Whether this is the new pair of a renewal that is not yet activated."""
        return all(one.label.endswith(PENDING) for one in (self.certificate, *self.copies))

    @property
    def activated(self) -> bool:
        """Whether the pair is in use: neither pending nor superseded."""
        return not self.pending and not self.superseded

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the certificate's SHA-256; ``--certificate`` accepts it."""
        return self.facts.sha256.hex()[:_FINGERPRINT]

    @property
    def names(self) -> tuple[Canonical | bytes, Canonical | bytes]:
        """Subject and issuer, in the form used for comparison (RFC 5280 section 7.1)."""
        return comparable(self.facts.subject), comparable(self.facts.issuer)

    @property
    def subject(self) -> str:
        """The subject in RFC 4514 form; for a name that cannot be read, its DER in hex."""
        try:
            return self.facts.subject_text()
        except InputError:
            return f"#{self.facts.subject.hex()}"

    def brief(self) -> str:
        """Return one line for lists of candidates: key id, subject, end of validity, and the option to select it."""
        return f"{self.key_id} {self.subject} ({time_text(self.facts.not_after)}) --certificate {self.fingerprint}"

    def fits(self, use: KeyUse) -> bool:
        """Tell whether the certificate allows a use. A certificate without the keyUsage extension allows every use.

        Args:
            use: The use of the key.
        """
        return self.unfit(use) is None

    def unfit(self, use: KeyUse) -> Why | None:
        """Return why the certificate does not allow a use, or None if it does.

        Args:
            use: The use of the key.
        """
        facts = self.facts
        if facts.key is None:
            return Why.KIND
        if too_short(facts.key, facts.key_bits):
            return Why.WEAK
        if facts.version == 1:
            return Why.VERSION_1
        return Why.USAGE if facts.key_usage is not None and use.usages.isdisjoint(facts.key_usage) else None

    @property
    def age(self) -> tuple[datetime, datetime]:
        """The sort key for "newer": start, then end of validity."""
        return self.facts.not_before, self.facts.not_after

    def valid_at(self, moment: datetime) -> bool:
        """Tell whether a time is within the certificate's validity.

        Args:
            moment: A timezone-aware time.
        """
        return self.facts.not_before <= moment <= self.facts.not_after

    def to_json(self) -> dict[str, object]:
        """Return the pair for JSON output."""
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
    """The key requested by the user. Without any attribute: the newest that fits.

    Attributes:
        key_id: The CKA_ID of the key or its certificate.
        label: The label of the key or its certificate.
        certificate: The certificate's serial number, or at least 8 leading digits of its SHA-256, in hex.
    """

    key_id: bytes | None = None
    label: str | None = None
    certificate: str | None = None

    def __post_init__(self) -> None:
        """Normalize ``certificate`` to lower case without colons.

        Raises:
            InputError: ``CERTIFICATE_CHOICE_INVALID``: it is not a hex number.
        """
        if self.certificate is not None:
            plain = self.certificate.strip().lower().replace(":", "").removeprefix("0x")
            if not _HEX.fullmatch(plain):
                raise InputError("CERTIFICATE_CHOICE_INVALID", certificate=self.certificate)
            object.__setattr__(self, "certificate", plain)

    def takes(self, pair: Pair) -> bool:
        """Tell whether a pair matches this choice.

        Args:
            pair: The pair to compare with.
        """
        keys = [*([pair.key] if pair.key else pair.rivals)]
        objects = [pair.certificate, *pair.copies, *keys]
        return (
            (self.key_id is None or any(_same_id(one.key_id, self.key_id) for one in objects))
            and (self.label is None or any(one.label == self.label for one in objects))
            and (self.certificate is None or self.names(pair.facts))
        )

    def among(self, found: Iterable[Pair]) -> list[Pair]:
        """Return the matching pairs. If certificates have the requested id, only those, and no others of the same key.

        Args:
            found: The pairs to select from.
        """
        named = [pair for pair in found if self.takes(pair)]
        bear_it = [pair for pair in named if any(one.key_id == self.key_id for one in (pair.certificate, *pair.copies))]
        return bear_it or named

    def resolved(self, pair: Pair) -> Pair:
        """Return a pair with the rival key that this choice selects by id or label, if exactly one does.

        Args:
            pair: A pair, possibly with rival keys.

        Returns:
            The pair with its key set, or the pair unchanged.
        """
        named = [
            key
            for key in pair.rivals
            if (self.key_id is None or _same_id(key.key_id, self.key_id)) and self.label in (None, key.label)
        ]
        if len(named) != 1:
            return pair
        return replace(pair, key=named[0], has_key=True, proof=Proof.ID, rivals=())

    def names(self, facts: CertificateFacts) -> bool:
        """Tell whether ``certificate`` is the serial number or a fingerprint of a certificate.

        Args:
            facts: The certificate.
        """
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
    """Pair certificates with keys, each certificate once. Objects that are not X.509 certificates are left out.

    Args:
        certificates: The certificate objects on the token.
        keys: The key objects on the token.
        logged_in: Whether all private keys are visible.
        now: A timezone-aware time; default: the current time.
    """
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
    """Return the key pairs of an open token.

    Args:
        session: An open session.

    Raises:
        TokenError, DriverError: The token cannot be read.
    """
    return pairs(session.certificates(), session.keys(), logged_in=session.shows_all)


def private_key_of(session: Session, kind: KeyKind | None, spki: bytes, key_id: bytes) -> KeyRecord | None:
    """Return the private key for a public key on an open token, or None if it is not there.

    Args:
        session: An open session.
        kind: The kind of key.
        spki: The public key, SubjectPublicKeyInfo, DER.
        key_id: Its CKA_ID.

    Raises:
        CertificateMultiple: ``KEYS_AMBIGUOUS``.
    """
    match = KeyRing(session.keys()).match(Wanted.by(kind, spki), key_id)
    if match.rivals:
        raise keys_ambiguous(match.rivals, key_id.hex())
    return match.key


def keys_ambiguous(rivals: Iterable[KeyRecord], wanted: str) -> CertificateMultiple:
    """Return the error for several private keys that cannot be distinguished, with the keys as candidates."""
    candidates = [f"{key.key_id.hex() or '-'} {key.label or '-'}" for key in rivals]
    return CertificateMultiple("KEYS_AMBIGUOUS", wanted=wanted, candidates=candidates)


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
        return facts.is_ca or (facts.key, trimmed(key.key_id)) in claimed  # the key of a CA is not on a user's token

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
    """Tell whether a newer active pair with the same subject, issuer and use signs instead of this one."""
    newer = (other for other in living if other.age > pair.age)
    return any(_kin(other.facts, pair) == _kin(pair.facts, pair) for other in newer)


def _kin(facts: CertificateFacts, of: Pair) -> tuple[object, ...]:
    """Return what must be equal, in addition to the subject, for one pair to supersede the other."""
    marked = of.certificate.label.endswith(REPLACED)
    return facts.key_usage, None if marked else comparable(facts.issuer)
