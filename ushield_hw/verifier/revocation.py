"""Evaluate CRLs for the certificates of a path (RFC 5280 section 6.3).

A certificate listed on a CRL of its own issuer is revoked, even if that CRL is limited to some reasons or is a delta
CRL. The absence of a certificate from a CRL counts only within the CRL's scope (certificate type, distribution point,
reasons), and not at all if it is a delta CRL or has an unknown critical extension.

A CRL belongs to the certificate's issuer if it is signed with the key that signed the certificate, or with another key
of the same name that has a path to the same trusted CA. The second case covers a CA key rollover: CRLs signed with the
new key cover certificates issued with the old one. Indirect CRLs of other issuers do not prove that a certificate is
good.

Expired certificates are dropped from CRLs, so a CRL issued after the certificate expired proves nothing if the
certificate is not on it. :mod:`ushield_hw.verifier.status` evaluates the result at a point in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from ushield_hw.cms import names
from ushield_hw.cms.names import Canonical
from ushield_hw.crypto.der import SEQUENCE, SET, DerError, Reader, tlv
from ushield_hw.errors import InputError
from ushield_hw.verifier import extensions as ext
from ushield_hw.verifier.certificate import Certificate
from ushield_hw.verifier.crl import REMOVED, UNSPECIFIED, Crl, Entry
from ushield_hw.verifier.extensions import ALL_REASONS, CrlPoint, GeneralName
from ushield_hw.verifier.search import Chain
from ushield_hw.verifier.signatures import algorithm, is_right, key_problem
from ushield_hw.verifier.status import Finding, Status

_MALFORMED: Final = "malformed"
_EVER: Final = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
_RELATIVE: Final = 0xA1
_KEYS_REMEMBERED: Final = 64


class RevocationList:
    """A CRL with a cache of the keys that signed it. Immutable except for the cache.

    Args:
        der: the CRL, DER.
        place: the file or other source, for the error.

    Raises:
        InputError: ``CRL_FILE_INVALID``: it is not a CRL in DER.
    """

    def __init__(self, der: bytes, place: str) -> None:
        try:
            self.crl = Crl(der)
        except DerError as broken:
            raise InputError("CRL_FILE_INVALID", file=place, problem="trust_no_crl") from broken
        self._signed_by: dict[bytes, bool] = {}

    def is_signed_by(self, issuer: Certificate) -> bool:
        """Return whether the CRL is signed by ``issuer`` with an algorithm that is not weak.

        The issuer's key must also be accepted for signing CRLs.
        """
        spki, how = issuer.facts.spki, algorithm(self.crl.algorithm)
        if how is None or how.weak or not issuer.signs_crls or key_problem(spki) is not None:
            return False
        said = self.crl.authority
        if said is not None and said.key is not None and issuer.key_id not in (None, said.key):
            return False
        if spki not in self._signed_by:
            if len(self._signed_by) >= _KEYS_REMEMBERED:
                self._signed_by.clear()
            self._signed_by[spki] = is_right(spki, self.crl.algorithm, self.crl.signature, self.crl.signed)
        return self._signed_by[spki]


Lists = dict[Canonical, list[RevocationList]]


def by_issuer(crls: Iterable[RevocationList]) -> Lists:
    """Return the CRLs grouped by issuer name."""
    found: Lists = {}
    for one in crls:
        found.setdefault(one.crl.issuer, []).append(one)
    return found


@dataclass(frozen=True, slots=True)
class OtherKey:
    """Another key with the issuer's name: its certificate, and the path that leads to it."""

    certificate: Certificate
    path: Chain


OtherKeys = Callable[[Certificate, Certificate, Callable[[Certificate], bool]], OtherKey | None]
"""Takes issuer, trusted CA and a predicate; returns a matching key with the issuer's name below the same CA, or None.
"""


@dataclass(frozen=True, slots=True)
class _Key:
    """A key that may sign CRLs, the validity period of the path to it, and the revocation status of that path."""

    certificate: Certificate
    not_before: datetime = _EVER[0]
    not_after: datetime = _EVER[1]
    through: tuple[Status, ...] = ()


def statuses(path: Chain, crls: Lists, others: OtherKeys) -> tuple[Status, ...]:
    """Return the revocation status of each certificate of ``path`` except the trusted CA's, which cannot be revoked.

    Args:
        path: the signer's certificate first, the trusted CA's last. A signer that is itself trusted counts as its own
            issuer.
        crls: all available CRLs.
        others: finds other keys of an issuer.

    Raises:
        VerificationError: ``PATH_TOO_COMPLEX``: the search for another key exceeded the budget.
    """
    return _statuses(path, crls, others, {})


def _statuses(path: Chain, crls: Lists, others: OtherKeys, known: dict[bytes, _Key]) -> tuple[Status, ...]:
    """Implement :func:`statuses`. ``known`` caches other keys by certificate; each is evaluated once."""
    pairs = list(pairwise(path)) or [(path[0], path[0])]

    def lists(one: Certificate, issuer: Certificate) -> Iterator[tuple[RevocationList, _Key]]:
        for listed in crls.get(one.issuer, ()):
            other = None if listed.is_signed_by(issuer) else others(issuer, path[-1], listed.is_signed_by)
            yield listed, _Key(issuer) if other is None else _judged(other, crls, others, known)

    return tuple(_status(one, lists(one, issuer), is_signer=one is path[0]) for one, issuer in pairs)


def _judged(other: OtherKey, crls: Lists, others: OtherKeys, known: dict[bytes, _Key]) -> _Key:
    """Return another key with the revocation status of its path. CRLs of that key count for its own path too."""
    der = other.certificate.facts.der
    if der not in known:
        not_before = max(one.facts.not_before for one in other.path)
        not_after = min(one.facts.not_after for one in other.path)
        known[der] = _Key(other.certificate, not_before, not_after)
        through = _statuses(other.path, crls, others, known)
        known[der] = _Key(other.certificate, not_before, not_after, through)
    return known[der]


def _status(certificate: Certificate, lists: Iterable[tuple[RevocationList, _Key]], *, is_signer: bool) -> Status:
    findings: list[Finding] = []
    refused = False
    for one, key in lists:
        refused = True
        if one.is_signed_by(key.certificate):
            findings += _said(certificate, one.crl, key)
    findings.sort(key=lambda finding: finding.this_update, reverse=True)
    return Status(
        certificate.facts.serial_hex, certificate.facts.issuer_text(), is_signer, tuple(findings), refused=refused
    )


def _said(certificate: Certificate, crl: Crl, key: _Key) -> Iterator[Finding]:
    """Yield the finding of a CRL of the certificate's issuer, if it has one."""
    if crl.next_update is None:
        return
    try:
        entry = crl.entry(certificate.facts.serial, certificate.issuer)
        covered = _covered(certificate, crl)
    except DerError:
        return
    if entry is None and (not covered or crl.this_update > certificate.facts.not_after):
        return
    if entry is not None and entry.reason == REMOVED and not crl.is_delta:
        entry = Entry(entry.revoked, UNSPECIFIED)  # removeFromCRL is only meaningful in a delta CRL
    yield Finding(
        this_update=crl.this_update,
        next_update=crl.next_update,
        revoked=None if entry is None else entry.revoked,
        reason="" if entry is None else entry.reason,
        covers=covered,
        not_before=key.not_before,
        not_after=key.not_after,
        through=key.through,
    )


def _covered(certificate: Certificate, crl: Crl) -> int:
    """Return the reasons for which absence from the CRL proves that the certificate is not revoked."""
    scope = crl.scope
    if crl.is_delta or scope.is_indirect or not crl.is_clear:
        return 0
    if not (scope.of_cas if certificate.facts.is_ca else scope.of_users):
        return 0
    return scope.reasons & _of_points(certificate, crl)


def _of_points(certificate: Certificate, crl: Crl) -> int:
    """Return the reasons that the certificate's distribution points assign to this CRL."""
    points: tuple[CrlPoint, ...] = certificate.value(ext.CRL_POINTS) or ()
    own = [point for point in points if not point.issuer or _names(point.issuer, crl)]
    if crl.scope.names is not None:
        here = _resolved(crl.scope.names, crl.issuer_der)
        own = [point for point in own if not here.isdisjoint(_point_names(point, crl))]
        return _reasons(own)
    return _reasons(own) if points else ALL_REASONS


def _reasons(points: Sequence[CrlPoint]) -> int:
    found = 0
    for point in points:
        found |= point.reasons
    return found


def _point_names(point: CrlPoint, crl: Crl) -> frozenset[object]:
    named = point.names if point.names is not None else frozenset(point.issuer)
    return _resolved(named, crl.issuer_der)


def _names(issuer: Iterable[GeneralName], crl: Crl) -> bool:
    return any(tag == ext.DIRECTORY and names.canonical(content) == crl.issuer for tag, content in issuer)


def _resolved(named: Iterable[GeneralName], issuer: bytes) -> frozenset[object]:
    """Return names in comparable form; names relative to the CRL issuer are completed."""
    return frozenset(_comparable(tag, content, issuer) for tag, content in named)


def _comparable(tag: int, content: bytes, issuer: bytes) -> object:
    if tag == ext.DIRECTORY:
        return names.canonical(content)
    if tag == _RELATIVE:
        above = Reader(issuer).content(SEQUENCE, _MALFORMED)
        return names.canonical(tlv(SEQUENCE, above, tlv(SET, content)))
    return tag, content
