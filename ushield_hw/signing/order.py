"""Sign an order: what is shown is what is confirmed is what is signed.

    order -> message format -> content bytes -> lines on a screen -> yes -> journal -> C_Sign -> signed order

The lines are read back from the content bytes, and those same bytes, or their digest in the signed attributes, reach
C_Sign.
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
from ushield_hw.drivers.catalogue import ConfirmKind, ConfirmText, Driver
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
    """Whether somebody is at the host."""

    PERSON = "person"  # asked to confirm on the host where the token has no display
    NOBODY = "nobody"  # nobody looked, and the signature says so


class Journaling(Enum):
    """Where to keep what was signed."""

    STATE_FOLDER = "state-folder"
    CALLER = "caller"  # the caller keeps its own record of what was signed; nothing is written here


@dataclass(frozen=True, slots=True)
class SignedOrder:
    """A signed order.

    Attributes:
        der: CMS SignedData, DER: the content of a ``.p7m`` file.
        profile: what the signature covers.
        confirmation: how the person confirmed; None for ``PLAIN``.
        certificate: the signer's, DER.
        tx_id: of the order.
        replayed: it existed already and was not made now.
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
    """Everything about a token's key that does not change from order to order."""

    pair: Pair
    how: Plan
    template: Template
    profile: Profile
    confirmation: Confirmation | None
    signatory: Signatory


# What was prepared for a session's orders, with the revision of its objects that it holds for.
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
    """Have an order confirmed and signed by the token.

    Args:
        order: a valid order.
        session: an open token; its interaction is asked to confirm.
        profile: what the signature must cover. The token decides: ``PLAIN`` for one that shows what it signs, else
            ``CADES``; asking for the other is refused. A stored signed order is returned whatever is asked.
        attendance: ``NOBODY`` skips the confirmation on the host, and the signature says ``none``.
        key: which key; default the newest activated one that fits the order's type.
        journal: where signatures are kept so that none is made twice.

    Returns:
        The signed order; the one made before, if the journal has it.

    Raises:
        InputError: ``ORDER_EXPIRED``, ``ORDER_NOT_YET_VALID``, ``ORDER_TEXT_TOO_LONG`` for the token's display,
            ``PROFILE_NOT_POSSIBLE``, ``PROFILE_PLAIN_NOT_POSSIBLE``, ``TX_ID_REUSED``.
        CertificateError: no key fits, or several do.
        AlreadySigned: the same person has signed it with another token.
        ConfirmationError: the six outcomes other than yes, each its own class.
        PinError, TokenError: as the token says; nothing was signed.
        StorageError: the journal; nothing was signed. ``SignedNotKept``: it was; ``.signed_order`` holds it.
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
    """Return who signs with a pair of a token, as the journal records it."""
    name = TokenName(info.manufacturer, info.model, info.serial, info.label)
    return Signatory(pair.facts, name, lambda: [one.der for one in found.certificates()])


def stored(der: bytes, order: Order) -> SignedOrder:
    """Return a signed order that the journal kept, as it was made."""
    from ushield_hw import cms

    parts = cms.parse(der)
    return SignedOrder(der, parts.profile, parts.confirmation, parts.certificate, order.tx_id, replayed=True)


def profile_of(driver: Driver) -> Profile:
    """Return what a token's signatures cover.

    A token that shows the message signs the message: a digest over signed attributes would be blind signing there.
    Everywhere else the signature must state how the order was confirmed, and only attributes can.
    """
    return Profile.PLAIN if driver.confirm.text is ConfirmText.MESSAGE else Profile.CADES


def check_profile(driver: Driver, asked: Profile | None) -> None:
    """Refuse a profile that a token's signatures do not have.

    Raises:
        InputError: ``PROFILE_NOT_POSSIBLE``, ``PROFILE_PLAIN_NOT_POSSIBLE``.
    """
    if asked is None or asked is profile_of(driver):
        return
    code = "PROFILE_PLAIN_NOT_POSSIBLE" if asked is Profile.PLAIN else "PROFILE_NOT_POSSIBLE"
    raise InputError(code, argument="--profile", profile=asked.value, driver=driver.id)


def _prepare(order: Order, session: Session, how: _How, now: datetime) -> _Prepared:
    """Return what signs orders of this type in this way, from what was kept of it if its certificate still holds."""
    session.refresh()  # another process may have renewed
    for revision, order_type, known, prepared in _prepared.get(session, ()):
        current = revision == session.revision and prepared.pair.valid_at(now)  # it was valid when it was chosen
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
    """Return what signs on an open token; one that needed no login so far is logged in to where that may show a key.

    Raises:
        CertificateError, TokenError: no key fits, or several do: what :func:`decide` says of the token.
        PinError, StorageError: as :meth:`Session.log_in`.
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
    """Return what signs, from the objects with the CKA_ID that is asked for alone; None: all must be looked at.

    That all are is not needed only where one certificate bears the id and its key is proved: what is the only one, or
    the newest, cannot be told from a part. Serial numbers are no such way: the digits of ``--certificate`` may name a
    second certificate by its SHA-256.
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
    """Return how a token itself has its owner confirm; None: it asks nobody, or its descriptor does not count."""
    return _OWN_CONFIRMATION.get(driver.confirm.kind) if driver.consented else None


def _confirmation(driver: Driver, attendance: Attendance) -> Confirmation:
    """State what the token's own confirmation is; a token that asks nobody is as good as who sits at the host."""
    return own_confirmation(driver) or (Confirmation.HOST if attendance is Attendance.PERSON else Confirmation.NONE)


def _confirmed(order: Order, session: Session, prepared: _Prepared, how: _How, attempt: Attempt | None) -> SignedOrder:
    driver, attendance = session.driver, how[0]
    order.check_live(datetime.now(UTC))
    if driver.display.max_text is not None:
        check_fits(order, driver.display)
    asks = driver.confirm.text is ConfirmText.MESSAGE or attendance is Attendance.PERSON
    if attempt is not None and asks:
        attempt.move(State.PREPARED)
    lang = messages.language()  # once: what is shown must be in the language of what is signed
    content = message_format(driver.display.format).encode(order, lang)
    if asks:
        _confirm(order, content, session, lang)
    draft = prepared.template.draft(content, datetime.now(UTC))
    if asks or attempt is not None:
        order.check_live(datetime.now(UTC))  # the person may have taken their time, and the disk
    try:
        return _sign(order, draft, session, prepared, attempt)
    except KeyGone:  # before C_Sign: another process has renewed and removed the old pair
        renewed = _renewed(order, session, prepared, how)
        if renewed is None:
            raise
    return _sign(order, renewed.template.draft(content, datetime.now(UTC)), session, renewed, attempt)


def _renewed(order: Order, session: Session, gone: _Prepared, how: _How) -> _Prepared | None:
    """Return what signs in place of a key that is gone; None: nothing of the same person does."""
    session.invalidate()
    found = _prepare(order, session, how, datetime.now(UTC))
    return found if same(found.pair.facts.subject, gone.pair.facts.subject) else None


def _confirm(order: Order, content: bytes, session: Session, lang: messages.Language) -> None:
    """Have the person agree on the host, or tell them what must stand on the token's screen."""
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
            ready=lambda: order.check_live(datetime.now(UTC)),  # the disk and a PIN prompt take their time too
        )
        der = draft.assemble(made)
    except UShieldError as error:
        _note_failure(error, order, attempt)
        raise
    except BaseException:  # Ctrl-C, or a mistake of ours
        if attempt is not None and SIGNATURES.made() == asked_before:  # at a prompt: nothing was signed
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
    """Record that the token is about to be asked. If that fails it is not asked, and the record should not say so."""
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
    """Close the record: unknown if the token may have signed, else rejected: it may be asked again by the person."""
    LOG.info("%s: not signed, %s", order.tx_id, error.code)
    unknown = isinstance(error, OutcomeUnknown)
    if isinstance(error, ConfirmationError):
        error.tx_id = order.tx_id
    if attempt is not None:
        with suppress(UShieldError):  # the first error is the one to see; the record stays at sign-called: unknown
            attempt.move(State.UNKNOWN if unknown else State.REJECTED)
