"""Sign an order: the bytes that are displayed and confirmed are the bytes that are signed.

    order -> message format -> content bytes -> screen lines -> confirmation -> journal -> C_Sign -> signed order

The screen lines are decoded from the content bytes. The same bytes, or their digest in the signed attributes, are
passed to C_Sign.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Final
from weakref import WeakKeyDictionary

from ushield_hw import messages
from ushield_hw.backend.model import TokenInfo
from ushield_hw.backend.signatures import SIGNATURES
from ushield_hw.cms import Confirmation, Draft, Profile, Template
from ushield_hw.cms.names import same
from ushield_hw.config import Settings
from ushield_hw.drivers.family import ConfirmKind, ConfirmText, Driver
from ushield_hw.errors import (
    ConfirmationError,
    ConfirmationRejected,
    InputError,
    KeyGone,
    OutcomeUnknown,
    SignedNotKept,
    UShieldError,
)
from ushield_hw.interaction import ConfirmRequest
from ushield_hw.order import KeyUse, Order, Rules, check_fits, message_format, screen_lines
from ushield_hw.signing.journal import Attempt, Journal, Signatory, State, TokenName
from ushield_hw.system.log import LOG
from ushield_hw.token.key_matching import Proof
from ushield_hw.token.key_pairs import ANY, KeyChoice, Pair
from ushield_hw.token.readiness import Seen, Verdict, decide
from ushield_hw.token.session import Session
from ushield_hw.token.signature import Plan, signature
from ushield_hw.token.token import Token

_OWN_CONFIRMATION: Final = {
    ConfirmKind.TOUCH: Confirmation.TOUCH,
    ConfirmKind.BUTTON: Confirmation.BUTTON,
    ConfirmKind.DISPLAY: Confirmation.BUTTON,
    ConfirmKind.PINPAD: Confirmation.PINPAD,
}


class Attendance(Enum):
    """Whether a user confirms on the host."""

    PERSON = "person"  # a user confirms on the host if the token has no display
    NOBODY = "nobody"  # unattended: the signature states that nobody confirmed


class Journaling(Enum):
    """Where signed orders are recorded."""

    STATE_FOLDER = "state-folder"
    CALLER = "caller"  # the caller keeps its own record; the library writes none


@dataclass(frozen=True, slots=True)
class SignedOrder:
    """A signed order. ``bytes()`` returns ``der``.

    Attributes:
        der: CMS SignedData, DER: the content of a ``.p7m`` file.
        profile: What the signature covers.
        confirmation: How the user confirmed; None for ``PLAIN``.
        certificate: The signer's certificate, DER.
        tx_id: The transaction id of the order.
        replayed: Whether the signed order was returned from the journal instead of being made now.
    """

    der: bytes
    profile: Profile
    confirmation: Confirmation | None
    certificate: bytes
    tx_id: str
    replayed: bool = False

    def __bytes__(self) -> bytes:
        return self.der

    def __repr__(self) -> str:
        return f"<SignedOrder {self.tx_id} {self.profile.value}, {len(self.der)} bytes>"


_How = tuple[Attendance, KeyChoice]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Everything about a token's key that is the same for all orders."""

    pair: Pair
    how: Plan
    template: Template
    profile: Profile
    confirmation: Confirmation | None
    signatory: Signatory


# Cache by session; each entry is valid for one revision of the session's objects.
_prepared: WeakKeyDictionary[Session, tuple[tuple[int, str, _How, _Prepared], ...]] = WeakKeyDictionary()


def sign(
    order: Order,
    session: Session,
    *,
    profile: Profile | None = None,
    attendance: Attendance = Attendance.PERSON,
    key: KeyChoice = ANY,
    journal: Journal | Journaling = Journaling.STATE_FOLDER,
) -> SignedOrder:
    """Have the user confirm an order and the token sign it. Idempotent: an order in the journal is not signed again.

    Args:
        order: The order.
        session: An open session. Its interaction prompts for the confirmation.
        profile: What the signature must cover. The token determines this: ``PLAIN`` if it displays what it signs,
            otherwise ``CADES``; requesting the other one is refused. A signed order from the journal is returned
            whatever its profile.
        attendance: ``NOBODY`` skips the confirmation on the host, and the signature states ``none``.
        key: The key to use. Default: the newest activated one that fits the order's type.
        journal: Where signed orders are recorded, so that no order is signed twice.

    Returns:
        The signed order; if the journal has one for this order, that one.

    Raises:
        InputError: ``ORDER_EXPIRED``, ``ORDER_NOT_YET_VALID``, ``ORDER_TEXT_TOO_LONG`` for the token's display,
            ``PROFILE_NOT_POSSIBLE``, ``PROFILE_PLAIN_NOT_POSSIBLE``, ``TX_ID_REUSED``.
        CertificateError: No key fits, or several do.
        AlreadySigned: The same user has signed the order with another token, or the bank has booked it.
        ConfirmationError: The order was not confirmed. Each outcome has its own class.
        OutcomeUnknown: The token may have signed; only the bank can tell.
        PinError, TokenError: The error reported by the token; nothing was signed.
        StorageError: The journal cannot be used; nothing was signed.
        SignedNotKept: The order was signed but the journal could not record it; ``.signed_order`` holds it.
    """
    now, settings = datetime.now(UTC), session.settings
    prepared = _prepare(order, session, (attendance, key), now)
    book = _journal(journal, settings)
    if book is None:
        check_profile(session.driver, profile)
        return _confirmed(order, session, prepared, (attendance, key), None)
    with book.signing(order, prepared.signatory) as attempt:
        if attempt.signed is not None:
            return stored(attempt.signed, order)
        check_profile(session.driver, profile)
        return _confirmed(order, session, prepared, (attendance, key), attempt)


def signatory(found: Session | Token, info: TokenInfo, pair: Pair) -> Signatory:
    """Return the signer for a pair, as the journal records it.

    Args:
        found: The token or session that has the pair.
        info: The token information.
        pair: The pair that signs.
    """
    name = TokenName(info.manufacturer, info.model, info.serial, info.label)
    return Signatory(pair.facts, name, lambda: [one.der for one in found.certificates()])


def stored(der: bytes, order: Order) -> SignedOrder:
    """Return a signed order from the journal.

    Args:
        der: The signed order, DER.
        order: The order that was signed.
    """
    from ushield_hw import cms

    parts = cms.parse(der)
    return SignedOrder(der, parts.profile, parts.confirmation, parts.certificate, order.tx_id, replayed=True)


def profile_of(driver: Driver) -> Profile:
    """Return what a token's signatures cover.

    A token that displays the message signs the message itself: signed over attributes, the user could not see what is
    signed. All other signatures must state how the order was confirmed, which only signed attributes can.

    Args:
        driver: The token's driver.
    """
    return Profile.PLAIN if driver.confirm.text is ConfirmText.MESSAGE else Profile.CADES


def check_profile(driver: Driver, asked: Profile | None) -> None:
    """Refuse a profile that the token's signatures do not have.

    Args:
        driver: The token's driver.
        asked: The requested profile; None: any.

    Raises:
        InputError: ``PROFILE_NOT_POSSIBLE``, ``PROFILE_PLAIN_NOT_POSSIBLE``.
    """
    if asked is None or asked is profile_of(driver):
        return
    code = "PROFILE_PLAIN_NOT_POSSIBLE" if asked is Profile.PLAIN else "PROFILE_NOT_POSSIBLE"
    raise InputError(code, argument="--profile", profile=asked.value, driver=driver.id)


def _prepare(order: Order, session: Session, how: _How, now: datetime) -> _Prepared:
    """Return key, plan and template for orders of this type, cached while the objects and the certificate are valid."""
    session.refresh()  # another process may have renewed the certificate
    for revision, order_type, known, prepared in _prepared.get(session, ()):
        current = revision == session.revision and prepared.pair.valid_at(now)  # may have expired since it was cached
        if current and order_type == order.type and known == how:
            return prepared
    made = _made(order, session, *how)
    entry = session.revision, order.type, how, made
    others = [one for one in _prepared.get(session, ()) if one[0] == entry[0] and one[1:3] != entry[1:3]]
    _prepared[session] = (*others, entry)
    return made


def _made(order: Order, session: Session, attendance: Attendance, key: KeyChoice) -> _Prepared:
    profile = profile_of(session.driver)
    confirmation = _confirmation(session.driver, attendance) if profile is Profile.CADES else None
    pair, how = decided(session, order.purpose_of_key, key)
    template = Template(pair.facts.der, how.suite, profile, confirmation)
    return _Prepared(pair, how, template, profile, confirmation, signatory(session, session.info(), pair))


def decided(session: Session, use: KeyUse, choice: KeyChoice = ANY) -> tuple[Pair, Plan]:
    """Return the pair and plan that sign. A session without a login logs in if no key can sign without it.

    Args:
        session: An open session.
        use: The use of the key.
        choice: The requested key.

    Raises:
        CertificateError, TokenError: No key fits, or several do, as determined by :func:`decide`.
        PinError, StorageError: As for :meth:`Session.log_in`.
    """
    if (by_id := _decided_by_id(session, use, choice)) is not None:
        return by_id
    decision = decide(_seen(session), use, choice)
    if decision.verdict is not Verdict.CAN and not session.shows_all:
        session.log_in("sign")
        decision = decide(_seen(session), use, choice)
    if decision.verdict is not Verdict.CAN and (unread := session.unread()):
        decision = decide(replace(_seen(session), unread=unread), use, choice)
    return decision.required()


def _decided_by_id(session: Session, use: KeyUse, choice: KeyChoice) -> tuple[Pair, Plan] | None:
    """Return the pair and plan from the objects with the requested CKA_ID only, or None if all objects must be read.

    Reading these objects is enough only if exactly one certificate has the id and its key is proved: which pair is the
    only one, or the newest, cannot be determined from some of the objects. This does not work for ``--certificate``:
    its digits may match the serial number of one certificate and the SHA-256 of another.
    """
    if not choice.key_id or choice.certificate is not None:
        return None
    seen = _seen(session, choice.key_id)
    if len({one.der for one in seen.certificates}) != 1:
        return None
    decision = decide(seen, use, choice)
    proved = decision.pair is not None and decision.pair.proof in {Proof.OWN, Proof.PUBLIC}
    return decision.required() if decision.verdict is Verdict.CAN and proved else None


def _seen(session: Session, key_id: bytes | None = None) -> Seen:
    return Seen(
        session.info(),
        session.driver,
        session.settings,
        session.certificates(key_id),
        session.keys(key_id),
        session.mechanisms(),
        session.shows_all,
    )


def own_confirmation(driver: Driver) -> Confirmation | None:
    """Return how the token itself has the user confirm, or None if it does not or its descriptor lacks consent.

    Args:
        driver: The token's driver.
    """
    return _OWN_CONFIRMATION.get(driver.confirm.kind) if driver.consented else None


def _confirmation(driver: Driver, attendance: Attendance) -> Confirmation:
    """Return the confirmation to state in the signature: the token's own, otherwise the one on the host."""
    return own_confirmation(driver) or (Confirmation.HOST if attendance is Attendance.PERSON else Confirmation.NONE)


def _confirmed(order: Order, session: Session, prepared: _Prepared, how: _How, attempt: Attempt | None) -> SignedOrder:
    driver, attendance = session.driver, how[0]
    order.check_live(datetime.now(UTC))
    if driver.display.max_text is not None:
        check_fits(order, driver.display)
    asks = driver.confirm.text is ConfirmText.MESSAGE or attendance is Attendance.PERSON
    if attempt is not None and asks:
        attempt.move(State.PREPARED)
    lang = messages.language()  # read once: screen lines and content must be in the same language
    content = message_format(driver.display.format).encode(order, lang)
    if asks:
        _confirm(order, content, session, lang)
    draft = prepared.template.draft(content, datetime.now(UTC))
    if asks or attempt is not None:
        order.check_live(datetime.now(UTC))  # confirmation and disk writes take time
    try:
        return _sign(order, draft, session, prepared, attempt)
    except KeyGone:  # raised before C_Sign: another process renewed and removed the old pair
        renewed = _renewed(order, session, prepared, how)
        if renewed is None:
            raise
    return _sign(order, renewed.template.draft(content, datetime.now(UTC)), session, renewed, attempt)


def _renewed(order: Order, session: Session, gone: _Prepared, how: _How) -> _Prepared | None:
    """Return what signs instead of a removed key, or None if there is no key with the same subject."""
    session.invalidate()
    found = _prepare(order, session, how, datetime.now(UTC))
    return found if same(found.pair.facts.subject, gone.pair.facts.subject) else None


def _confirm(order: Order, content: bytes, session: Session, lang: messages.Language) -> None:
    """Have the user confirm on the host, or show the user what the token's display must show."""
    rules = Rules(demo=session.settings.demo)
    ask = ConfirmRequest(order.type, screen_lines(content, lang, rules=rules))
    if session.driver.confirm.text is ConfirmText.MESSAGE:
        session.interaction.compare_on_token(ask)
    elif not session.interaction.confirm_order(ask):
        raise ConfirmationRejected("CONFIRMATION_REJECTED_ON_HOST", tx_id=order.tx_id)


def _journal(journal: Journal | Journaling, settings: Settings) -> Journal | None:
    if isinstance(journal, Journal):
        return journal
    return Journal.of(settings) if journal is Journaling.STATE_FOLDER else None


def _sign(order: Order, draft: Draft, session: Session, prepared: _Prepared, attempt: Attempt | None) -> SignedOrder:
    if attempt is not None:
        _call_in(attempt)
    asked_before = SIGNATURES.made()
    try:
        key = prepared.pair.key
        assert key is not None  # noqa: S101 - a chosen pair has its key
        spki = prepared.pair.facts.spki
        made = signature(
            session,
            key,
            prepared.how,
            draft.message,
            spki=spki,
            purpose="sign",
            ready=lambda: order.check_live(datetime.now(UTC)),  # disk writes and a PIN prompt take time
        )
        der = draft.assemble(made)
    except UShieldError as error:
        _note_failure(error, order, attempt)
        raise
    except BaseException:  # Ctrl-C, or a bug
        if attempt is not None and SIGNATURES.made() == asked_before:  # C_Sign was not called
            with suppress(UShieldError):
                attempt.move(State.REJECTED)
        raise
    if LOG.isEnabledFor(logging.INFO):
        LOG.info("%s: signed, %s", order.tx_id, prepared.pair.key_id)
    signed = SignedOrder(der, prepared.profile, prepared.confirmation, prepared.pair.facts.der, order.tx_id)
    if attempt is not None:
        _keep(attempt, signed)
    return signed


def _call_in(attempt: Attempt) -> None:
    """Record that C_Sign is about to be called. If that fails it is not called, and the record must not claim it."""
    try:
        attempt.move(State.SIGN_CALLED)
    except UShieldError:
        with suppress(UShieldError):
            attempt.move(State.REJECTED)
        raise


def _keep(attempt: Attempt, signed: SignedOrder) -> None:
    try:
        attempt.move(State.SIGNED, signed.der)
    except UShieldError as error:
        raise SignedNotKept(signed, **{"path": attempt.path, **error.details}) from error


def _note_failure(error: UShieldError, order: Order, attempt: Attempt | None) -> None:
    """Close the record: ``unknown`` if the token may have signed, otherwise ``rejected``: the user may retry."""
    LOG.info("%s: not signed, %s", order.tx_id, error.code)
    unknown = isinstance(error, OutcomeUnknown)
    if isinstance(error, ConfirmationError):
        error.tx_id = order.tx_id
    if attempt is not None:
        with suppress(UShieldError):  # raise the first error; the record stays at sign-called, which counts as unknown
            attempt.move(State.UNKNOWN if unknown else State.REJECTED)
