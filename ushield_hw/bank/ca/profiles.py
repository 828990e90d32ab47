"""Certificate profiles. A payment key signs only payments, a login key only logins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography import x509

from ushield_hw.bank import values


@dataclass(frozen=True, slots=True)
class Profile:
    """A certificate profile.

    Attributes:
        name: as used by the command line and the database.
        usage: the only key usage (RFC 5280 section 4.2.1.3), named as in cryptography. There is no extended key usage:
            only a private OID would fit, and OpenSSL's default purpose check rejects a certificate with one.
        life: the validity period, unless the CA's certificate ends earlier.
    """

    name: str
    usage: str
    life: timedelta


PAYMENT: Final = Profile(values.PAYMENT, "content_commitment", timedelta(days=3 * 365))
LOGIN: Final = Profile(values.LOGIN, "digital_signature", timedelta(days=3 * 365))

PROFILES: Final = {profile.name: profile for profile in (PAYMENT, LOGIN)}

_USAGES: Final = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def key_usage(*allowed: str) -> x509.KeyUsage:
    """Return the key usage extension with exactly these usages."""
    return x509.KeyUsage(**{name: name in allowed for name in _USAGES})
