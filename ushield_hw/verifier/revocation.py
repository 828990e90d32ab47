"""What CRLs say about the certificates of a path (RFC 5280 section 6.3).

A certificate that is on a CRL by its own issuer is revoked, whatever else that CRL leaves out: also if it lists only
some reasons, or only changes. That it is not on a CRL counts as far as the CRL goes: for the kind of certificate, the
distribution point and the reasons it covers, and not at all if it is a delta CRL or asks of the reader what is not
known here.

A CRL is by the certificate's issuer if the key that signed the certificate signed it, or another key of that name to
which a path leads from the same trusted CA: after a CA has changed its key, its new key answers for what the old one
issued. CRLs by anybody else (indirect ones) prove nothing about who is not on them.

A CRL that was issued after the certificate ran out proves nothing if the certificate is not on it, because expired ones
are dropped. What the CRLs say is judged at a moment in :mod:`ushield_hw.verifier.status`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from ushield_hw.cms import names
from ushield_hw.cms.der import SEQUENCE, SET, DerError, Reader, tlv
from ushield_hw.cms.names import Canonical
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
    """A CRL and which keys have signed it. Immutable but for what is remembered of it.

    Raises:
        InputError: ``CRL_FILE_INVALID``: it is not a CRL in DER. ``place``: the file, or where else it came from.
    """

    def __init__(self, der: bytes, place: str) -> None:
        try:
            self.crl = Crl(der)
        except DerError as broken:
            raise InputError("CRL_FILE_INVALID", file=place, problem="trust_no_crl") from broken
        self._signed_by: dict[bytes, bool] = {}

    def is_signed_by(self, issuer: Certificate) -> bool:
        """Tell whether a certificate's key has signed it, and may, with an algorithm that is not weak."""
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
    """Return the CRLs by the name of their issuer."""
    found: Lists = {}
    for one in crls:
        found.setdefault(one.crl.issuer, []).append(one)
    return found


@dataclass(frozen=True, slots=True)
class OtherKey:
    """Another key of an issuer's name: its certificate, and the path that leads to it."""

    certificate: Certificate
    path: Chain


OtherKeys = Callable[[Certificate, Certificate, Callable[[Certificate], bool]], OtherKey | None]
"""Issuer and trusted CA of a certificate, and what tells the key that is looked for -> that key, if it is another of
the issuer's below that same CA."""


@dataclass(frozen=True, slots=True)
class _Key:
    """A key that may sign CRLs: from when to when the path holds that leads to it, and what CRLs say of that path."""

    certificate: Certificate
    not_before: datetime = _EVER[0]
    not_after: datetime = _EVER[1]
    through: tuple[Status, ...] = ()


def statuses(path: Chain, crls: Lists, others: OtherKeys) -> tuple[Status, ...]:
    """Return what ``crls`` say about each certificate of ``path`` but the trusted CA's, which nobody revokes.

    Args:
        path: the signer's certificate first, the trusted CA's last. A trusted signer is its own issuer.
        crls: all there are.
        others: looks for other keys of an issuer.

    Raises:
        VerificationError: ``PATH_TOO_COMPLEX``: looking for another key took too long.
    """
    return _statuses(path, crls, others, {})


def _statuses(path: Chain, crls: Lists, others: OtherKeys, known: dict[bytes, _Key]) -> tuple[Status, ...]:
    """See :func:`statuses`. ``known``: other keys that were found, by certificate; each is judged once."""
    pairs = list(pairwise(path)) or [(path[0], path[0])]

    def lists(one: Certificate, issuer: Certificate) -> Iterator[tuple[RevocationList, _Key]]:
        for listed in crls.get(one.issuer, ()):
            other = None if listed.is_signed_by(issuer) else others(issuer, path[-1], listed.is_signed_by)
            yield listed, _Key(issuer) if other is None else _judged(other, crls, others, known)

    return tuple(_status(one, lists(one, issuer), is_signer=one is path[0]) for one, issuer in pairs)


def _judged(other: OtherKey, crls: Lists, others: OtherKeys, known: dict[bytes, _Key]) -> _Key:
    """Return another key with what CRLs say of the path to it. About its own path it may speak itself."""
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
    """Yield what a CRL by the certificate's issuer says of it."""
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
        entry = Entry(entry.revoked, UNSPECIFIED)  # means something in a delta CRL only
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
    """Return for which reasons a certificate that is not on the CRL is not revoked."""
    scope = crl.scope
    if crl.is_delta or scope.is_indirect or not crl.is_clear:
        return 0
    if not (scope.of_cas if certificate.facts.is_ca else scope.of_users):
        return 0
    return scope.reasons & _of_points(certificate, crl)


def _of_points(certificate: Certificate, crl: Crl) -> int:
    """Return the reasons that the certificate's distribution points grant to this CRL."""
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
    """Return names as they are compared; those relative to the CRL's issuer in full."""
    return frozenset(_comparable(tag, content, issuer) for tag, content in named)


def _comparable(tag: int, content: bytes, issuer: bytes) -> object:
    if tag == ext.DIRECTORY:
        return names.canonical(content)
    if tag == _RELATIVE:
        above = Reader(issuer).content(SEQUENCE, _MALFORMED)
        return names.canonical(tlv(SEQUENCE, above, tlv(SET, content)))
    return tag, content
