"""Certificate renewal: the old key authorizes a new key, which is activated after it has signed a document.

1. :func:`renew`: a CMS signed with the old key that contains the PKCS#10 of the new key yields a certificate in state
*issued*, which is not in use yet.
2. :func:`document`: returns what the new key must sign, a ``ushield.renewal/1``.
3. :func:`activate`: takes that document signed with the new key; the new certificate becomes *active* and the old one
*superseded*.

Every step is idempotent: the same request gets the same response, also after a crash.
"""

from __future__ import annotations

import secrets
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from sqlalchemy import Connection, insert, select, update

from ushield_hw.bank.ca import certificates
from ushield_hw.bank.ca.certificates import PENDING, Certificate, State
from ushield_hw.bank.ca.profiles import PROFILES
from ushield_hw.bank.ca.requests import KeyRequest, read_request
from ushield_hw.bank.ca.service import CaService
from ushield_hw.bank.ca.tables import DOCUMENTS
from ushield_hw.cms import SignedOrderParts
from ushield_hw.errors import BadSignature, InputError, RequestRefused, UntrustedSigner, VerificationError
from ushield_hw.order import Order
from ushield_hw.order.times import time_text
from ushield_hw.verifier import (
    Verified,
    check_signature,
    path,  # noqa: F401 - slow import: do it at startup, not during the first request
    verify,
)

DOCUMENT_LIFE: Final = timedelta(minutes=10)
MOST_PENDING: Final = 10
"""Maximum number of renewals of one certificate that are not activated yet."""

_ON_ITS_WAY: Final = timedelta(minutes=1)  # transmission time allowed for a document that was signed before it expired
_TYPE: Final = "ushield.renewal/1"
_NO_CMS: Final = "bank_no_cms"


def renew(service: CaService, der: bytes) -> Certificate:
    """Return the certificate for a renewal request. Idempotent: the same request gets the same certificate.

    Args:
        service: the CA.
        der: CMS SignedData by the old key with the PKCS#10 of the new key as content, DER.

    Returns:
        The issued certificate, not activated yet.

    Raises:
        RequestRefused: ``REQUEST_MALFORMED``, ``PROOF_WRONG``, ``CERTIFICATE_UNKNOWN``,
            ``RENEWAL_CERTIFICATE_REVOKED``, ``RENEWAL_CERTIFICATE_EXPIRED``, ``RENEWAL_SUPERSEDED``,
            ``RENEWAL_NOT_ACTIVE``, ``SUBJECT_MISMATCH``, ``KEY_REUSED``, ``KEY_TOO_WEAK``, ``RENEWAL_TOO_MANY``,
            ``AUTHORITY_ENDS``.
        UShieldError: the CA key or the database failed; the same request may be retried.
    """
    parts = _proof(der)
    request = read_request(parts.content)
    return service.issue(lambda connection: _reserved(service, connection, parts, request, der))


def document(service: CaService, spki_sha256: str) -> bytes:
    """Return the document that a new key must sign; the same one until it expires.

    Args:
        service: the CA.
        spki_sha256: SHA-256 of the new key, lower-case hex.

    Returns:
        The document in canonical form.

    Raises:
        RequestRefused: ``RENEWAL_NOT_FOUND``, ``RENEWAL_CERTIFICATE_REVOKED``, ``RENEWAL_SUPERSEDED``.
    """
    now = service.now()
    with service.database.reading() as connection:
        new = _renewed(connection, spki_sha256)
        found = _live_document(connection, new, now)
    if found is not None:
        return found
    with service.database.writing() as connection:
        certificates.by_serial(connection, new.serial, lock=True)  # concurrent requests get the same document
        return _live_document(connection, new, now) or _new_document(service, connection, new, now)


@dataclass(frozen=True, slots=True)
class Activated:
    """An activated renewal. Serial numbers are lower-case hex."""

    serial: str
    replaces: str
    activated: datetime

    def to_json(self) -> dict[str, object]:
        """Return the JSON document of the response."""
        times = {"activated": time_text(self.activated)}
        return {"state": State.ACTIVE, "serial": self.serial, "replaces": self.replaces, **times}


def activate(service: CaService, spki_sha256: str, signed: bytes) -> Activated:
    """Activate a renewed certificate. Idempotent.

    Args:
        service: the CA.
        spki_sha256: SHA-256 of the new key, lower-case hex.
        signed: the document signed with the new key: CMS, DER.

    Returns:
        The activated certificate and the one it replaces.

    Raises:
        RequestRefused: ``RENEWAL_NOT_FOUND``, ``REQUEST_MALFORMED``, ``PROOF_WRONG``, ``CERTIFICATE_UNKNOWN``,
            ``DOCUMENT_MISMATCH``, ``DOCUMENT_EXPIRED``, ``RENEWAL_CERTIFICATE_REVOKED``, ``RENEWAL_SUPERSEDED``,
            ``RENEWAL_CERTIFICATE_EXPIRED``.
    """
    now = service.now()
    with service.database.reading() as connection:
        new = _renewed(connection, spki_sha256)
    verified = _verified(service, signed, now)
    if verified.signer.certificate != new.der:
        raise RequestRefused("PROOF_WRONG")
    with service.database.writing() as connection:
        return _exchanged(connection, new, verified.order, signed, now)


# --- the request ------------------------------------------------------------------------------------------------------


def _proof(der: bytes) -> SignedOrderParts:
    try:
        return check_signature(der)
    except InputError as error:
        raise RequestRefused("REQUEST_MALFORMED", problem=_NO_CMS) from error
    except BadSignature as error:
        raise _bad(error) from error


def _bad(error: BadSignature) -> RequestRefused:
    problem = error.problem
    if problem == "cms_signature_wrong":
        return RequestRefused("PROOF_WRONG")
    return RequestRefused("REQUEST_MALFORMED", problem=problem)


def _reserved(
    service: CaService, connection: Connection, parts: SignedOrderParts, request: KeyRequest, der: bytes
) -> Certificate:
    now = service.now()
    old = certificates.by_sha256(connection, parts.signer.sha256.hex(), lock=True)
    if old is None:
        raise RequestRefused("CERTIFICATE_UNKNOWN", serial=parts.signer.serial_hex)
    if old.state is State.REVOKED:
        raise RequestRefused("RENEWAL_CERTIFICATE_REVOKED", serial=old.serial)
    if request.subject != x509.load_der_x509_certificate(old.signed).subject:
        raise RequestRefused("SUBJECT_MISMATCH", wanted=old.subject)
    key = request.spki_sha256 if request.spki != old.spki else f"{request.spki_sha256}:{old.serial}"
    found = certificates.by_request_key(connection, key)
    if found is not None and found.replaces == old.serial:
        return found
    _check_may_renew(service, connection, old, parts, now)
    if not _may_be_certified(service, connection, old, request):
        raise RequestRefused("KEY_REUSED")
    return certificates.add(connection, _new(service, old, request, key, der, now))


def _check_may_renew(
    service: CaService, connection: Connection, old: Certificate, parts: SignedOrderParts, now: datetime
) -> None:
    if old.state is State.SUPERSEDED:
        raise RequestRefused("RENEWAL_SUPERSEDED", serial=old.serial)
    if old.state is not State.ACTIVE:
        raise RequestRefused("RENEWAL_NOT_ACTIVE", serial=old.serial)
    if old.not_after <= now:
        raise RequestRefused("RENEWAL_CERTIFICATE_EXPIRED", serial=old.serial)
    try:
        service.trust.path(parts, now)
    except VerificationError as error:
        raise RequestRefused("CERTIFICATE_UNKNOWN", serial=old.serial) from error
    if len(certificates.successors(connection, old.serial, *PENDING)) >= MOST_PENDING:
        raise RequestRefused("RENEWAL_TOO_MANY", serial=old.serial, most=MOST_PENDING)


def _may_be_certified(service: CaService, connection: Connection, old: Certificate, request: KeyRequest) -> bool:
    if request.spki == old.spki:
        return service.policy.allow_same_key
    return not certificates.is_certified(connection, request.spki_sha256)


def _new(service: CaService, old: Certificate, request: KeyRequest, key: str, der: bytes, now: datetime) -> Certificate:
    # The new certificate must expire later, otherwise the client rejects it as a renewal.
    life = max(PROFILES[old.profile].life, old.not_after + timedelta(seconds=1) - now)
    not_before, not_after = service.authority.validity(now, life)
    if not_after <= old.not_after:
        raise RequestRefused("AUTHORITY_ENDS", not_after=time_text(not_after))
    return Certificate(
        serial=f"{x509.random_serial_number():x}",
        request_key=key,
        spki_sha256=request.spki_sha256,
        spki=request.spki,
        subject=old.subject,
        customer=old.customer,
        state=State.RESERVED,
        not_before=not_before,
        not_after=not_after,
        created=now,
        replaces=old.serial,
        request=der,
        **old.device,
    )


# --- the document -----------------------------------------------------------------------------------------------------


def _renewed(connection: Connection, spki_sha256: str) -> Certificate:
    found = certificates.renewed_with(connection, spki_sha256)
    if found is None or found.state is State.RESERVED:
        raise RequestRefused("RENEWAL_NOT_FOUND")
    _refuse_ended(found)
    return found


def _refuse_ended(certificate: Certificate) -> None:
    if certificate.state is State.REVOKED:
        raise RequestRefused("RENEWAL_CERTIFICATE_REVOKED", serial=certificate.serial)
    if certificate.state is State.SUPERSEDED:
        raise RequestRefused("RENEWAL_SUPERSEDED", serial=certificate.serial)


def _live_document(connection: Connection, new: Certificate, now: datetime) -> bytes | None:
    live = (DOCUMENTS.c.serial == new.serial, DOCUMENTS.c.expires > now)
    found: bytes | None = connection.execute(select(DOCUMENTS.c.canonical).where(*live).limit(1)).scalar_one_or_none()
    return found


def _new_document(service: CaService, connection: Connection, new: Certificate, now: datetime) -> bytes:
    order = Order.from_json(_about(service, new, now), rules=service.policy.rules)
    values = {"tx_id": order.tx_id, "serial": new.serial, "canonical": order.canonical, "expires": order.expires}
    connection.execute(insert(DOCUMENTS).values(values))
    return order.canonical


def _about(service: CaService, new: Certificate, now: datetime) -> dict[str, Any]:
    return {
        "type": _TYPE,
        "bank": {"id": service.policy.bank_id, "origin": service.policy.origin},
        "tx_id": str(uuid.uuid4()),
        "certificate": {
            "subject": new.subject,
            "serial": new.serial,
            "sha256": new.sha256,
            "not_after": time_text(new.not_after),
        },
        "replaces": {"serial": new.replaces},
        "created": time_text(now),
        "expires": time_text(now + DOCUMENT_LIFE),
        "nonce": urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("="),
    }


# --- the activation ---------------------------------------------------------------------------------------------------


def _verified(service: CaService, signed: bytes, now: datetime) -> Verified:
    try:
        # _exchanged checks the document's expiry, so that repeating a completed activation succeeds after it.
        return verify(signed, trust=service.trust, at=now, rules=service.policy.rules, judge_expiry=False)
    except InputError as error:
        raise RequestRefused("REQUEST_MALFORMED", problem=_NO_CMS) from error
    except BadSignature as error:
        if error.problem == "cms_not_an_order":
            raise RequestRefused("DOCUMENT_MISMATCH") from error
        raise _bad(error) from error
    except UntrustedSigner as error:
        code = "RENEWAL_CERTIFICATE_EXPIRED" if error.reason == "expired" else "CERTIFICATE_UNKNOWN"
        raise RequestRefused(code, serial=error.serial) from error


def _exchanged(connection: Connection, seen: Certificate, order: Order, signed: bytes, now: datetime) -> Activated:
    # All transactions lock in this order to avoid deadlocks: the old certificate first.
    old = certificates.by_serial(connection, seen.replaces or "", lock=True)
    new = certificates.by_serial(connection, seen.serial, lock=True)
    if old is None or new is None:
        raise RequestRefused("RENEWAL_NOT_FOUND")
    expires = _expiry(connection, new, order)
    if new.state is State.ACTIVE and new.activated is not None:
        return Activated(new.serial, old.serial, new.activated)
    _refuse_ended(new)
    if expires + _ON_ITS_WAY <= now:
        raise RequestRefused("DOCUMENT_EXPIRED", expires=time_text(expires))
    _refuse_ended(old)
    certificates.move(connection, old, State.SUPERSEDED, now)
    certificates.move(connection, new, State.ACTIVE, now)
    for other in certificates.successors(connection, old.serial, *PENDING, lock=True):  # abandoned renewals
        certificates.revoke(connection, other, "cessationOfOperation", now)
    connection.execute(update(DOCUMENTS).where(DOCUMENTS.c.tx_id == order.tx_id).values(signed=signed))
    return Activated(new.serial, old.serial, now)


def _expiry(connection: Connection, new: Certificate, order: Order) -> datetime:
    """Return when the document expires; the order must equal it byte for byte."""
    columns = (DOCUMENTS.c.serial, DOCUMENTS.c.canonical, DOCUMENTS.c.expires)
    row = connection.execute(select(*columns).where(DOCUMENTS.c.tx_id == order.tx_id)).first()
    if row is None or row.serial != new.serial or row.canonical != order.canonical:
        raise RequestRefused("DOCUMENT_MISMATCH")
    expires: datetime = row.expires
    return expires
