"""Signers unknown to the verifier, with few and many CAs, and with a short and a long CRL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import ushield_hw as us
from benchmarks.race import Work
from benchmarks.stage import Stage, orders
from ushield_hw.cms import Profile, Template
from ushield_hw.crypto.algorithms import SUITES
from ushield_hw.crypto.der import SEQUENCE, Reader, integer, tlv
from ushield_hw.verifier import trust as trusting

CAS: Final = 10_000
ENTRIES: Final = 500_000

_SIGNERS: Final = 1200  # more than a cache of single certificates holds
_NAME: Final = x509.Name.from_rfc4514_string("CN=Issuing CA 00000,O=Demo Bank")


def few_cas(stage: Stage) -> Work:
    """One CA in the store."""
    return _verifying(stage, lambda made: us.TrustStore([made.ca]))


def many_cas(stage: Stage) -> Work:
    """10,000 CAs in the store."""
    return _verifying(stage, lambda made: us.TrustStore([made.ca], list(made.others())))


def short_crl(stage: Stage) -> Work:
    """A CRL with one entry."""
    return _verifying(stage, lambda made: us.TrustStore([made.ca], crls=[made.crl(1)]))


def long_crl(stage: Stage) -> Work:
    """A CRL with 500,000 entries."""
    return _verifying(stage, lambda made: us.TrustStore([made.ca], crls=[made.crl(ENTRIES)]))


def _verifying(stage: Stage, store: Callable[[_Made], us.TrustStore]) -> Work:
    trusting.PATHS_KEPT = 1  # type: ignore[misc] # so that each signer is a new one
    made = _Made()
    trust, signed = store(made), cycle(list(made.signed()))
    return lambda: us.verify(next(signed), trust=trust)


class _Made:
    """A CA, and customers of it that share a key."""

    def __init__(self) -> None:
        self._key, self._own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.ca = self._issue(_NAME, self._key.public_key(), ca=True)

    def others(self) -> Iterator[bytes]:
        """Yield unrelated CAs."""
        for number in range(1, CAS):
            yield self.ca.replace(b"CA 00000", b"CA %05d" % number)

    def signed(self) -> Iterator[bytes]:
        """Yield orders, each signed by a different signer."""
        suite = next(one for one in SUITES if one.name == "ecdsa-p256-sha256")
        (order,) = orders(1)
        for number in range(_SIGNERS):
            subject = x509.Name.from_rfc4514_string(f"CN=Customer {number},O=Demo Bank")
            certificate = self._issue(subject, self._own.public_key(), ca=False)
            template = Template(certificate, suite, Profile.PLAIN, None)
            value = Reader(self._own.sign(order.canonical, ec.ECDSA(hashes.SHA256()))).enter(SEQUENCE, "")
            raw = b"".join(value.integer("").to_bytes(32, "big") for _ in range(2))
            yield template.draft(order.canonical, datetime.now(UTC)).assemble(raw)

    def crl(self, entries: int) -> bytes:
        """Return a CRL assembled by hand, because cryptography's builder is slow for so many entries."""
        now = datetime.now(UTC)
        times = [tlv(0x17, f"{now + timedelta(days=days):%y%m%d%H%M%SZ}".encode()) for days in (-1, 1)]
        reason = bytes.fromhex("300c300a0603551d1504030a0101")
        listed = b"".join(tlv(SEQUENCE, integer((1 << 158) | n), times[0], reason) for n in range(entries))
        algorithm = SUITES[0].signature_algorithm
        body = tlv(SEQUENCE, integer(1), algorithm, _NAME.public_bytes(), *times, tlv(SEQUENCE, listed))
        return tlv(SEQUENCE, body, algorithm, tlv(0x03, b"\0", self._key.sign(body, ec.ECDSA(hashes.SHA256()))))

    def _issue(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool) -> bytes:
        now, use = datetime.now(UTC), {"key_cert_sign": ca, "crl_sign": ca, "content_commitment": not ca}
        others = ("digital_signature", "key_encipherment", "data_encipherment", "key_agreement")
        usage = x509.KeyUsage(**dict.fromkeys((*others, "encipher_only", "decipher_only"), False), **use)
        builder = x509.CertificateBuilder(_NAME, subject, key, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=2))
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        return builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)
