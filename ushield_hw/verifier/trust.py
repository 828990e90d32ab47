"""Which CAs are trusted, what they revoked, and the paths that were found to hold."""

from __future__ import annotations

import base64
import binascii
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final, Self

from ushield_hw.cms import CertificateFacts, SignedOrderParts
from ushield_hw.errors import BadSignature, InputError
from ushield_hw.verifier.status import Status

if TYPE_CHECKING:
    from ushield_hw.verifier.revocation import RevocationList

PATHS_KEPT: Final = 4096

_MOST_CA_OCTETS: Final = 4 << 20
_MOST_CRL_OCTETS: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Signer:
    """Whose signature it is.

    Attributes:
        subject: the name, as RFC 4514 writes it.
        serial: the certificate's serial number, lower-case hex without leading zeros.
        issuer: the name of the CA, as RFC 4514 writes it.
        certificate: DER.
    """

    subject: str
    serial: str
    issuer: str
    certificate: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TrustedPath:
    """A path that holds from ``not_before`` to ``not_after``, and what the CRLs say about it at whatever moment."""

    signer: Signer
    not_before: datetime
    not_after: datetime
    statuses: tuple[Status, ...]

    def holds(self, moment: datetime) -> bool:
        """Tell whether ``moment`` lies within the validity of all its certificates."""
        return self.not_before <= moment <= self.not_after


Given = bytes | str | PathLike[str]
"""PEM (any number in one) or DER (one), or the path of a file of them."""


class TrustStore:
    """Trusted CAs with the CRLs at hand. Immutable, for any number of threads.

    It remembers the paths it found, so that the next order by the same certificate costs no path validation. Keep one
    store as long as its CRLs are the newest; then make another.

    Args:
        anchors: the trusted CAs' certificates: PEM, DER, or files. Trusted as they are, self-signed or not.
        intermediates: certificates of CAs below them; for signed orders that come without.
        crls: CRLs: PEM, DER, or files. With one or more, every certificate of a path must be on record in a CRL by its
            issuer; without any, revocation is not checked.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``, ``CA_NOT_A_CA``, ``CA_FILE_INVALID`` (no trusted CA at all) or
            ``CRL_FILE_INVALID``; ``.file`` names the place.
    """

    def __init__(
        self, anchors: Sequence[Given], intermediates: Sequence[Given] = (), crls: Sequence[Given] = ()
    ) -> None:
        self._anchors = tuple(_ca(der, place) for place, der in _given(anchors, _CERTIFICATE, "anchors"))
        others = _given(intermediates, _CERTIFICATE, "intermediates")
        self._intermediates = tuple(_ca(der, place).der for place, der in others)
        if not self._anchors:
            raise InputError("CA_FILE_INVALID", file="anchors", problem="trust_no_root")
        self._crls = tuple(_revocation_lists(_given(crls, _CRL, "crls")))
        self._paths: OrderedDict[tuple[bytes, tuple[bytes, ...]], TrustedPath] = OrderedDict()
        self._lock = Lock()

    @classmethod
    def from_files(cls, ca: Sequence[Given], crl: Sequence[Given] = ()) -> Self:
        """Read CA and CRL files, PEM (any number in a file) or DER (one).

        As with openssl's ``-CAfile``, a self-signed certificate is trusted; any other only leads to one that is.

        Raises:
            InputError: ``CA_FILE_INVALID``, ``CA_NOT_A_CA`` or ``CRL_FILE_INVALID``, with ``.file``.
        """
        given = _given(ca, _CERTIFICATE, "ca")
        trusted = [der for place, der in given if _is_self_signed(_ca(der, place))]
        others = [der for _, der in given if der not in trusted]
        if not trusted:
            places = ", ".join(dict.fromkeys(place for place, _ in given))
            raise InputError("CA_FILE_INVALID", file=places, problem="trust_no_root")
        return cls(trusted, others, crl)

    @property
    def checks_revocation(self) -> bool:
        """Whether there are CRLs."""
        return bool(self._crls)

    def path(self, parts: SignedOrderParts, moment: datetime) -> TrustedPath:
        """Return the path from the signer of ``parts`` to a trusted CA.

        Args:
            parts: what :func:`ushield_hw.cms.parse` returned.
            moment: aware.

        Raises:
            UntrustedSigner: there is none that holds at ``moment``; see :func:`ushield_hw.verifier.path.build`.
            BadSignature: a certificate came with the order that is not on the path.
        """
        key = (parts.certificate, parts.intermediates)
        with self._lock:
            known = self._paths.get(key)
            if known is not None and known.holds(moment):
                self._paths.move_to_end(key)
                return known
        found = self._find(parts, moment)
        with self._lock:
            self._paths[key] = found
            if len(self._paths) > PATHS_KEPT:
                self._paths.popitem(last=False)
        return found

    def _find(self, parts: SignedOrderParts, moment: datetime) -> TrustedPath:
        from ushield_hw.verifier import path, revocation

        # What came with the order is tried first: it is what the signer's bank has in use.
        certificates = path.build(parts.signer, (*parts.intermediates, *self._intermediates), self._anchors, moment)
        self._check_all_used(parts.intermediates, certificates)
        try:
            signer = Signer(
                parts.signer.subject_text(), parts.signer.serial_hex, parts.signer.issuer_text(), parts.certificate
            )
            statuses = revocation.statuses(certificates, self._crls) if self._crls else ()
        except InputError as unreadable:
            raise path.untrusted("path_invalid", parts.signer) from unreadable
        not_before = max(certificate.not_before for certificate in certificates)
        not_after = min(certificate.not_after for certificate in certificates)
        return TrustedPath(signer, not_before, not_after, statuses)

    def _check_all_used(self, sent: tuple[bytes, ...], path: Sequence[CertificateFacts]) -> None:
        """Refuse certificates that came with the order and are not on the path. The trusted CA's own may come."""
        between = tuple(certificate.der for certificate in path[1:-1])
        above = sent[len(between) :]
        trusted = {anchor.der for anchor in self._anchors}
        if sent[: len(between)] != between[: len(sent)] or not trusted.issuperset(above):
            raise BadSignature(problem="cms_certificate_not_on_path")


def _ca(der: bytes, place: str) -> CertificateFacts:
    try:
        facts = CertificateFacts.read(der)
    except InputError as broken:
        raise InputError("CA_FILE_INVALID", file=place, problem="trust_no_certificate") from broken
    if not facts.is_ca or (facts.key_usage is not None and "keyCertSign" not in facts.key_usage):
        raise InputError("CA_NOT_A_CA", file=place)
    return facts


def _is_self_signed(certificate: CertificateFacts) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.x509 import load_der_x509_certificate

    try:
        loaded = load_der_x509_certificate(certificate.der)
        loaded.verify_directly_issued_by(loaded)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _revocation_lists(crls: Iterable[tuple[str, bytes]]) -> Iterator[RevocationList]:
    for place, der in crls:
        from ushield_hw.verifier.revocation import RevocationList

        yield RevocationList(der, place)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a file may hold."""

    code: str
    label: str
    none: str
    most_octets: int


_CERTIFICATE: Final = _Kind("CA_FILE_INVALID", "CERTIFICATE", "trust_no_certificate", _MOST_CA_OCTETS)
_CRL: Final = _Kind("CRL_FILE_INVALID", "X509 CRL", "trust_no_crl", _MOST_CRL_OCTETS)


def _given(items: Sequence[Given], kind: _Kind, name: str) -> list[tuple[str, bytes]]:
    """Return what was given, DER, each with its place: the file, or where it stood in the argument."""
    found = []
    for n, item in enumerate(items):
        place = f"{name}[{n}]" if isinstance(item, bytes) else str(item)
        content = item if isinstance(item, bytes) else _content(Path(item), kind)
        found += [(place, der) for der in _blocks(content, place, kind)]
    return found


def _blocks(content: bytes, place: str, kind: _Kind) -> list[bytes]:
    """Return every PEM block of the kind, DER, or the content as it is."""
    if content[:1] == b"\x30":
        return [content]
    pattern = rb"-----BEGIN %b-----\s+([A-Za-z0-9+/=\s]*?)-----END %b-----"
    found = re.findall(pattern.replace(b"%b", kind.label.encode()), content)
    if not found:
        raise InputError(kind.code, file=place, problem=kind.none)
    try:
        return [base64.b64decode(b"".join(block.split()), validate=True) for block in found]
    except binascii.Error as broken:
        raise InputError(kind.code, file=place, problem=kind.none) from broken


def _content(file: Path, kind: _Kind) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(kind.most_octets + 1)
    except OSError as failed:
        why = failed.strerror or type(failed).__name__
        raise InputError(kind.code, file=str(file), problem="trust_unreadable", why=why) from failed
    if len(content) > kind.most_octets:
        raise InputError(kind.code, file=str(file), problem="trust_too_large", most=kind.most_octets)
    return content
