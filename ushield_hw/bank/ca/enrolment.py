"""Issue a customer's first certificate for a request and a one-time code."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ushield_hw.bank.ca import certificates, codes
from ushield_hw.bank.ca.certificates import Certificate, State
from ushield_hw.bank.ca.codes import Grant
from ushield_hw.bank.ca.profiles import PROFILES
from ushield_hw.bank.ca.requests import KeyRequest, read_request
from ushield_hw.bank.ca.service import CaService
from ushield_hw.errors import RequestRefused


def enrol(service: CaService, der: bytes, customer: str, code: str) -> Certificate:
    """Return the certificate for a request. Idempotent: the same request and code get the same certificate.

    Args:
        service: the CA.
        der: PKCS#10, DER.
        customer: the customer number.
        code: the one-time code as entered by the user.

    Returns:
        The issued certificate.

    Raises:
        RequestRefused: ``CODE_WRONG``, ``CODES_TOO_MANY``, ``CODE_EXPIRED``, ``CODE_USED`` (for another key),
            ``SUBJECT_MISMATCH``, ``KEY_REUSED``, or an error of :func:`read_request`. The code remains usable.
        UShieldError: the CA key or the database failed; the same request may be retried.
    """
    grant = _checked(service, customer, code)
    request = read_request(der)
    if request.subject != x509.Name.from_rfc4514_string(grant.subject):
        raise RequestRefused("SUBJECT_MISMATCH", wanted=grant.subject)
    return service.issue(lambda connection: _reserved(service, connection, request, customer, code))


def _checked(service: CaService, customer: str, code: str) -> Grant:
    with service.database.reading() as connection:
        codes.check_allowed(connection, customer, service.now(), service.unknown_customers)
        grant = codes.grant_of(connection, customer, code)
        known = grant is not None or codes.is_customer(connection, customer)
    if grant is not None:
        return grant
    if not known:
        service.unknown_customers.note(customer, service.now())
        raise RequestRefused("CODE_WRONG")
    # two concurrent wrong codes for the same number: the retry finds the row that the other one inserted
    for _ in range(2):
        try:
            with service.database.writing() as connection:
                codes.note_wrong(connection, customer, service.now())
            break
        except IntegrityError:
            continue
    raise RequestRefused("CODE_WRONG")


def _reserved(service: CaService, connection: Connection, request: KeyRequest, customer: str, code: str) -> Certificate:
    grant, now = codes.grant_of(connection, customer, code, lock=True), service.now()
    if grant is None:
        raise RequestRefused("CODE_WRONG")
    if grant.serial is not None:
        return _same_again(connection, grant.serial, request)
    if grant.expires <= now:
        raise RequestRefused("CODE_EXPIRED")
    if certificates.is_certified(connection, request.spki_sha256):
        raise RequestRefused("KEY_REUSED")
    added = certificates.add(connection, _new(service, request, grant, now))
    codes.use(connection, customer, code, added.serial, now)
    return added


def _same_again(connection: Connection, serial: str, request: KeyRequest) -> Certificate:
    found = certificates.by_serial(connection, serial)
    if found is None or found.spki_sha256 != request.spki_sha256:
        raise RequestRefused("CODE_USED")
    return found


def _new(service: CaService, request: KeyRequest, grant: Grant, now: datetime) -> Certificate:
    days = grant.certificate_days
    not_before, not_after = service.authority.validity(
        now, timedelta(days=days) if days else PROFILES[grant.profile].life
    )
    return Certificate(
        serial=f"{x509.random_serial_number():x}",
        request_key=request.spki_sha256,
        spki_sha256=request.spki_sha256,
        spki=request.spki,
        subject=grant.subject,
        customer=grant.customer,
        profile=grant.profile,
        confirmation=grant.confirmation,
        display=grant.display,
        token_serial=grant.token_serial,
        state=State.RESERVED,
        not_before=not_before,
        not_after=not_after,
        created=now,
        request=request.der,
    )
