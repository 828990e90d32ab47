"""Certificates on a token: list, request, install, export. A request's key is made on the token and stays there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from ushield_hw.backend.model import CertificateRecord, PublicKey
from ushield_hw.cms import CertificateFacts
from ushield_hw.crypto import pem
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.errors import (
    CertificateError,
    CertificateMultiple,
    CertificateNotFound,
    InputError,
    KeyMismatch,
    TokenError,
    UShieldError,
)
from ushield_hw.system.log import LOG
from ushield_hw.token.key_matching import public_half
from ushield_hw.token.key_pairs import ANY, KeyChoice, Pair, private_key_of, session_pairs
from ushield_hw.token.session import Session
from ushield_hw.token.signature import plan, signature

if TYPE_CHECKING:
    from cryptography import x509


_PEM_LABELS: Final = ("CERTIFICATE", "X509 CERTIFICATE")


class KeySpec(Enum):
    """The keys a token can be asked to make."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"

    @property
    def kind(self) -> KeyKind:
        """What kind of key it is."""
        return KeyKind.RSA if self.value.startswith("rsa") else KeyKind(self.value)

    @property
    def bits(self) -> int:
        """The length of the modulus; 0 for EC."""
        return int(self.value.removeprefix("rsa-")) if self.kind is KeyKind.RSA else 0


class PinPolicy(Enum):
    """When the token wants the PIN for a key."""

    LOGIN = "login"  # once, at login
    SIGNATURE = "signature"  # again for every signature (CKA_ALWAYS_AUTHENTICATE)


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate request (PKCS#10) for a key on the token."""

    pem: bytes
    key_id: bytes


def request(
    session: Session, spec: KeySpec, subject: str, *, pin_policy: PinPolicy | None = None, label: str | None = None
) -> Request:
    """Make a key pair on the token and a PKCS#10 request signed by it.

    Args:
        session: an open token.
        spec: which key.
        subject: RFC 4514, such as ``CN=张三,O=Demo Bank``.
        pin_policy: when the token will want the PIN; None: what its driver says.
        label: the key's label; default: the subject's common name.

    Raises:
        InputError: ``SUBJECT_INVALID``; nothing was made.
        KeyGenerationUnavailable: this token's module cannot make keys.
        TokenError: as the token says; a key that was made but cannot sign its request is removed again.
    """
    name, driver = _name(subject), session.driver
    each = pin_policy is PinPolicy.SIGNATURE or (pin_policy is None and driver.sign.always_authenticate)
    key_id = new_key_id()
    made = make_key(session, spec.kind, spec.bits, key_id, label or _common_name(name), each=each)
    try:
        der = signed_request(session, name, made, key_id)
    except BaseException:
        remove_quietly(session, key_id)
        raise
    return Request(pem.armored(der, "CERTIFICATE REQUEST"), key_id)


def new_key_id() -> bytes:
    """Return a CKA_ID that no two pairs ever share: random, and as long as RFC 5280's key identifiers."""
    return os.urandom(20)


def make_key(session: Session, kind: KeyKind, bits: int, key_id: bytes, label: str, *, each: bool) -> PublicKey:
    """Make a key pair on the token.

    Args:
        session: an open token.
        kind: of key.
        bits: the length of an RSA modulus.
        key_id: its CKA_ID.
        label: its label.
        each: the token will want the PIN for every signature.

    Raises:
        KeyGenerationUnavailable: this token's module cannot make keys.
        TokenError: as the token says.
    """
    return session.generate(kind, bits, key_id, label, always_authenticate=each)


def signed_request(session: Session, subject: x509.Name, public: PublicKey, key_id: bytes) -> bytes:
    """Return a PKCS#10 request, DER, signed on the token by the key that it is for.

    Args:
        session: an open token; a token that shows what it signs asks its owner.
        subject: whom the certificate will name.
        public: the key's public half.
        key_id: the key's CKA_ID.

    Raises:
        PinError, TokenError, ConfirmationError: as the token says.
    """
    from ushield_hw.certificates import csr

    how = plan(session, public.kind)
    spki = csr.spki_of(public)
    key = private_key_of(session, public.kind, spki, key_id)
    if key is None:
        raise TokenError("KEY_NOT_SHOWN", serial=session.serial, key_id=key_id.hex())

    def sign(message: bytes) -> bytes:
        return signature(session, key, how, message, spki=spki, purpose="request")

    return csr.build(subject, public, how.suite, sign)


def remove(session: Session, key_id: bytes) -> None:
    """Remove the key objects with a CKA_ID that this library has made up: nothing else has it."""
    session.destroy([key for key in session.keys() if key.key_id == key_id])


def remove_quietly(session: Session, key_id: bytes) -> None:
    """As :func:`remove`, after something has failed: that is the error to tell, and what fails in this is logged."""
    try:
        remove(session, key_id)
    except UShieldError as error:
        LOG.warning("the key %s is left on the token: %s", key_id.hex(), error.code)


def remove_key(session: Session, facts: CertificateFacts, key_id: bytes) -> None:
    """Remove both halves of a certificate's key and nothing of another pair, though it have the same CKA_ID.

    Raises:
        CertificateMultiple: ``KEYS_NOT_TOLD_APART``; nothing was removed.
    """
    key, half = private_key_of(session, facts.key, facts.spki, key_id), public_half(facts.key, facts.spki)
    public = [one for one in session.keys() if not one.private and one.public == half and one.key_id == key_id]
    session.destroy(([key] if key else []) + public)


def install(session: Session, data: bytes) -> Pair:
    """Write a certificate beside its key; one that is there already is left alone.

    Args:
        session: an open token.
        data: the certificate, PEM or DER.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``, ``CERTIFICATE_SEVERAL``.
        KeyMismatch: its key is not on this token.
        CertificateMultiple: ``KEYS_NOT_TOLD_APART``: several private keys may be its own.
        CertificateError: ``CERTIFICATE_WITHOUT_PURPOSE``: it is of version 1; ``CERTIFICATE_READ_BACK``: the token gave
            back other bytes than were written.
    """
    facts = read_installable(data)
    der = facts.der
    key = private_key_of(
        session, facts.key, facts.spki, b""
    )  # without an id: what the token shows of its keys must prove it
    if key is None:
        raise KeyMismatch(subject=facts.subject_text(), serial=facts.serial_hex)
    if any(record.der == der for record in session.certificates()):
        return next(pair for pair in session_pairs(session) if pair.facts.der == der)
    written = write(session, facts, key.key_id, key.label)
    try:
        found = session_pairs(session)
    except UShieldError as error:
        LOG.warning("the certificate is installed; the token cannot be listed: %s", error.code)
        found = ()
    return next((pair for pair in found if pair.facts.der == der), Pair(written, facts, key, has_key=True))


def read_installable(data: bytes) -> CertificateFacts:
    """Read a certificate that may be installed: one that no verifier would accept is refused before it is in use.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``, ``CERTIFICATE_SEVERAL``.
        CertificateError: ``CERTIFICATE_WITHOUT_PURPOSE``: it is of version 1, which cannot state a key usage;
            ``CERTIFICATE_EXPLICIT_CURVE``: its key spells its curve out, which RFC 5480 forbids.
    """
    from ushield_hw.verifier.signatures import key_problem

    facts = CertificateFacts.read(read_certificate(data))
    if facts.version == 1:
        raise CertificateError("CERTIFICATE_WITHOUT_PURPOSE", serial=facts.serial_hex)
    if key_problem(facts.spki) == "explicit_curve":
        raise CertificateError("CERTIFICATE_EXPLICIT_CURVE", serial=facts.serial_hex)
    return facts


def write(session: Session, facts: CertificateFacts, key_id: bytes, label: str) -> CertificateRecord:
    """Write a certificate object and compare what the token gives back.

    What was written stays so where the token gives nothing back, as when it is pulled out just then: that is logged.

    Raises:
        TokenError: as the token says; ``TokenFull``: there is no room.
        CertificateError: ``CERTIFICATE_READ_BACK``.
    """
    handle = session.write_certificate(facts, key_id, label)
    try:
        found = objects_of(session, facts.der, key_id)
    except UShieldError as error:
        LOG.warning("the certificate was written and cannot be read back: %s", error.code)
        return CertificateRecord(handle, key_id, label, facts.der)
    if not found:
        raise CertificateError("CERTIFICATE_READ_BACK", subject=facts.subject_text())
    return found[0]


def objects_of(session: Session, der: bytes, key_id: bytes) -> list[CertificateRecord]:
    """Return the objects that hold a certificate: those of the CKA_ID that it should have, else any."""
    for looked_for in (key_id, None):
        if found := [record for record in session.certificates(looked_for) if record.der == der]:
            return found
    return []


def export(found: Sequence[Pair], choice: KeyChoice = ANY) -> bytes:
    """Return a certificate from the token, PEM.

    Raises:
        CertificateNotFound: ``CERTIFICATE_NONE_MATCHES``.
        CertificateMultiple: ``CERTIFICATE_SEVERAL_MATCH``.
    """
    matching = matches(found, choice)
    if len(matching) != 1:
        raise CertificateMultiple("CERTIFICATE_SEVERAL_MATCH", candidates=[pair.brief() for pair in matching])
    return pem.armored(matching[0].facts.der, "CERTIFICATE")


def matches(found: Sequence[Pair], choice: KeyChoice) -> list[Pair]:
    """Return the pairs that are asked for.

    Raises:
        CertificateNotFound: ``CERTIFICATE_NONE_MATCHES``: none of those on the token is, or there is none.
        CertificateMultiple: ``CERTIFICATE_SEVERAL_MATCH``: the one certificate that is asked for is two.
    """
    matching = [pair for pair in found if choice.takes(pair)]
    if choice.certificate is not None and len(matching) > 1:
        raise CertificateMultiple("CERTIFICATE_SEVERAL_MATCH", candidates=[pair.brief() for pair in matching])
    if not matching:
        raise CertificateNotFound("CERTIFICATE_NONE_MATCHES", candidates=[pair.brief() for pair in found])
    return matching


def expiring(found: Sequence[Pair], days: int, now: datetime | None = None) -> list[Pair]:
    """Return the activated pairs whose certificate ends within so many days, or has ended."""
    limit = (now or datetime.now(UTC)) + timedelta(days=days)
    return [pair for pair in found if pair.activated and pair.facts.not_after <= limit]


def read_certificate(data: bytes) -> bytes:
    """Return the one certificate that a PEM or DER file holds, DER.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``: none, ``CERTIFICATE_SEVERAL``: more than one.
    """
    if not pem.is_pem(data):
        return data
    try:
        found = pem.blocks(data, *_PEM_LABELS)
    except Unreadable as error:
        raise InputError("CERTIFICATE_MALFORMED") from error
    if not found:
        raise InputError("CERTIFICATE_MALFORMED")
    if len(found) > 1:
        raise InputError("CERTIFICATE_SEVERAL", n=len(found))
    return found[0]


def _name(subject: str) -> x509.Name:
    from cryptography import x509

    try:
        with reading():
            name = x509.Name.from_rfc4514_string(subject)
    except Unreadable as error:
        raise InputError("SUBJECT_INVALID", subject=subject) from error
    if not list(name):
        raise InputError("SUBJECT_INVALID", subject=subject)
    return name


def _common_name(name: x509.Name) -> str:
    from cryptography.x509.oid import NameOID

    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()
