"""Writing a signed order: CMS SignedData (RFC 5652 sections 5.1 and 5.3), everything constant encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from ushield_hw.cms.attributes import ID_DATA, Confirmation, signed_attributes
from ushield_hw.cms.der import OCTET_STRING, SEQUENCE, SET, DerError, integer, oid, set_of, tlv
from ushield_hw.cms.facts import CertificateFacts
from ushield_hw.cms.signature import to_wire
from ushield_hw.cms.signer import check_key, in_order, read_kept
from ushield_hw.errors import BadSignature, CertificateError, InputError
from ushield_hw.suites import Suite

ID_SIGNED_DATA: Final = oid("1.2.840.113549.1.7.2")
VERSION: Final = integer(1)
EXPLICIT_0: Final = 0xA0
_EXPLICIT_0_TAG: Final = bytes((EXPLICIT_0,))

MOST_OCTETS: Final = 1 << 20
"""The longest signed order that is written or read."""

_MOST_CONTENT: Final = MOST_OCTETS - (1 << 16)  # certificates and signature fit into the rest


class Profile(StrEnum):
    """What the signature covers."""

    CADES = "cades"  # attributes that name content, certificate and confirmation
    PLAIN = "plain"  # the content itself, for tokens that show and hash the message themselves


class Template:
    """Makes signed orders for one certificate. Immutable: one serves many orders and threads.

    Args:
        certificate: the signer's, DER.
        suite: one of those for the certificate's key.
        profile: what the signature covers.
        confirmation: how the person confirms; given for ``CADES``, None for ``PLAIN``.
        intermediates: the CA certificates between the signer's and the root, DER, in any order.

    Raises:
        CertificateError: ``CERTIFICATE_UNSUITABLE``: the suite does not fit the key, the key is too short, or an
            intermediate is not on the signer's path.
        InputError: ``CERTIFICATE_MALFORMED``.
        ValueError: ``confirmation`` does not go with ``profile``.
    """

    def __init__(
        self,
        certificate: bytes,
        suite: Suite,
        profile: Profile,
        confirmation: Confirmation | None,
        intermediates: Sequence[bytes] = (),
    ) -> None:
        if (confirmation is None) != (profile is Profile.PLAIN):
            raise ValueError("cades states the confirmation, plain cannot")
        self._suite = suite
        self._signer = read_kept(certificate)
        others = [read_kept(one) for one in intermediates]
        try:
            check_key(self._signer, suite)
            in_order(self._signer, others)
        except DerError as refused:
            raise CertificateError("CERTIFICATE_UNSUITABLE", problem=f"cms_{refused.problem}") from refused
        self._attributes = None
        if confirmation is not None:
            self._attributes = signed_attributes(self._signer.sha256, confirmation, len(suite.hash(b"")))
        self._head = VERSION + tlv(SET, suite.digest_algorithm)
        self._certificates = set_of([certificate, *intermediates], EXPLICIT_0)
        self._signer_head = VERSION + self._signer.issuer_and_serial + suite.digest_algorithm

    @property
    def signer(self) -> CertificateFacts:
        """What the signer's certificate says."""
        return self._signer

    def to_be_signed(self, content: bytes) -> bytes:
        """Return the message that the token signs: attributes as a SET OF, or the content itself.

        Raises:
            InputError: ``SIGNED_ORDER_TOO_LARGE``.
        """
        if len(content) > _MOST_CONTENT:
            raise InputError("SIGNED_ORDER_TOO_LARGE", most=_MOST_CONTENT)
        return content if self._attributes is None else self._signed_attributes(content)

    def _signed_attributes(self, content: bytes) -> bytes:
        return tlv(SET, self._attributes.encode(self._suite.hash(content))) if self._attributes else b""

    def assemble(self, content: bytes, signature: bytes) -> bytes:
        """Return the signed order, DER.

        Args:
            content: what :meth:`to_be_signed` was called with.
            signature: as C_Sign returned it: r and s side by side for ECDSA, the octets for RSA.

        Raises:
            BadSignature: it has a form that no key of this kind makes. Whether it is right is not checked.
        """
        try:
            value = to_wire(signature, self._signer)
        except DerError as refused:
            raise BadSignature(problem=f"cms_{refused.problem}") from refused
        attributes = self._signed_attributes(content)
        if attributes:  # in the container they are an implicit [0], for the signature a SET OF (RFC 5652 section 5.4)
            attributes = _EXPLICIT_0_TAG + attributes[1:]
        signer = tlv(SEQUENCE, self._signer_head, attributes, self._suite.signature_algorithm, tlv(OCTET_STRING, value))
        wrapped = tlv(SEQUENCE, ID_DATA, tlv(EXPLICIT_0, tlv(OCTET_STRING, content)))
        signed_data = tlv(SEQUENCE, self._head, wrapped, self._certificates, tlv(SET, signer))
        return tlv(SEQUENCE, ID_SIGNED_DATA, tlv(EXPLICIT_0, signed_data))
