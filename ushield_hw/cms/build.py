"""Write signed orders: CMS SignedData (RFC 5652 sections 5.1 and 5.3), with all constant parts encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from ushield_hw.cms.attributes import (
    ID_DATA,
    TIME_SIZES,
    Confirmation,
    SignedAttributes,
    encode_time,
    signed_attributes,
)
from ushield_hw.cms.certificate import CertificateFacts
from ushield_hw.cms.signature import to_wire
from ushield_hw.cms.signer import check_key, in_order, read_kept
from ushield_hw.crypto.algorithms import Suite
from ushield_hw.crypto.der import OCTET_STRING, SEQUENCE, SET, DerError, head, heads, integer, oid, set_of, tlv
from ushield_hw.errors import BadSignature, CertificateError, InputError

ID_SIGNED_DATA: Final = oid("1.2.840.113549.1.7.2")
VERSION: Final = integer(1)
EXPLICIT_0: Final = 0xA0
_EXPLICIT_0_TAG: Final = bytes((EXPLICIT_0,))

MOST_OCTETS: Final = 1 << 20
"""The maximum size of a signed order that is written or read, in octets."""

MOST_CONTENT: Final = MOST_OCTETS - (1 << 16)  # certificates and signature fit into the rest


class Profile(StrEnum):
    """What the signature covers."""

    CADES = "cades"  # attributes with the digests of content and certificate, and the confirmation
    PLAIN = "plain"  # the content itself, for tokens that display and hash the message themselves


class Template:
    """Makes signed orders for one certificate. Immutable; can be shared by orders and threads.

    Args:
        certificate: The signer's certificate, DER.
        suite: A suite for the certificate's key.
        profile: What the signature covers.
        confirmation: How the user confirms; required for ``CADES``, None for ``PLAIN``.
        intermediates: The CA certificates between the signer's and the root, DER, in any order.

    Raises:
        CertificateError: ``CERTIFICATE_UNSUITABLE``: the suite does not fit the key, the key is too short, or an
            intermediate is not on the signer's path.
        InputError: ``CERTIFICATE_MALFORMED``.
        ValueError: ``confirmation`` does not fit ``profile``.
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
        self._attributes: dict[int, SignedAttributes] = {}  # by the size of the signing time
        if confirmation is not None:
            size = len(suite.hash(b""))
            self._attributes = {n: signed_attributes(self._signer.sha256, confirmation, size, n) for n in TIME_SIZES}
        self._head = VERSION + tlv(SET, suite.digest_algorithm)
        self._certificates = set_of([certificate, *intermediates], EXPLICIT_0)
        self._signer_head = VERSION + self._signer.issuer_and_serial + suite.digest_algorithm

    @property
    def signer(self) -> CertificateFacts:
        """The fields of the signer's certificate."""
        return self._signer

    def draft(self, content: bytes, signing_time: datetime) -> Draft:
        """Return the signed order of a content without its signature: everything that can be encoded before C_Sign.

        Args:
            content: The content to sign.
            signing_time: The host's time, timezone-aware; not used for ``PLAIN``.

        Raises:
            InputError: ``SIGNED_ORDER_TOO_LARGE``.
        """
        if len(content) > MOST_CONTENT:
            raise InputError("SIGNED_ORDER_TOO_LARGE", most=MOST_CONTENT)
        message, attributes = content, b""
        if self._attributes:
            time = encode_time(signing_time)
            encoded = self._attributes[len(time)].encode(self._suite.hash(content), time)
            message = head(SET, len(encoded)) + encoded
            attributes = _EXPLICIT_0_TAG + message[1:]  # an implicit [0] in the SignerInfo (RFC 5652 section 5.4)
        before = b"".join((self._head, _content_head(len(content)), content, self._certificates))
        return Draft(message, self._signer, before, self._signer_head + attributes + self._suite.signature_algorithm)


class Draft(NamedTuple):
    """A signed order without its signature.

    Attributes:
        message: The message that the token signs: the attributes as a SET OF, or the content itself.
        signer: The signer's certificate.
        before: The bytes of SignedData before the SignerInfo.
        of_signer: The bytes of the SignerInfo before the signature.
    """

    message: bytes
    signer: CertificateFacts
    before: bytes
    of_signer: bytes

    def assemble(self, signature: bytes) -> bytes:
        """Return the signed order, DER.

        Args:
            signature: The signature as returned by C_Sign: r and s concatenated for ECDSA, the octets for RSA.

        Raises:
            BadSignature: No key of this kind makes a signature of this form. The signature is not verified.
        """
        try:
            value = to_wire(signature, self.signer)
        except DerError as refused:
            raise BadSignature(problem=f"cms_{refused.problem}") from refused
        return self.enclose(value)

    def enclose(self, value: bytes) -> bytes:
        """Return the signed order with a signature value, without checking the value.

        Args:
            value: The signature value in the form stored in signed orders.
        """
        outer, inner, last = _heads(len(self.before), len(self.of_signer), len(value))
        return b"".join((outer, self.before, inner, self.of_signer, last, value))


# Cached: the orders of a bank have similar sizes, and these parts depend only on sizes.
@lru_cache(maxsize=1024)
def _content_head(size: int) -> bytes:
    """Return encapContentInfo (RFC 5652 section 5.2) up to its content."""
    inside = heads(size, EXPLICIT_0, OCTET_STRING)
    return head(SEQUENCE, len(ID_DATA) + len(inside) + size) + ID_DATA + inside


@lru_cache(maxsize=1024)
def _heads(before: int, of_signer: int, value: int) -> tuple[bytes, bytes, bytes]:
    """Return the bytes before ``before``, ``of_signer`` and the signature value, given their sizes."""
    last = head(OCTET_STRING, value)
    inner = heads(of_signer + len(last) + value, SET, SEQUENCE)
    signed_data = heads(before + len(inner) + of_signer + len(last) + value, EXPLICIT_0, SEQUENCE)
    whole = len(ID_SIGNED_DATA) + len(signed_data) + before + len(inner) + of_signer + len(last) + value
    return head(SEQUENCE, whole) + ID_SIGNED_DATA + signed_data, inner, last
