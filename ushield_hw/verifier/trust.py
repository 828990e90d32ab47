"""Trusted CAs, their CRLs, and a cache of the certificate paths that were validated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, Self

from ushield_hw.cms import CertificateFacts, SignedOrderParts
from ushield_hw.crypto import pem
from ushield_hw.crypto.parsing import Unreadable
from ushield_hw.errors import BadSignature, InputError, UntrustedSigner
from ushield_hw.system import files
from ushield_hw.verifier.budget import Budget
from ushield_hw.verifier.certificate import Certificate
from ushield_hw.verifier.policies import ANY, PolicyInputs
from ushield_hw.verifier.search import Chain, Store
from ushield_hw.verifier.signatures import algorithm, is_right, key_problem
from ushield_hw.verifier.status import Status

if TYPE_CHECKING:
    from ushield_hw.verifier.revocation import Lists, OtherKey

PATHS_KEPT: Final = 4096

_MOST_CA_OCTETS: Final = 4 << 20
_MOST_CRL_OCTETS: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Signer:
    """The signer of an order.

    Attributes:
        subject: the subject name (RFC 4514).
        serial: the certificate's serial number, lower-case hex without leading zeros.
        issuer: the issuer name (RFC 4514).
        certificate: the certificate, DER.
        states_purpose: whether the certificate has the key usage extension.
    """

    subject: str
    serial: str
    issuer: str
    certificate: bytes = field(repr=False)
    states_purpose: bool = True


@dataclass(frozen=True, slots=True)
class TrustedPath:
    """A path that is valid from ``not_before`` to ``not_after``, with the revocation status of its certificates.

    ``statuses`` does not depend on a point in time; :func:`ushield_hw.verifier.status.judge` evaluates it for one.
    """

    signer: Signer
    not_before: datetime
    not_after: datetime
    statuses: tuple[Status, ...]

    def holds(self, moment: datetime) -> bool:
        """Return whether ``moment`` lies within the validity of all certificates of the path."""
        return self.not_before <= moment <= self.not_after


Given = bytes | str | PathLike[str]
"""Certificate or CRL data: PEM (one or more blocks), DER (one), or the path of a file with either."""


_Placed = tuple[str, Certificate]
"""The place a certificate was read from, and the certificate."""


class TrustStore:
    """Trusted CAs with their CRLs. Immutable and thread-safe.

    Validated paths are cached, so that the next order signed with the same certificate needs no path validation. Use
    one store until newer CRLs are available, then create a new one.

    Args:
        anchors: certificates of the trusted CAs: PEM, DER, or files. They are trusted whether self-signed or not.
        intermediates: certificates of subordinate CAs, for signed orders that do not include them.
        crls: CRLs: PEM, DER, or files. If any is given, every certificate of a path must be covered by a CRL of its
            issuer. If none is given, revocation is not checked.
        policies: requirements on certificate policies. Default: none.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``, ``CA_NOT_A_CA``, ``CA_FILE_INVALID`` (no trusted CA was given) or
            ``CRL_FILE_INVALID``; ``.file`` names the source.
    """

    def __init__(
        self,
        anchors: Sequence[Given],
        intermediates: Sequence[Given] = (),
        crls: Sequence[Given] = (),
        *,
        policies: PolicyInputs = ANY,
    ) -> None:
        given = [(place, _certificate(der, place)) for place, der in _given(anchors, _CERTIFICATE, "anchors")]
        others = [
            (place, _certificate(der, place)) for place, der in _given(intermediates, _CERTIFICATE, "intermediates")
        ]
        self._take(given, others, _given(crls, _CRL, "crls"), policies)

    def _take(
        self,
        anchors: Sequence[_Placed],
        others: Sequence[_Placed],
        crls: Sequence[tuple[str, bytes]],
        policies: PolicyInputs = ANY,
    ) -> None:
        if not anchors:
            raise InputError("CA_FILE_INVALID", file="anchors", problem="trust_no_root")
        _check_cas(anchors)
        _check_cas(others, also_for_crls=True)
        self._store = Store((one for _, one in anchors), (one for _, one in others), policies)
        self._crls = _revocation_lists(crls)
        self._paths: OrderedDict[tuple[bytes, tuple[bytes, ...]], TrustedPath] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def from_files(cls, ca: Sequence[Given], crl: Sequence[Given] = ()) -> Self:
        """Create a store from CA and CRL files, PEM (one or more blocks per file) or DER (one).

        As with openssl's ``-CAfile``, self-signed certificates are trust anchors; all others are intermediates.

        Args:
            ca: CA certificates: files or their content.
            crl: CRLs: files or their content.

        Returns:
            The trust store.

        Raises:
            InputError: ``CA_FILE_INVALID``, ``CA_NOT_A_CA`` or ``CRL_FILE_INVALID``, with ``.file``.
        """
        given = [(place, _certificate(der, place)) for place, der in _given(ca, _CERTIFICATE, "ca")]
        trusted = [(place, one) for place, one in given if _is_self_signed(one)]
        others = [(place, one) for place, one in given if not _is_self_signed(one)]
        if not trusted:
            _check_cas(others)
            places = ", ".join(dict.fromkeys(place for place, _ in given))
            raise InputError("CA_FILE_INVALID", file=places, problem="trust_no_root")
        store = cls.__new__(cls)
        store._take(trusted, others, _given(crl, _CRL, "crl"))
        return store

    @property
    def checks_revocation(self) -> bool:
        """Whether the store has CRLs, so that revocation is checked."""
        return bool(self._crls)

    def path(self, parts: SignedOrderParts, moment: datetime) -> TrustedPath:
        """Return the path from the signer of ``parts`` to a trusted CA.

        Args:
            parts: the result of :func:`ushield_hw.cms.parse`.
            moment: the time at which the path must be valid, timezone-aware.

        Returns:
            A path that is valid at ``moment``, from the cache if possible.

        Raises:
            UntrustedSigner: no path is valid at ``moment``; see :func:`ushield_hw.verifier.path.build`.
            BadSignature: the order includes a certificate that is not on the path.
            VerificationError: ``PATH_TOO_COMPLEX``: the path search exceeded its budget.
        """
        key = (parts.certificate, parts.intermediates)
        with self._lock:
            known = self._paths.get(key)
            if known is not None and known.holds(moment):
                self._paths.move_to_end(key)
                return known
        # not_after is inclusive and has a resolution of one second
        found = self._find(parts, moment.replace(microsecond=0))
        with self._lock:
            self._paths[key] = found
            if len(self._paths) > PATHS_KEPT:
                self._paths.popitem(last=False)
        return found

    def _find(self, parts: SignedOrderParts, moment: datetime) -> TrustedPath:
        from ushield_hw.verifier import path

        budget, unused = Budget(), BadSignature(problem="cms_certificate_not_on_path")
        for chain in path.build(parts.signer, parts.intermediates, self._store, budget, moment):
            if self._all_used(parts.intermediates, chain):
                return self._trusted(parts, chain, moment, budget)
        raise unused

    def _trusted(self, parts: SignedOrderParts, chain: Chain, moment: datetime, budget: Budget) -> TrustedPath:
        from ushield_hw.verifier import revocation

        facts = parts.signer
        signer = Signer(
            facts.subject_text(), facts.serial_hex, facts.issuer_text(), parts.certificate, _has_purpose(facts)
        )

        between = tuple(certificate.facts.der for certificate in chain[1:-1])
        reached = cache(lambda one: self._reached(one, chain[-1], between, moment, budget))

        def others(
            issuer: Certificate, anchor: Certificate, is_it: Callable[[Certificate], bool]
        ) -> revocation.OtherKey | None:
            wanted = (one for one in self._other_keys(issuer, budget) if is_it(one))
            return next((found for one in wanted if (found := reached(one)) is not None), None)

        statuses = revocation.statuses(chain, self._crls, others) if self._crls else ()
        return TrustedPath(signer, *_time_of(chain), statuses)

    def _other_keys(self, issuer: Certificate, budget: Budget) -> Iterator[Certificate]:
        """Yield certificates with the issuer's name and a different key."""
        for candidate in self._store.named(issuer.subject):
            budget.spend("candidates")
            if candidate.facts.spki != issuer.facts.spki:
                yield candidate

    def _reached(
        self, key: Certificate, anchor: Certificate, between: Sequence[bytes], moment: datetime, budget: Budget
    ) -> OtherKey | None:
        """Return ``key`` with a valid path to ``anchor``, through ``between`` or the store, or None."""
        from ushield_hw.verifier import path
        from ushield_hw.verifier.revocation import OtherKey

        try:
            chains = path.build(key.facts, between, self._store, budget, moment)
            return next((OtherKey(key, chain) for chain in chains if chain[-1] is anchor), None)
        except UntrustedSigner:
            return None

    def _all_used(self, sent: tuple[bytes, ...], chain: Chain) -> bool:
        """Return whether all certificates sent with the order are on the path.

        A trusted CA's own certificate is accepted as well.
        """
        between = tuple(certificate.facts.der for certificate in chain[1:-1])
        above = sent[len(between) :]
        return sent[: len(between)] == between[: len(sent)] and all(self._store.trusts_der(der) for der in above)

    def __repr__(self) -> str:
        return f"<TrustStore revocation={'checked' if self.checks_revocation else 'not checked'}>"


def _has_purpose(facts: CertificateFacts) -> bool:
    return facts.key_usage is not None


def _time_of(chain: Chain) -> tuple[datetime, datetime]:
    """Return the start and end of the period in which all certificates of the chain are valid."""
    return max(one.facts.not_before for one in chain), min(one.facts.not_after for one in chain)


def _certificate(der: bytes, place: str) -> Certificate:
    try:
        return Certificate(CertificateFacts.read(der))
    except InputError as broken:
        raise InputError("CA_FILE_INVALID", file=place, problem="trust_no_certificate") from broken


def _check_cas(given: Iterable[_Placed], *, also_for_crls: bool = False) -> None:
    """Reject certificates that do not belong to a CA.

    With ``also_for_crls`` a certificate whose key may only sign CRLs is accepted too.
    """
    for place, one in given:
        use = one.facts.key_usage
        if not one.signs_certificates and not (also_for_crls and use is not None and "cRLSign" in use):
            raise InputError("CA_NOT_A_CA", file=place)


def _is_self_signed(certificate: Certificate) -> bool:
    """Return whether the certificate is signed with its own key.

    This is not a security check; it separates root CAs from other CAs in a file. If the signature cannot be checked
    (SHA-1 can be), the names and key identifiers decide, because the file was supplied as trusted.
    """
    if not certificate.is_self_issued:
        return False
    spki = certificate.facts.spki
    if algorithm(certificate.algorithm) is None or key_problem(spki) in ("unknown_key", "explicit_curve"):
        return certificate.looks_self_signed
    return is_right(spki, certificate.algorithm, certificate.signature, certificate.signed)


def _revocation_lists(crls: Sequence[tuple[str, bytes]]) -> Lists:
    if not crls:
        return {}
    from ushield_hw.verifier.revocation import RevocationList, by_issuer

    return by_issuer(RevocationList(der, place) for place, der in crls)


@dataclass(frozen=True, slots=True)
class _Kind:
    """The kind of data a file may contain, and its errors and size limit."""

    code: str
    label: str
    none: str
    most_octets: int


_CERTIFICATE: Final = _Kind("CA_FILE_INVALID", "CERTIFICATE", "trust_no_certificate", _MOST_CA_OCTETS)
_CRL: Final = _Kind("CRL_FILE_INVALID", "X509 CRL", "trust_no_crl", _MOST_CRL_OCTETS)


def _given(items: Sequence[Given], kind: _Kind, name: str) -> list[tuple[str, bytes]]:
    """Return the DER of every given item with its source: the file, or its index in the argument."""
    found = []
    for n, item in enumerate(items):
        place = f"{name}[{n}]" if isinstance(item, bytes) else str(item)
        content = item if isinstance(item, bytes) else _content(Path(item), kind)
        found += [(place, der) for der in _blocks(content, place, kind)]
    return found


def _blocks(content: bytes, place: str, kind: _Kind) -> list[bytes]:
    """Return the DER of every PEM block of this kind, or the content itself if it is DER."""
    if content[:1] == b"\x30":
        return [content]
    try:
        found = pem.blocks(content, kind.label)
    except Unreadable as broken:
        raise InputError(kind.code, file=place, problem=kind.none) from broken
    if not found:
        raise InputError(kind.code, file=place, problem=kind.none)
    return found


def certificates_of(file: Path) -> list[bytes]:
    """Return the certificates of a file as DER: PEM (one or more blocks) or DER (one).

    Args:
        file: the file to read.

    Returns:
        The certificates, in the order of the file.

    Raises:
        InputError: ``CA_FILE_INVALID``, with ``.file``.
    """
    found = _given([file], _CERTIFICATE, "file")
    for place, der in found:
        _certificate(der, place)
    return [der for _, der in found]


def _content(file: Path, kind: _Kind) -> bytes:
    try:
        content = files.read(file, kind.most_octets + 1)
    except OSError as failed:
        why = failed.strerror or type(failed).__name__
        raise InputError(kind.code, file=str(file), problem="trust_unreadable", why=why) from failed
    if len(content) > kind.most_octets:
        raise InputError(kind.code, file=str(file), problem="trust_too_large", most=kind.most_octets)
    return content
