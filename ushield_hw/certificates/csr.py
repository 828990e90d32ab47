"""Certificate requests (PKCS#10, RFC 2986): build with a key on a token, verify, and screen lines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ushield_hw import messages
from ushield_hw.crypto.algorithms import Suite
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.crypto.public_key import PublicKey, key_of
from ushield_hw.order.lines import Line

if TYPE_CHECKING:
    from cryptography import x509

_FINGERPRINT: Final = 16  # hex digits displayed to the user: 64 bits


def build(subject: x509.Name, public: PublicKey, suite: Suite, sign: Callable[[bytes], bytes]) -> bytes:
    """Return a request, DER, signed by the key that it is for.

    Args:
        subject: The subject of the certificate.
        public: The public key.
        suite: The suite of the signatures that ``sign`` makes.
        sign: Signs a message with the private key; for ECDSA it returns r||s.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from ushield_hw.crypto.private_key import builder_arguments, token_private_key

    private: Any = token_private_key(key_of(public), suite, sign)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(private, **builder_arguments(suite)).public_bytes(Encoding.DER)


def is_genuine(request: bytes, spki: bytes) -> bool:
    """Tell whether a request is for a key and signed by it.

    Args:
        request: The request, DER.
        spki: The public key, SubjectPublicKeyInfo, DER.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        with reading():
            read = x509.load_der_x509_csr(request)
            said = read.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return said == spki and read.is_signature_valid
    except Unreadable:
        return False


def request_lines(subject: str, lang: messages.Language) -> tuple[Line, ...]:
    """Return the screen lines for a request signed by the key that it is for.

    Args:
        subject: The subject in RFC 4514 form.
        lang: The language of the labels.
    """
    return (Line(messages.text("screen.certificate_request", lang), subject),)


def renewal_lines(subject: str, spki: bytes, lang: messages.Language) -> tuple[Line, ...]:
    """Return the screen lines for a request for a new key signed by the old key.

    Args:
        subject: The subject in RFC 4514 form.
        spki: The new key, SubjectPublicKeyInfo, DER.
        lang: The language of the labels.
    """
    fingerprint = hashlib.sha256(spki).hexdigest()[:_FINGERPRINT]
    return (
        Line(messages.text("screen.operation", lang), messages.text("screen.renewal_request", lang)),
        Line(messages.text("screen.certificate_subject", lang), subject),
        Line(
            messages.text("screen.new_key", lang),
            " ".join(fingerprint[at : at + 4] for at in range(0, _FINGERPRINT, 4)),
        ),
    )
