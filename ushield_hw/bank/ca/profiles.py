"""What a certificate of each kind says. A payment key signs payments and nothing else; a login key, logins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography import x509


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of certificate.

    Attributes:
        name: as the command line and the database have it.
        usage: the one key usage (RFC 5280 section 4.2.1.3), named as cryptography does. There is no extended key usage:
            the only one that would fit is a private OID, and then OpenSSL's default purpose refuses the certificate.
        life: how long a certificate holds, unless the CA's own ends before.
    """

    name: str
    usage: str
    life: timedelta


PAYMENT: Final = Profile("payment", "content_commitment", timedelta(days=3 * 365))
LOGIN: Final = Profile("login", "digital_signature", timedelta(days=3 * 365))

PROFILES: Final = {profile.name: profile for profile in (PAYMENT, LOGIN)}

_USAGES: Final = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def key_usage(*allowed: str) -> x509.KeyUsage:
    """Return the extension that allows these usages and no others."""
    return x509.KeyUsage(**{name: name in allowed for name in _USAGES})
