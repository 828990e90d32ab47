"""A CA with an adjustable clock, and customers with keys in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ushield_hw.bank.ca import codes, enrolment, renewal
from ushield_hw.bank.ca.authority import Authority, root
from ushield_hw.bank.ca.certificates import Certificate
from ushield_hw.bank.ca.service import CaService, Policy
from ushield_hw.bank.database import Database
from ushield_hw.cms import Confirmation, Profile, Template
from ushield_hw.crypto.algorithms import KeyKind, Padding, Suite, suites_for
from ushield_hw.crypto.private_key import CertifiedKey

NOW: Final = datetime(2026, 11, 24, 2, 0, 0, tzinfo=UTC)
SUBJECT: Final = "CN=张三,O=Demo Bank"
ORIGIN: Final = "https://bank.example"


class Clock:
    """A clock that advances only when a test advances it."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def on(self, **by: float) -> None:
        self.now += timedelta(**by)


class Dies(Exception):
    """Simulates the end of the process."""


@dataclass
class SoftKey:
    """A key in memory, used as the bank's ``Signer`` or as a customer's key.

    Attributes:
        private: the key.
        signatures: the number of signatures made.
        dies_after: the number of signatures after which the next one raises :class:`Dies`.
    """

    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    signatures: int = 0
    dies_after: int | None = None

    @property
    def public(self) -> CertifiedKey:
        return self.private.public_key()

    @cached_property
    def suite(self) -> Suite:
        if isinstance(self.private, rsa.RSAPrivateKey):
            return suites_for(KeyKind.RSA)[0]
        return suites_for(KeyKind.EC_P256 if self.private.key_size == 256 else KeyKind.EC_P384)[0]

    @property
    def spki(self) -> bytes:
        return self.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def spki_sha256(self) -> str:
        digest = hashes.Hash(hashes.SHA256())
        digest.update(self.spki)
        return digest.finalize().hex()

    def sign(self, message: bytes) -> bytes:
        if self.dies_after is not None and self.signatures >= self.dies_after:
            raise Dies
        self.signatures += 1
        digest: Any = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}[self.suite.digest]
        if isinstance(self.private, rsa.RSAPrivateKey):
            assert self.suite.padding is Padding.PKCS1
            return self.private.sign(message, padding.PKCS1v15(), digest)
        r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(digest)))
        half = self.private.key_size // 8
        return r.to_bytes(half) + s.to_bytes(half)

    def pkcs10(self, subject: str | x509.Name = SUBJECT) -> bytes:
        name = x509.Name.from_rfc4514_string(subject) if isinstance(subject, str) else subject
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        return builder.sign(self.private, hashes.SHA256()).public_bytes(Encoding.DER)

    def cms(self, certificate: bytes, content: bytes, profile: Profile = Profile.CADES) -> bytes:
        confirmation = Confirmation.BUTTON if profile is Profile.CADES else None
        draft = Template(certificate, self.suite, profile, confirmation).draft(content, datetime.now(UTC))
        return draft.assemble(self.sign(draft.message))


@dataclass
class Bank:
    """A CA, with the operations of its operator and its customers."""

    database: Database
    clock: Clock = field(default_factory=Clock)
    key: SoftKey = field(default_factory=SoftKey)
    policy: Policy = field(default_factory=lambda: Policy("demo-bank", ORIGIN))
    life: timedelta = timedelta(days=20 * 365)

    @cached_property
    def ca(self) -> bytes:
        name = x509.Name.from_rfc4514_string("CN=Demo Bank CA,O=Demo Bank")
        return root(self.key, name, self.clock(), self.life)

    @cached_property
    def service(self) -> CaService:
        return CaService(self.database, Authority(self.ca, self.key, f"{ORIGIN}/crl"), self.policy, self.clock)

    def grant(self, **changes: Any) -> codes.Grant:
        given = codes.Grant(
            customer="C1",
            subject=SUBJECT,
            profile="payment",
            confirmation="button",
            display=True,
            token_serial=None,
            certificate_days=None,
            expires=self.clock() + timedelta(days=7),
        )
        return replace(given, **changes)

    def code(self, **changes: Any) -> str:
        code = codes.new_code()
        with self.database.writing() as connection:
            codes.give(connection, code, self.grant(**changes), self.clock())
        return code

    def enrolled(self, key: SoftKey, **changes: Any) -> Certificate:
        grant = self.grant(**changes)
        return enrolment.enrol(self.service, key.pkcs10(grant.subject), grant.customer, self.code(**changes))

    def request(self, old: SoftKey, certificate: Certificate, new: SoftKey) -> bytes:
        return old.cms(certificate.signed, new.pkcs10(certificate.subject))

    def renewed(self, old: SoftKey, certificate: Certificate, new: SoftKey) -> Certificate:
        return renewal.renew(self.service, self.request(old, certificate, new))

    def activated(self, new: SoftKey, certificate: Certificate) -> renewal.Activated:
        document = renewal.document(self.service, new.spki_sha256)
        return renewal.activate(self.service, new.spki_sha256, new.cms(certificate.signed, document))
