"""Certificates on a token: list, request, install, export. The key of a request is generated on the token."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final

from ushield_hw.backend.model import CertificateRecord
from ushield_hw.cms import CertificateFacts
from ushield_hw.crypto import pem
from ushield_hw.crypto.algorithms import KeyKind, KeySpec
from ushield_hw.crypto.names import parse_subject
from ushield_hw.crypto.parsing import Unreadable
from ushield_hw.crypto.public_key import PublicKey, comparable, spki_of
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
from ushield_hw.token.key_pairs import ANY, KeyChoice, Pair, private_key_of, session_pairs
from ushield_hw.token.session import Session
from ushield_hw.token.signature import plan, signature

if TYPE_CHECKING:
    from cryptography import x509


_PEM_LABELS: Final = ("CERTIFICATE", "X509 CERTIFICATE")


class PinPolicy(Enum):
    """When the token requires the PIN for a key."""

    LOGIN = "login"  # once, at login
    SIGNATURE = "signature"  # for every signature (CKA_ALWAYS_AUTHENTICATE)


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate request (PKCS#10) for a key on the token.

    Attributes:
        pem: The request, PEM.
        key_id: The CKA_ID of the key.
    """

    pem: bytes
    key_id: bytes


def request(
    session: Session, spec: KeySpec, subject: str, *, pin_policy: PinPolicy | None = None, label: str | None = None
) -> Request:
    """Generate a key pair on the token and return a PKCS#10 request signed by it.

    Args:
        session: An open session.
        spec: The kind of key.
        subject: The subject in RFC 4514 form, such as ``CN=张三,O=Demo Bank``.
        pin_policy: When the token will require the PIN. None: as the token's driver specifies.
        label: The label of the key. Default: the subject's common name.

    Returns:
        The request and the key's CKA_ID.

    Raises:
        InputError: ``SUBJECT_INVALID``; no key was generated.
        KeyGenerationUnavailable: The token's module cannot generate keys.
        PinError, TokenError, ConfirmationError: The error reported by the token. If the new key cannot sign the
            request, it is deleted.
    """
    name, driver = parse_subject(subject), session.driver
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
    """Return a random CKA_ID of 20 bytes, the length of RFC 5280 key identifiers. No two pairs share one."""
    return os.urandom(20)


def make_key(session: Session, kind: KeyKind, bits: int, key_id: bytes, label: str, *, each: bool) -> PublicKey:
    """Generate a key pair on the token.

    Args:
        session: An open session.
        kind: The kind of key.
        bits: The length of the RSA modulus.
        key_id: The CKA_ID of the new key.
        label: The label of the new key.
        each: Whether the token will require the PIN for every signature.

    Raises:
        KeyGenerationUnavailable: The token's module cannot generate keys.
        TokenError: The error reported by the token.
    """
    return session.generate(kind, bits, key_id, label, always_authenticate=each)


def signed_request(session: Session, subject: x509.Name, public: PublicKey, key_id: bytes) -> bytes:
    """Return a PKCS#10 request, DER, signed on the token by the key that it is for.

    Args:
        session: An open session. A token that displays what it signs asks the user to confirm.
        subject: The subject of the certificate.
        public: The public key.
        key_id: The CKA_ID of the key.

    Raises:
        PinError, TokenError, ConfirmationError: The error reported by the token.
    """
    from ushield_hw.certificates import csr

    how = plan(session, public.kind)
    spki = spki_of(public)
    key = private_key_of(session, public.kind, spki, key_id)
    if key is None:
        raise TokenError("KEY_NOT_SHOWN", serial=session.serial, key_id=key_id.hex())

    def sign(message: bytes) -> bytes:
        return signature(session, key, how, message, spki=spki, purpose="request")

    return csr.build(subject, public, how.suite, sign)


def remove(session: Session, key_id: bytes) -> None:
    """Delete the key objects with a CKA_ID that this library generated; no other object has it.

    Args:
        session: An open session.
        key_id: The CKA_ID.
    """
    session.destroy([key for key in session.keys() if key.key_id == key_id])


def remove_quietly(session: Session, key_id: bytes) -> None:
    """Delete key objects after another error, as :func:`remove`; errors are logged, so that the first one is raised.

    Args:
        session: An open session.
        key_id: The CKA_ID.
    """
    try:
        remove(session, key_id)
    except UShieldError as error:
        LOG.warning("the key %s is left on the token: %s", key_id.hex(), error.code)


def remove_key(session: Session, facts: CertificateFacts, key_id: bytes) -> None:
    """Delete both halves of a certificate's key, and no object of another pair with the same CKA_ID.

    Args:
        session: An open session.
        facts: The certificate.
        key_id: The CKA_ID of the key.

    Raises:
        CertificateMultiple: ``KEYS_AMBIGUOUS``; nothing was deleted.
    """
    key, half = private_key_of(session, facts.key, facts.spki, key_id), comparable(facts.spki, facts.key)
    public = [one for one in session.keys() if not one.private and one.public == half and one.key_id == key_id]
    session.destroy(([key] if key else []) + public)


def install(session: Session, data: bytes) -> Pair:
    """Write a certificate next to its key. Idempotent: a certificate already on the token is not written again.

    Args:
        session: An open session.
        data: The certificate, PEM or DER.

    Returns:
        The certificate with its key.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``, ``CERTIFICATE_SEVERAL``.
        KeyMismatch: Its private key is not on this token.
        CertificateMultiple: ``KEYS_AMBIGUOUS``: several private keys may belong to it.
        CertificateError: ``CERTIFICATE_WITHOUT_PURPOSE``: it is of version 1; ``CERTIFICATE_EXPLICIT_CURVE``: its key
            has explicit curve parameters; ``CERTIFICATE_READ_BACK``: the token returned other bytes than were written.
        TokenError: The error reported by the token.
    """
    facts = read_installable(data)
    der = facts.der
    key = private_key_of(
        session, facts.key, facts.spki, b""
    )  # no id: the match must be proved by the public keys on the token
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
    # A worker that was lost since has no login, and shows no private key; this one was there before the write.
    listed = (pair for pair in found if pair.facts.der == der and pair.key is not None)
    return next(listed, Pair(written, facts, key, has_key=True))


def read_installable(data: bytes) -> CertificateFacts:
    """Read a certificate before it is installed; refuse one that no verifier would accept.

    Args:
        data: The certificate, PEM or DER.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``, ``CERTIFICATE_SEVERAL``.
        CertificateError: ``CERTIFICATE_WITHOUT_PURPOSE``: it is of version 1, which cannot state a key usage;
            ``CERTIFICATE_EXPLICIT_CURVE``: its key has explicit curve parameters, which RFC 5480 forbids.
    """
    from ushield_hw.verifier.signatures import key_problem

    facts = CertificateFacts.read(read_certificate(data))
    if facts.version == 1:
        raise CertificateError("CERTIFICATE_WITHOUT_PURPOSE", serial=facts.serial_hex)
    if key_problem(facts.spki) == "explicit_curve":
        raise CertificateError("CERTIFICATE_EXPLICIT_CURVE", serial=facts.serial_hex)
    return facts


def write(session: Session, facts: CertificateFacts, key_id: bytes, label: str) -> CertificateRecord:
    """Write a certificate object and compare it with what the token returns.

    If it cannot be read back, for example because the token is removed at that moment, the written object is kept and
    the error is logged.

    Args:
        session: An open session.
        facts: The certificate.
        key_id: The CKA_ID of the object.
        label: The label of the object.

    Raises:
        TokenFull: The token has no free space.
        TokenError: The error reported by the token.
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
    """Return the objects that hold a certificate: those with the expected CKA_ID, otherwise any.

    Args:
        session: An open session.
        der: The certificate, DER.
        key_id: The expected CKA_ID.
    """
    for looked_for in (key_id, None):
        if found := [record for record in session.certificates(looked_for) if record.der == der]:
            return found
    return []


def export(found: Sequence[Pair], choice: KeyChoice = ANY) -> bytes:
    """Return a certificate from the token, PEM.

    Args:
        found: The pairs on the token.
        choice: The requested certificate.

    Raises:
        CertificateNotFound: ``CERTIFICATE_NONE_MATCHES``.
        CertificateMultiple: ``CERTIFICATE_SEVERAL_MATCH``.
    """
    matching = matches(found, choice)
    if len(matching) != 1:
        raise CertificateMultiple("CERTIFICATE_SEVERAL_MATCH", candidates=[pair.brief() for pair in matching])
    return pem.armored(matching[0].facts.der, "CERTIFICATE")


def matches(found: Sequence[Pair], choice: KeyChoice) -> list[Pair]:
    """Return the pairs that match a choice.

    Args:
        found: The pairs on the token.
        choice: The requested certificate.

    Raises:
        CertificateNotFound: ``CERTIFICATE_NONE_MATCHES``: no certificate on the token matches.
        CertificateMultiple: ``CERTIFICATE_SEVERAL_MATCH``: ``choice.certificate`` matches more than one.
    """
    matching = [pair for pair in found if choice.takes(pair)]
    if choice.certificate is not None and len(matching) > 1:
        raise CertificateMultiple("CERTIFICATE_SEVERAL_MATCH", candidates=[pair.brief() for pair in matching])
    if not matching:
        raise CertificateNotFound("CERTIFICATE_NONE_MATCHES", candidates=[pair.brief() for pair in found])
    return matching


def expiring(found: Sequence[Pair], days: int, now: datetime | None = None) -> list[Pair]:
    """Return the activated pairs whose certificate expires within a number of days, or has expired.

    Args:
        found: The pairs on the token.
        days: The number of days.
        now: A timezone-aware time; default: the current time.
    """
    limit = (now or datetime.now(UTC)) + timedelta(days=days)
    return [pair for pair in found if pair.activated and pair.facts.not_after <= limit]


def read_certificate(data: bytes) -> bytes:
    """Return the single certificate in a PEM or DER file, as DER.

    Args:
        data: The file's bytes.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``: there is none; ``CERTIFICATE_SEVERAL``: there is more than one.
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


def _common_name(name: x509.Name) -> str:
    from cryptography.x509.oid import NameOID

    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()
