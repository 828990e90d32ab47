"""Strict parser for signed orders: it accepts only what :class:`~ushield_hw.cms.Template` could have written.

It is stricter than openssl, which accepts a contentType attribute that differs, repeated attributes, unsorted
attributes signed as sent, trailing bytes and BER. The verifier checks the signature, the certificate's path, and that
the content is an order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Final

from ushield_hw.cms.attributes import ID_DATA, Confirmation, read_attributes
from ushield_hw.cms.build import EXPLICIT_0, ID_SIGNED_DATA, MOST_OCTETS, VERSION, Profile, Template
from ushield_hw.cms.certificate import CertificateFacts
from ushield_hw.cms.fast_path import Found, Known, recognised, remember
from ushield_hw.cms.signature import check_wire
from ushield_hw.cms.signer import MOST_INTERMEDIATES, check_key, in_order, read_kept
from ushield_hw.crypto.algorithms import SUITES, KeyKind, Suite
from ushield_hw.crypto.der import OCTET_STRING, SEQUENCE, SET, DerError, Reader, tlv
from ushield_hw.errors import BadSignature, InputError

_DIGESTS: Final = {suite.digest_algorithm: suite.digest for suite in SUITES}
_SUITES: Final[dict[tuple[bytes, KeyKind | None], Suite]] = {(s.signature_algorithm, s.key): s for s in SUITES}
_ALGORITHMS: Final = frozenset(suite.signature_algorithm for suite in SUITES)

_CRLS: Final = 0xA1
_UNSIGNED_ATTRIBUTES: Final = 0xA1


@dataclass(frozen=True, slots=True)
class SignedOrderParts:
    """The parts of a signed order.

    Attributes:
        content: The signed content: the order in one of the message formats.
        certificate: The signer's certificate, DER.
        intermediates: The CA certificates in the file, DER, the signer's issuer first.
        suite: The algorithms.
        profile: What the signature covers.
        confirmation: How the user confirmed, as stated by the signer; None for ``Profile.PLAIN``.
        signature: DER Ecdsa-Sig-Value, or the octets of RSA.
        signed_bytes: The bytes that the signature covers.
        signer: The fields of the signer's certificate.
        signing_time: The signing time stated by the signer's host, unconfirmed; None for ``Profile.PLAIN``.
    """

    content: bytes
    certificate: bytes = field(repr=False)
    intermediates: tuple[bytes, ...] = field(repr=False)
    suite: Suite
    profile: Profile
    confirmation: Confirmation | None
    signature: bytes = field(repr=False)
    signed_bytes: bytes = field(repr=False)
    signer: CertificateFacts = field(repr=False)
    signing_time: datetime | None


def parse(der: bytes) -> SignedOrderParts:
    """Parse a signed order.

    Args:
        der: The file's bytes.

    Raises:
        InputError: ``SIGNED_ORDER_MALFORMED``: it is not CMS SignedData: it does not begin with the SEQUENCE and the
            object identifier of one. ``.problem`` states what it looks like.
        BadSignature: It is CMS SignedData, but it is truncated, too long, not DER, has trailing bytes, or breaks
            another rule of signed orders. ``.problem`` is the id of the rule.
    """
    _check_beginning(der)
    try:
        found = recognised(der) if len(der) <= MOST_OCTETS else None
        return _parts(found) if found is not None else _remembered(_read(der))
    except DerError as broken:
        raise BadSignature(problem=f"cms_{broken.problem}") from broken
    except InputError as broken:
        raise BadSignature(problem="cms_certificate_malformed") from broken


def _parts(found: Found) -> SignedOrderParts:
    known = found.known
    return SignedOrderParts(
        found.content,
        known.signer.der,
        known.intermediates,
        known.suite,
        known.profile,
        known.confirmation,
        found.signature,
        found.message,
        known.signer,
        found.signing_time,
    )


def _remembered(parts: SignedOrderParts) -> SignedOrderParts:
    how = (parts.suite, parts.profile, parts.confirmation)
    template = Template(parts.certificate, *how, parts.intermediates)
    remember(Known(template, parts.signer, parts.intermediates, *how))
    return parts


def _check_beginning(der: bytes) -> None:
    if not der:
        raise InputError("SIGNED_ORDER_MALFORMED", problem="cms_empty")
    if der.lstrip()[:5] == b"-----":
        raise InputError("SIGNED_ORDER_MALFORMED", problem="cms_is_pem")
    length_octets = der[1] & 0x7F if len(der) > 1 and der[1] & 0x80 else 0
    if der[0] != SEQUENCE or not der.startswith(ID_SIGNED_DATA, 2 + length_octets):
        raise InputError("SIGNED_ORDER_MALFORMED", problem="cms_is_something_else")


def _read(der: bytes) -> SignedOrderParts:
    outer = _whole(der)
    outer.constant(ID_SIGNED_DATA, "structure")
    wrapper = outer.enter(EXPLICIT_0, "structure")
    outer.close("structure")
    signed_data = wrapper.enter(SEQUENCE, "structure")
    wrapper.close("structure")
    signed_data.constant(VERSION, "version")
    algorithms = signed_data.content(SET, "structure")
    content = _content(signed_data.enter(SEQUENCE, "structure"))
    certificates = _certificates(signed_data)
    signer = _only_signer(signed_data)
    return _read_signer(signer, algorithms, content, certificates)


def _whole(der: bytes) -> Reader:
    if len(der) > MOST_OCTETS:
        raise DerError("too_large")
    outer = Reader(der)
    try:
        inside = outer.enter(SEQUENCE, "structure")
    except DerError as broken:
        raise DerError("cut_off" if broken.problem == "overrun" else broken.problem) from broken
    outer.close("trailing_bytes")
    return inside


def _content(wrapped: Reader) -> bytes:
    wrapped.constant(ID_DATA, "content_type")
    inner = wrapped.enter(EXPLICIT_0, "detached")
    wrapped.close("structure")
    content = inner.content(OCTET_STRING, "not_der")
    inner.close("structure")
    return content


def _certificates(signed_data: Reader) -> list[bytes]:
    found = signed_data.enter(EXPLICIT_0, "no_certificate").elements(SEQUENCE, "certificate_kind")
    if any(one >= following for one, following in pairwise(found)):
        raise DerError("certificates_unsorted")
    if len(found) > 1 + MOST_INTERMEDIATES:
        raise DerError("certificate_not_on_path")
    return found


def _only_signer(signed_data: Reader) -> Reader:
    if signed_data.sees(_CRLS):
        raise DerError("crls")
    infos = signed_data.enter(SET, "structure")
    signed_data.close("structure")
    signer = infos.enter(SEQUENCE, "no_signer")
    infos.close("several_signers")
    return signer


def _read_signer(info: Reader, algorithms: bytes, content: bytes, certificates: list[bytes]) -> SignedOrderParts:
    info.constant(VERSION, "version")
    signer, intermediates = _who(info.element(SEQUENCE, "signer_id"), certificates)
    digest_algorithm = info.element(SEQUENCE, "structure")
    if digest_algorithm != algorithms or digest_algorithm not in _DIGESTS:
        raise DerError("digest_algorithm")
    attributes = info.content(EXPLICIT_0, "structure") if info.sees(EXPLICIT_0) else None
    suite = _suite(info.element(SEQUENCE, "structure"), signer, _DIGESTS[digest_algorithm])
    signature = info.content(OCTET_STRING, "structure")
    info.close("unsigned_attributes" if info.sees(_UNSIGNED_ATTRIBUTES) else "structure")
    check_wire(signature, signer)
    confirmation = signing_time = None
    if attributes is not None:
        confirmation, signing_time = read_attributes(attributes, signer.sha256, suite.hash(content))
    return SignedOrderParts(
        content=content,
        certificate=signer.der,
        intermediates=intermediates,
        suite=suite,
        profile=Profile.PLAIN if attributes is None else Profile.CADES,
        confirmation=confirmation,
        signature=signature,
        signed_bytes=content if attributes is None else tlv(SET, attributes),  # RFC 5652 section 5.4
        signer=signer,
        signing_time=signing_time,
    )


def _who(signer_id: bytes, certificates: list[bytes]) -> tuple[CertificateFacts, tuple[bytes, ...]]:
    known = [read_kept(certificate) for certificate in certificates]
    named = [one for one in known if one.issuer_and_serial == signer_id]
    if len(named) != 1:
        raise DerError("signer_certificate")
    return named[0], in_order(named[0], [one for one in known if one is not named[0]])


def _suite(algorithm: bytes, signer: CertificateFacts, digest: str) -> Suite:
    if algorithm not in _ALGORITHMS:
        raise DerError("signature_algorithm")
    suite = _SUITES.get((algorithm, signer.key))
    if suite is None:
        raise DerError("key_kind")
    if suite.digest != digest:
        raise DerError("algorithms_differ")
    check_key(signer, suite)
    return suite
