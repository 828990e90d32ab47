"""Decide whether a token can sign, and with which pair. Signing and the doctor use the same decision.

The input is what was read from the token; nothing is read here. After a login the decision is final. Before a login it
states what can be known: what the state of the PIN forbids, what can sign without a login, and what a login may reveal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from ushield_hw.backend.model import CertificateRecord, KeyRecord, ObjectProblem, TokenFlag, TokenInfo
from ushield_hw.cms import CertificateFacts
from ushield_hw.config import Settings
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.public_key import comparable
from ushield_hw.drivers.family import Driver
from ushield_hw.errors import CertificateNotFound, InputError, TokenError, UShieldError
from ushield_hw.interaction import PinState
from ushield_hw.order import KeyUse
from ushield_hw.token.key_matching import KeyRing, trimmed
from ushield_hw.token.key_pairs import ANY, KeyChoice, Pair, Why, pairs
from ushield_hw.token.pin_guard import refusal
from ushield_hw.token.selection import LeftOut, Selection, select, unread_text
from ushield_hw.token.signature import Plan, plan_for


class Verdict(Enum):
    """Whether a token can sign."""

    CAN = "can"
    CANNOT = "cannot"
    UNDECIDED = "undecided"  # known only after a login


class Hidden(Enum):
    """What may be visible only after a login."""

    KEY = "key"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read from a token.

    Attributes:
        info: The token information and flags.
        driver: The driver of the token's family.
        settings: The settings in force.
        certificates: The visible certificate objects.
        keys: The visible key objects.
        mechanisms: The token's mechanisms, without CKM_.
        logged_in: Whether the user is logged in, so that all objects are visible.
        pin: The state of the PIN, or the error of reading it. Not used after a login.
        unread: The objects that could not be read.
        all_shown: Whether all objects are known to be visible although the user is not logged in.
    """

    info: TokenInfo
    driver: Driver
    settings: Settings
    certificates: Sequence[CertificateRecord]
    keys: Sequence[KeyRecord]
    mechanisms: Sequence[str]
    logged_in: bool
    pin: PinState | UShieldError | None = None
    unread: Sequence[ObjectProblem] = ()
    all_shown: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a token can sign, and with what.

    Attributes:
        verdict: ``CAN``: ``sign`` uses ``pair``. ``CANNOT``: ``sign`` raises ``error``. ``UNDECIDED``: ``sign`` logs
            in, then does one or the other.
        pair: The pair that signs. ``UNDECIDED``: the pair that probably signs; None if no visible pair would.
        how: Suite and mechanism for ``pair``.
        error: What ``sign`` raises. ``UNDECIDED``: what it raises if the login reveals nothing.
        left_out: The reason why each other pair does not sign.
        hidden: What may be visible only after the login; empty if it makes no difference.
    """

    verdict: Verdict
    pair: Pair | None
    how: Plan | None
    error: UShieldError | None
    left_out: tuple[LeftOut, ...]
    hidden: frozenset[Hidden] = frozenset()

    def required(self) -> tuple[Pair, Plan]:
        """Return the pair and plan that sign.

        Raises:
            UShieldError: ``error``: the token cannot sign.
        """
        if self.verdict is Verdict.CAN and self.pair is not None and self.how is not None:
            return self.pair, self.how
        assert self.error is not None  # noqa: S101 - set unless the token can sign
        raise self.error


def decide(seen: Seen, use: KeyUse = KeyUse.PAYMENT, choice: KeyChoice = ANY, now: datetime | None = None) -> Decision:
    """Decide whether a token can sign.

    Args:
        seen: What was read from the token.
        use: The use of the key.
        choice: The requested key.
        now: A timezone-aware time; default: the current time.
    """
    view = _View(seen, use, choice, now)
    plain = view.selected(seen.keys, logged_in=seen.logged_in)
    if seen.logged_in or (plain.pair is not None and not seen.info.has(TokenFlag.LOGIN_REQUIRED)):
        return view.final(plain)
    if (error := _pin_refuses(seen)) is not None:
        return Decision(Verdict.CANNOT, None, None, error, plain.left_out)
    if plain.pair is None and seen.all_shown:
        return view.final(view.selected(seen.keys, logged_in=True))
    return view.final(plain) if plain.pair is not None else view.before_login()


def _pin_refuses(seen: Seen) -> UShieldError | None:
    """Return the error that prevents a login, or None."""
    if seen.pin is None or isinstance(seen.pin, UShieldError):
        return seen.pin
    return refusal(seen.info, seen.pin, seen.driver, seen.settings, "sign")


@dataclass(frozen=True, slots=True)
class _View:
    """The input of one decision."""

    seen: Seen
    use: KeyUse
    choice: KeyChoice
    now: datetime | None

    def selected(self, keys: Iterable[KeyRecord], *, logged_in: bool) -> Selection:
        found = pairs(self.seen.certificates, keys, logged_in=logged_in, now=self.now)
        return select(found, self.use, self.choice, self.now, self._refuses)

    def final(self, selection: Selection) -> Decision:
        pair = selection.pair
        if pair is None or pair.facts.key is None:
            return Decision(Verdict.CANNOT, None, None, self._naming_unread(selection.error), selection.left_out)
        how = plan_for(self.seen.driver, self.seen.mechanisms, pair.facts.key)
        return Decision(Verdict.CAN, pair, how, None, selection.left_out)

    def before_login(self) -> Decision:
        """Decide what a login may reveal: keys with a visible public half, then keys known only from certificates."""
        bare = self.selected(self.seen.keys, logged_in=True)
        behind = [*self.seen.keys, *_behind_public(self.seen.keys)]
        hoped = self.selected(behind, logged_in=True)
        if hoped.pair is None:
            hoped = self.selected([*behind, *_behind_certificates(self.seen.certificates, behind)], logged_in=True)
        unclear = any(one.why is Why.AMBIGUOUS for one in hoped.left_out)
        hidden = {Hidden.KEY} if hoped.pair is not None or unclear else set()
        if certificates_may_hide(self.seen.driver, self.seen.certificates, self.seen.keys):
            hidden.add(Hidden.CERTIFICATE)
        if hoped.pair is not None and hoped.pair.facts.key is not None:
            how = plan_for(self.seen.driver, self.seen.mechanisms, hoped.pair.facts.key)
            error = self._naming_unread(bare.error)
            return Decision(Verdict.UNDECIDED, hoped.pair, how, error, hoped.left_out, frozenset(hidden))
        verdict, error = Verdict.UNDECIDED if hidden else Verdict.CANNOT, self._naming_unread(hoped.error)
        return Decision(verdict, None, None, error, hoped.left_out, frozenset(hidden))

    def _naming_unread(self, error: UShieldError | None) -> UShieldError | None:
        """Add the objects that could not be read to an error: the missing object may be among them."""
        if not self.seen.unread or not isinstance(error, CertificateNotFound):
            return error
        problem = {"problem": "some_unread"} if error.code == CertificateNotFound.code else {}
        unread = [unread_text(one) for one in self.seen.unread]
        return CertificateNotFound(error.code, **error.details, unread=unread, **problem)

    def _refuses(self, kind: KeyKind) -> UShieldError | None:
        try:
            plan_for(self.seen.driver, self.seen.mechanisms, kind)
        except TokenError as error:
            return error
        return None


def _behind_public(keys: Sequence[KeyRecord]) -> list[KeyRecord]:
    """Return, for each public object without a visible private key, the private key that a login would reveal.

    An RSA private key then shows its modulus; an EC private key usually shows no public half.
    """
    shown = {(key.key_id, key.kind) for key in keys if key.private}
    waiting = [key for key in keys if not key.private and (key.key_id, key.kind) not in shown]
    return [
        _private(-number, key.key_id, key.label, key.kind, key.public if key.kind is KeyKind.RSA else None)
        for number, key in enumerate(waiting, start=1)
    ]


def _behind_certificates(certificates: Sequence[CertificateRecord], keys: Sequence[KeyRecord]) -> list[KeyRecord]:
    """Return a private key for each certificate whose CKA_ID no key has and whose public key is not visible."""
    ring, halves, found = KeyRing(keys), {key.public for key in keys if not key.private}, []
    for number, (record, facts) in enumerate(_facts(certificates), start=len(keys) + 1):
        half = comparable(facts.spki, facts.key)
        alike = any(key.kind is facts.key for key in ring.bearers(record.key_id))
        if not facts.is_ca and not alike and half not in halves:
            found.append(_private(-number, record.key_id, record.label, facts.key, half))
    return found


def _private(handle: int, key_id: bytes, label: str, kind: KeyKind | None, public: bytes | None) -> KeyRecord:
    return KeyRecord(handle, True, key_id, label, kind, public, None, False)


def asks_for_login(info: TokenInfo) -> bool:
    """Tell whether a login may reveal objects. Many tokens with a PIN do not set CKF_LOGIN_REQUIRED.

    Args:
        info: The token information.
    """
    return info.has(TokenFlag.LOGIN_REQUIRED) or info.has(TokenFlag.USER_PIN_INITIALIZED)


def certificates_may_hide(driver: Driver, certificates: Sequence[CertificateRecord], keys: Sequence[KeyRecord]) -> bool:
    """Tell whether a login may reveal a certificate: one for a visible key, or the first end-entity certificate.

    Args:
        driver: The driver of the token's family. Some families show every certificate without a login.
        certificates: The certificates visible without a login.
        keys: The keys visible without a login.
    """
    if driver.capabilities.public_certificates:
        return False
    read = _facts(certificates)
    halves = {comparable(facts.spki, facts.key) for _, facts in read}
    ids = {trimmed(record.key_id) for record, _ in read if record.key_id}
    alone = any(
        key.public not in halves if key.public is not None else trimmed(key.key_id) not in ids
        for key in keys
        if key.kind is not None
    )
    return alone or all(facts.is_ca for _, facts in read)


def _facts(certificates: Iterable[CertificateRecord]) -> list[tuple[CertificateRecord, CertificateFacts]]:
    found = []
    for record in certificates:
        with suppress(InputError):
            found.append((record, CertificateFacts.read(record.der)))
    return found
