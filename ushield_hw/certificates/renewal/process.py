"""The steps of one renewal: each step is recorded before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, Protocol

from ushield_hw.backend.model import Identity
from ushield_hw.certificates.certificate import new_key_id, read_certificate
from ushield_hw.certificates.renewal import checks
from ushield_hw.certificates.renewal.proof import activation, proved_here, request_by, requested_by
from ushield_hw.certificates.renewal.record import Held, Record, Records, Step
from ushield_hw.certificates.renewal.token_objects import NotWritten, TokenObjects
from ushield_hw.cms import CertificateFacts
from ushield_hw.config import Settings
from ushield_hw.errors import (
    CertificateError,
    CertificateExpired,
    CertificateMultiple,
    CertificateNotFound,
    KeyGenerationUnavailable,
    RenewalRejected,
    StorageError,
    TokenError,
    TokenFull,
    Trait,
    UShieldError,
)
from ushield_hw.order import Rules
from ushield_hw.order.times import time_text
from ushield_hw.system.log import LOG
from ushield_hw.token.key_pairs import ANY, KeyChoice, Pair, session_pairs
from ushield_hw.token.session import Session

_AGAIN: Final = timedelta(hours=1)


class Retire(Enum):
    """What happens to the old pair once the new pair is active."""

    REMOVE = "remove"
    KEEP = "keep"  # it stays on the token until it is deleted; it is not used to sign any more


class Bank(Protocol):
    """The CA that issues certificates."""

    def certify(self, request: bytes) -> bytes:
        """Return the certificate for a renewal request. Idempotent: the same request gets the same certificate.

        Args:
            request: CMS by the old key around the PKCS#10 request by the new key, DER.

        Returns:
            The certificate, DER.

        Raises:
            RenewalRejected: The bank will not issue a certificate.
            NetworkError: The bank could not be reached, or its answer is invalid.
        """
        ...

    @property
    def rules(self) -> Rules:
        """The rules for the bank's documents."""
        ...

    def document(self, spki: bytes) -> bytes:
        """Return the order that the new key must sign to be activated, of type ``ushield.renewal/1``.

        Args:
            spki: The new key, SubjectPublicKeyInfo, DER.
        """
        ...

    def activate(self, spki: bytes, signed: bytes) -> None:
        """Submit the signed document; return when the bank has activated the new certificate.

        Args:
            spki: The new key, SubjectPublicKeyInfo, DER.
            signed: The document signed by the new key, CMS SignedData, DER.
        """
        ...


OnStep = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Renewed:
    """A completed renewal.

    Attributes:
        key_id: The new pair's CKA_ID, lower-case hex.
        certificate: The new certificate.
        replaced: The old certificate.
        acknowledged: When the bank acknowledged the activation; None if no bank was involved.
        replayed: Whether the renewal had been completed before this call.
    """

    key_id: str
    certificate: CertificateFacts
    replaced: CertificateFacts | None
    acknowledged: str | None
    replayed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the renewal for JSON output."""
        return {
            "key_id": self.key_id,
            "subject": self.certificate.subject_text(),
            "serial": self.certificate.serial_hex,
            "not_after": time_text(self.certificate.not_after),
            "replaced": self.replaced and self.replaced.serial_hex,
            "acknowledged": self.acknowledged,
            "replayed": self.replayed,
        }


def silent(step: Step) -> None:
    """Ignore the step: the default callback."""


class _Renewal:
    """One renewal, with its record locked."""

    def __init__(self, session: Session, held: Held, record: Record, on_step: OnStep) -> None:
        self.record = record
        self._session = session
        self._held = held
        self._on_step = on_step
        self._bench = TokenObjects(session, record)
        self._old = CertificateFacts.read(record.old)

    def request(self) -> None:
        """Generate the new key and have both keys sign the request."""
        record = self.record
        if record.step is Step.BEGUN:
            record.spki = self._cancelled_on_failure(self._bench.make_key) if not record.same_key else self._old.spki
            record.pkcs10 = b""
            self._keep(Step.KEY_MADE)
        if record.step is Step.KEY_MADE:
            if not self._bench.has_key():  # it is gone, but no request for it was sent
                self._keep(Step.BEGUN)
                return self.request()
            if not record.pkcs10:
                record.pkcs10 = request_by(self._session, record)
                self._keep(None)
            self._check_time()
            record.request = requested_by(self._session, self._old, record)
            self._keep(Step.REQUESTED)
        return None

    def certified(self, bank: Bank) -> CertificateFacts:
        """Have the bank issue the certificate."""
        try:
            return CertificateFacts.read(read_certificate(bank.certify(self.record.request)))
        except RenewalRejected:
            self.give_up("rejected")
            raise

    def receive(self, facts: CertificateFacts, authorities: Sequence[bytes]) -> None:
        """Check the certificate and record it."""
        record = self.record
        if record.certificate == facts.der:
            return
        if not record.step.before(Step.WRITTEN):
            raise CertificateError("RENEWAL_CERTIFICATE_WRONG", problem="renewal_another_written")
        checks.check(facts, self._old, record.spki, authorities, datetime.now(UTC))
        record.certificate = facts.der
        self._keep(Step.RECEIVED)

    def finish(self, bank: Bank | None, retire: Retire) -> Renewed:
        """Write, prove and activate the new pair, then retire the old one."""
        record = self.record
        facts = CertificateFacts.read(record.certificate)
        if record.step.before(Step.WRITTEN):
            self._cancelled_on_failure(self._bench.write)
            self._keep(Step.WRITTEN)
        if self._bench.swapped and bank is not None:
            raise TokenError("RENEWAL_RUN_AGAIN", serial=self._session.serial)
        if record.step.before(Step.PROVED) or (bank is not None and record.acknowledged is None):
            self._prove(facts, bank)
        if record.step.before(Step.ACTIVE):
            self._bench.put_into_use()
            self._keep(Step.ACTIVE)
        if record.step.before(Step.DONE):
            self._bench.check_in_use()
            if retire is Retire.REMOVE:
                self._bench.remove_old()
            self._note_done()
        return Renewed(record.key_id.hex(), facts, self._old, record.acknowledged)

    def give_up(self, reason: str) -> None:
        """Cancel the renewal: delete the objects that it wrote to the token."""
        self._bench.clear()
        self.record.reason = reason
        self._keep(Step.GIVEN_UP)

    def _prove(self, facts: CertificateFacts, bank: Bank | None) -> None:
        if bank is None:
            if not self.record.same_key:  # a kept key has proved itself by signing the request
                with self._reading_anew():
                    proved_here(self._session, self.record)
        else:
            document = bank.document(facts.spki)
            with self._reading_anew():
                signed = activation(self._session, facts, self.record, document, rules=bank.rules)
            bank.activate(facts.spki, signed)
            self.record.acknowledged = time_text(datetime.now(UTC))
        self._keep(Step.PROVED if self.record.step.before(Step.PROVED) else None)

    @contextmanager
    def _reading_anew(self) -> Iterator[None]:
        """Raise ``RENEWAL_RUN_AGAIN`` if the token must be opened again before the new key can sign.

        OpenSC takes the key size from the certificate, and only when it reads the token for the first time.
        """
        try:
            yield
        except TokenError as error:
            if not error.failed_as(Trait.LENGTH_UNSETTLED):
                raise
            raise TokenError("RENEWAL_RUN_AGAIN", serial=self._session.serial) from error

    def _cancelled_on_failure(self, write: Callable[[], Any]) -> Any:
        try:
            return write()
        except TokenFull as error:
            self.give_up("no-room")
            raise error.restated(TokenFull, "RENEWAL_NO_ROOM", serial=self._session.serial) from error
        except NotWritten:
            self.give_up("not-written")
            raise
        except KeyGenerationUnavailable as error:
            self.give_up("no-keys")
            raise error.restated(KeyGenerationUnavailable, "RENEWAL_NO_KEYS") from error

    def _check_time(self) -> None:
        if self._old.not_after <= datetime.now(UTC):
            self.give_up("expired")
            raise _too_late(self._old)

    def _note_done(self) -> None:
        """Record the last step. All of it is done on the token, so a failure to record it is only logged."""
        try:
            self._keep(Step.DONE)
        except StorageError as error:
            LOG.warning("the renewal is done; its record could not be written: %s", error.code)

    def _keep(self, step: Step | None) -> None:
        self._held.keep(self.record, step)
        if step is not None:
            self._on_step(step)


@contextmanager
def renewing(
    session: Session, choice: KeyChoice, on_step: OnStep, *, begin: bool = True, same_key: bool = False
) -> Iterator[_Renewal]:
    """Lock the renewal in progress for a pair, or begin one.

    Args:
        session: An open session.
        choice: The pair.
        on_step: Callback after every step.
        begin: Whether to begin a renewal if there is none.
        same_key: Whether a new renewal keeps the key.

    Raises:
        CertificateMultiple: ``RENEWAL_SEVERAL``, ``RENEWAL_WHICH``.
        CertificateNotFound: ``RENEWAL_NOT_BEGUN``, ``RENEWAL_NOTHING``.
        CertificateExpired: ``RENEWAL_TOO_LATE``.
    """
    found = open_records(session, choice)
    if len(found) > 1:
        raise CertificateMultiple("RENEWAL_SEVERAL", candidates=[record.old_key_id.hex() for record in found])
    if not found and not begin:
        raise CertificateNotFound("RENEWAL_NOT_BEGUN", serial=session.serial)
    old = found[0].old if found else _to_renew(session, choice).facts.der
    with Records(session.settings).holding(session.identity, old) as held:
        record = held.record
        if record is None or not record.step.open:
            if not begin or found:  # another process has ended it meanwhile
                raise CertificateNotFound("RENEWAL_NOT_BEGUN", serial=session.serial)
            record = _begun(session, choice, same_key=same_key)
            held.keep(record)
        try:
            with session.noticing_removal():
                yield _Renewal(session, held, record, on_step)
        except UShieldError as error:
            error.details.setdefault("step", record.step.value)  # the last completed step
            raise


def open_records(session: Session, choice: KeyChoice) -> list[Record]:
    """Return the renewals in progress on an open token."""
    return under_way(session.settings, session.identity, choice)


def under_way(settings: Settings, token: Identity, choice: KeyChoice) -> list[Record]:
    """Return the renewals in progress on a token that match a key choice.

    Raises:
        StorageError: The records cannot be read.
    """
    found = [one for one in Records(settings).of_token(token) if one.step.open]
    return [one for one in found if _is_of(one, choice)]


def _is_of(record: Record, choice: KeyChoice) -> bool:
    certificates = (CertificateFacts.read(der) for der in (record.old, record.certificate) if der)
    return (choice.key_id is None or choice.key_id in {record.old_key_id, record.key_id}) and (
        choice.certificate is None or any(map(choice.names, certificates))
    )


def just_done(session: Session, choice: KeyChoice) -> Renewed | None:
    """Return the last renewal if it was completed less than an hour ago: the call is then a repetition."""
    records = Records(session.settings).of_token(session.identity)
    if not records or records[0].step is not Step.DONE:
        return None
    last = records[0]
    if not timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(last.at) < _AGAIN:
        return None
    newest = _to_renew(session, ANY if choice.key_id == last.old_key_id else choice)
    if newest.facts.der != last.certificate:
        return None
    return Renewed(last.key_id.hex(), newest.facts, CertificateFacts.read(last.old), last.acknowledged, replayed=True)


def _begun(session: Session, choice: KeyChoice, *, same_key: bool) -> Record:
    pair = _to_renew(session, choice)
    assert pair.key is not None and pair.facts.key is not None  # noqa: S101 - _to_renew returns only such pairs
    if not same_key and not session.driver.capabilities.generate:
        raise KeyGenerationUnavailable("RENEWAL_NO_KEYS", driver=session.driver.id)
    return Record(
        token=session.identity,
        old=pair.facts.der,
        old_key_id=pair.key.key_id,
        key_id=pair.key.key_id if same_key else new_key_id(),
        kind=pair.facts.key,
        bits=pair.facts.key_bits,
        each=pair.key.always_authenticate,
        label=pair.certificate.label or pair.key.label,
    )


def _to_renew(session: Session, choice: KeyChoice) -> Pair:
    """Return the pair to renew: the newest of those with one subject, issuer and use."""
    found = [pair for pair in session_pairs(session) if pair.activated and pair.key is not None and pair.facts.key]
    asked = [pair for pair in found if choice.takes(pair)]
    if not asked:
        raise CertificateNotFound("RENEWAL_NOTHING", candidates=[pair.brief() for pair in found])
    if len({(pair.names, pair.facts.key_usage) for pair in asked}) > 1:
        raise CertificateMultiple("RENEWAL_WHICH", candidates=[pair.brief() for pair in asked])
    newest = max(asked, key=lambda pair: (pair.facts.not_before, pair.facts.not_after))
    if newest.facts.not_after <= datetime.now(UTC):
        raise _too_late(newest.facts)
    return newest


def _too_late(facts: CertificateFacts) -> CertificateExpired:
    return CertificateExpired("RENEWAL_TOO_LATE", not_after=time_text(facts.not_after), subject=facts.subject_text())


def in_use(session: Session, facts: CertificateFacts) -> Pair | None:
    """Return the pair of a certificate if it is activated on the token."""
    pairs = (pair for pair in session_pairs(session) if pair.facts.der == facts.der)
    return next((pair for pair in pairs if pair.activated and pair.key is not None), None)
