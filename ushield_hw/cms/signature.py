"""The signature value: as returned by tokens, and as stored in a signed order."""

from __future__ import annotations

from ushield_hw.cms.certificate import CertificateFacts
from ushield_hw.crypto.algorithms import CURVES, KeyKind
from ushield_hw.crypto.der import SEQUENCE, DerError, Reader, head, integer


def to_wire(raw: bytes, signer: CertificateFacts) -> bytes:
    """Convert a signature returned by C_Sign to the value stored in a signed order.

    Args:
        raw: r and s concatenated, each as long as the curve (PKCS#11), or the RSA signature.
        signer: The certificate of the key that signed.

    Raises:
        DerError: ``signature_form``: no key of this kind and size makes such a value.
    """
    if signer.key is KeyKind.RSA:
        _check_rsa(raw, signer)
        return raw
    half = signer.key_bits // 8
    if len(raw) != 2 * half:
        raise DerError("signature_form")
    r, s = int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
    _check_range(r, s, signer)
    numbers = integer(r) + integer(s)
    return head(SEQUENCE, len(numbers)) + numbers


def check_wire(value: bytes, signer: CertificateFacts) -> None:
    """Check the form of the value in a signed order. The signature is not verified.

    Args:
        value: The signature value.
        signer: The certificate of the key that signed.

    Raises:
        DerError: ``signature_form``: no key of this kind and size makes such a value.
    """
    if signer.key is KeyKind.RSA:
        return _check_rsa(value, signer)
    outer = Reader(value)
    numbers = outer.enter(SEQUENCE, "signature_form")
    outer.close("signature_form")
    r, s = numbers.integer("signature_form"), numbers.integer("signature_form")
    numbers.close("signature_form")
    return _check_range(r, s, signer)


def _check_rsa(value: bytes, signer: CertificateFacts) -> None:
    if len(value) != (signer.key_bits + 7) // 8:
        raise DerError("signature_form")


def _check_range(r: int, s: int, signer: CertificateFacts) -> None:
    order = CURVES[signer.key].order if signer.key in CURVES else 0
    if not (0 < r < order and 0 < s < order):
        raise DerError("signature_form")
