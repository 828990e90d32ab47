"""The signatures of a renewal: requests by the new and by the old key, and the proof of the new pair."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from ushield_hw import messages
from ushield_hw.certificates.certificate import signed_request
from ushield_hw.certificates.csr import is_genuine, renewal_lines, request_lines
from ushield_hw.certificates.renewal.record import Record
from ushield_hw.cms import CertificateFacts, Profile, Template
from ushield_hw.cms.attributes import Confirmation
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.crypto.public_key import public_of
from ushield_hw.drivers.family import ConfirmText
from ushield_hw.errors import CertificateError, KeyMismatch, OutcomeUnknown, TokenError
from ushield_hw.interaction import ConfirmRequest
from ushield_hw.order import Line, Order, Rules, message_format, screen_lines
from ushield_hw.signing.order import own_confirmation, profile_of
from ushield_hw.token.key_pairs import private_key_of
from ushield_hw.token.session import Session
from ushield_hw.token.signature import plan, signature

_TYPE = "ushield.renewal/1"
_PKCS10 = "pkcs10"


def request_by(session: Session, record: Record) -> bytes:
    """Return the request for the record's key, signed by that key: PKCS#10, DER.

    Args:
        session: An open session.
        record: The record of the renewal.

    Raises:
        CertificateError: ``RENEWAL_NAME_ENCODING``: the subject has an encoding that only its own CA can write.
        PinError, TokenError, ConfirmationError: The error reported by the token; there is no request.
    """
    from cryptography import x509

    try:
        with reading():
            subject = x509.load_der_x509_certificate(record.old).subject
    except Unreadable as error:  # the name has an encoding that only its own CA can write
        raise CertificateError("RENEWAL_NAME_ENCODING", serial=CertificateFacts.read(record.old).serial_hex) from error
    _compare(session, _PKCS10, request_lines(subject.rfc4514_string(), messages.language()))
    with _nothing_lost(session):
        return signed_request(session, subject, public_of(record.spki), record.key_id)


def requested_by(session: Session, old: CertificateFacts, record: Record) -> bytes:
    """Return the request signed by the old key: CMS SignedData, DER.

    Args:
        session: An open session.
        old: The certificate of the old key.
        record: The record of the renewal.

    Raises:
        PinError, TokenError, ConfirmationError: The error reported by the token; there is no request.
    """
    _compare(session, _PKCS10, renewal_lines(old.subject_text(), record.spki, messages.language()))
    return _signed(session, old, record.old_key_id, record.pkcs10)


def proved_here(session: Session, record: Record) -> None:
    """Make a signature with the new key and verify it with the new certificate.

    Args:
        session: An open session.
        record: The record of the renewal.

    Raises:
        KeyMismatch: ``RENEWAL_NOT_PROVED``: the signature does not match the certificate's key.
    """
    new = CertificateFacts.read(record.certificate)
    if not is_genuine(request_by(session, record), new.spki):
        raise KeyMismatch("RENEWAL_NOT_PROVED", subject=new.subject_text(), serial=new.serial_hex)


def activation(session: Session, new: CertificateFacts, record: Record, document: bytes, *, rules: Rules) -> bytes:
    """Return the bank's document signed by the new key: CMS SignedData, DER.

    Args:
        session: An open session.
        new: The new certificate.
        record: The record of the renewal.
        document: The bank's document.
        rules: The rules for the bank's documents.

    Raises:
        CertificateError: ``RENEWAL_DOCUMENT_WRONG``: it is not about this certificate.
        InputError: It is not a valid order, or it has expired.
        PinError, TokenError, ConfirmationError: The error reported by the token.
    """
    order = Order.parse(document, rules=rules)
    if order.type != _TYPE or order["certificate.sha256"] != new.sha256.hex():
        raise CertificateError("RENEWAL_DOCUMENT_WRONG", type=order.type, serial=new.serial_hex)
    order.check_live(datetime.now(UTC))
    lang = messages.language()
    content = message_format(session.driver.display.format).encode(order, lang)
    _compare(session, _TYPE, screen_lines(content, lang, rules=rules))
    return _signed(session, new, record.key_id, content)


def _signed(session: Session, signer: CertificateFacts, key_id: bytes, content: bytes) -> bytes:
    """Return CMS SignedData by one of the token's keys."""
    driver = session.driver
    profile = profile_of(driver)
    confirmation = None if profile is Profile.PLAIN else own_confirmation(driver) or Confirmation.NONE
    how = plan(session, signer.key)
    draft = Template(signer.der, how.suite, profile, confirmation).draft(content, datetime.now(UTC))
    key = private_key_of(session, signer.key, signer.spki, key_id)
    if key is None:
        raise KeyMismatch("RENEWAL_KEY_GONE", serial=session.serial, key_id=key_id.hex())
    with _nothing_lost(session):
        return draft.assemble(signature(session, key, how, draft.message, spki=signer.spki, purpose="renew"))


def _compare(session: Session, kind: str, lines: tuple[Line, ...]) -> None:
    """Show the user what the token's display must show, if the token displays what it signs."""
    if session.driver.confirm.text is ConfirmText.MESSAGE:
        session.interaction.compare_on_token(ConfirmRequest(kind, lines))


@contextmanager
def _nothing_lost(session: Session) -> Iterator[None]:
    """Raise ``RENEWAL_SIGNATURE_LOST`` if the answer was lost: unlike a payment, the signature may be made again."""
    try:
        yield
    except OutcomeUnknown as error:
        raise error.restated(TokenError, "RENEWAL_SIGNATURE_LOST", serial=session.serial) from error
