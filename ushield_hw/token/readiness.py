"""Whether a token can sign, and with which pair: the one answer that both a signature and the doctor go by.

What is seen of a token goes in; nothing is asked of it here. After a login the answer is final. Before one it says what
can be known: what the PIN's state forbids, what can sign without a login, and what hides until then.
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
from ushield_hw.drivers.catalogue import Driver
from ushield_hw.errors import CertificateNotFound, InputError, TokenError, UShieldError
from ushield_hw.interaction import PinState
from ushield_hw.order import KeyUse
from ushield_hw.token.key_matching import KeyRing, public_half, trimmed
from ushield_hw.token.key_pairs import ANY, KeyChoice, Pair, Why, pairs
from ushield_hw.token.pin_guard import refusal
from ushield_hw.token.selection import LeftOut, Selection, select, unread_text
from ushield_hw.token.signature import Plan, plan_for


class Verdict(Enum):
    """Whether a token can sign."""

    CAN = "can"
    CANNOT = "cannot"
    UNDECIDED = "undecided"  # only a login shows it


class Hidden(Enum):
    """What may show only after a login."""

    KEY = "key"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of a token.

    Attributes:
        info: its information and flags.
        driver: the family it belongs to.
        settings: those in force.
        certificates: the certificate objects that show.
        keys: the key objects that show.
        mechanisms: those it offers, without CKM_.
        logged_in: the user is logged in: nothing hides any more.
        pin: the state of the PIN, or why it cannot be read; not looked at after a login.
        unread: the objects that could not be read.
        all_shown: nothing hides, though nobody is logged in: that is known from elsewhere.
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
        verdict: ``CAN``: a signature with ``pair`` will be asked for. ``CANNOT``: ``sign`` raises ``error``.
            ``UNDECIDED``: ``sign`` logs in, and then one or the other.
        pair: what signs; ``UNDECIDED``: what signs if it is as it looks, None if nothing that shows would.
        how: suite and mechanism for ``pair``.
        error: what ``sign`` raises; ``UNDECIDED``: what it raises if the login shows nothing more.
        left_out: why every other pair does not sign.
        hidden: what may show only after the login; empty when it makes no difference.
    """

    verdict: Verdict
    pair: Pair | None
    how: Plan | None
    error: UShieldError | None
    left_out: tuple[LeftOut, ...]
    hidden: frozenset[Hidden] = frozenset()

    def required(self) -> tuple[Pair, Plan]:
        """Return what signs.

        Raises:
            UShieldError: ``error``: the token cannot sign.
        """
        if self.verdict is Verdict.CAN and self.pair is not None and self.how is not None:
            return self.pair, self.how
        assert self.error is not None  # noqa: S101 - there is one unless the token can sign
        raise self.error


def decide(seen: Seen, use: KeyUse = KeyUse.PAYMENT, choice: KeyChoice = ANY, now: datetime | None = None) -> Decision:
    """Decide whether a token can sign.

    Args:
        seen: what is seen of it.
        use: what for.
        choice: which key is asked for.
        now: the moment, aware; default: the clock's.
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
    """Return why no login is tried."""
    if seen.pin is None or isinstance(seen.pin, UShieldError):
        return seen.pin
    return refusal(seen.info, seen.pin, seen.driver, seen.settings, "sign")


@dataclass(frozen=True, slots=True)
class _View:
    """A question about what is seen."""

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
        """Decide what a login may show: first the keys whose public halves show, then those of certificates alone."""
        bare = self.selected(self.seen.keys, logged_in=True)
        behind = [*self.seen.keys, *_behind_public(self.seen.keys)]
        hoped = self.selected(behind, logged_in=True)
        if hoped.pair is None:
            hoped = self.selected([*behind, *_behind_certificates(self.seen.certificates, behind)], logged_in=True)
        unclear = any(one.why is Why.NOT_TOLD_APART for one in hoped.left_out)
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
        """Return an error that says which objects could not be read: what is missing may be among them."""
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
    """Return a private key for every public object that shows without one, as a login would show it.

    An RSA key shows its modulus then, an EC key in general nothing.
    """
    shown = {(key.key_id, key.kind) for key in keys if key.private}
    waiting = [key for key in keys if not key.private and (key.key_id, key.kind) not in shown]
    return [
        _private(-number, key.key_id, key.label, key.kind, key.public if key.kind is KeyKind.RSA else None)
        for number, key in enumerate(waiting, start=1)
    ]


def _behind_certificates(certificates: Sequence[CertificateRecord], keys: Sequence[KeyRecord]) -> list[KeyRecord]:
    """Return a private key for every certificate whose id no key bears and whose public key does not show."""
    ring, halves, found = KeyRing(keys), {key.public for key in keys if not key.private}, []
    for number, (record, facts) in enumerate(_facts(certificates), start=len(keys) + 1):
        half = public_half(facts.key, facts.spki)
        alike = any(key.kind is facts.key for key in ring.bearers(record.key_id))
        if not facts.is_ca and not alike and half not in halves:
            found.append(_private(-number, record.key_id, record.label, facts.key, half))
    return found


def _private(handle: int, key_id: bytes, label: str, kind: KeyKind | None, public: bytes | None) -> KeyRecord:
    return KeyRecord(handle, True, key_id, label, kind, public, None, False)


def asks_for_login(info: TokenInfo) -> bool:
    """Tell whether a token has a login that something may hide behind; many with a PIN do not say that they want it."""
    return info.has(TokenFlag.LOGIN_REQUIRED) or info.has(TokenFlag.USER_PIN_INITIALIZED)


def certificates_may_hide(driver: Driver, certificates: Sequence[CertificateRecord], keys: Sequence[KeyRecord]) -> bool:
    """Tell whether a certificate is missing that a login may show: for a key that shows, or any person's at all.

    Args:
        driver: the token's family: some show every certificate without a login.
        certificates: those that show without a login.
        keys: likewise.
    """
    if driver.capabilities.public_certificates:
        return False
    read = _facts(certificates)
    halves = {public_half(facts.key, facts.spki) for _, facts in read}
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
