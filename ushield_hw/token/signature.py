"""Make one signature with a token: suite selection, input of C_Sign, PIN for the key, and the wait for the user."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from ushield_hw.backend.interface import DEFAULT_OPTIONS, SignOptions, Watch
from ushield_hw.backend.model import KeyRecord, SignCall
from ushield_hw.crypto.algorithms import DIGEST_INFO_PREFIX, Feed, KeyKind, Suite, Way, suites_for
from ushield_hw.crypto.verification import matches
from ushield_hw.drivers.family import ConfirmKind, Driver, HashOn, Kind
from ushield_hw.errors import (
    ModuleMisbehaves,
    OutcomeUnknown,
    Step,
    TokenError,
    UShieldError,
)
from ushield_hw.interaction import PinKind, TokenAction
from ushield_hw.system.hardening import forgetting
from ushield_hw.token.session import Session

_QUIET_S: Final = 0.5
# Added to the descriptor's confirmation timeout: the module's own timeout comes first, this one ends a hanging call.
_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a key signs: the suite, and the mechanism that implements it on this token."""

    suite: Suite
    way: Way

    def feed(self, message: bytes) -> bytes:
        """Return the input of C_Sign for a message; hashed here unless the token hashes.

        Args:
            message: The whole message.
        """
        if self.way.feed is Feed.MESSAGE:
            return message
        digest = self.suite.hash(message)
        return digest if self.way.feed is Feed.DIGEST else DIGEST_INFO_PREFIX[self.suite.digest] + digest


def plan(session: Session, kind: KeyKind | None) -> Plan:
    """Return how a kind of key signs on an open token.

    Args:
        session: An open session.
        kind: The kind of key; None: not allowed in signed orders.

    Raises:
        TokenError: As for :func:`plan_for`.
    """
    return plan_for(session.driver, session.mechanisms(), kind)


def plan_for(driver: Driver, offered: Sequence[str], kind: KeyKind | None) -> Plan:
    """Return how a kind of key signs, given the token's mechanisms and its driver's preferences.

    Args:
        driver: The token's driver.
        offered: The token's mechanisms, without CKM_.
        kind: The kind of key; None: not allowed in signed orders.

    Raises:
        TokenError: ``MECHANISM_MISSING``: the token offers no mechanism for a valid signed order.
    """
    sign = driver.sign
    on_token = sign.hash_on is HashOn.TOKEN
    suites = suites_for(kind) if kind else ()
    for suite in sorted(suites, key=lambda suite: suite.padding.value not in {"ecdsa", sign.padding.value}):
        way = suite.way(offered, hash_on_token=on_token)
        if way is not None and (way.feed is Feed.MESSAGE or not on_token):
            return Plan(suite, way)
    raise TokenError("MECHANISM_MISSING", key=kind.value if kind else "?", offered=list(offered)[:50])


@forgetting
def signature(
    session: Session,
    key: KeyRecord,
    how: Plan,
    message: bytes,
    *,
    spki: bytes,
    purpose: str,
    ready: Callable[[], None] = lambda: None,
) -> bytes:
    """Return the token's signature over a message: one C_Sign, with one login for it if the key requires that.

    Every signature is verified before it is returned; for a software token, only the first of each key and session.

    Args:
        session: An open session. Its interaction is called if the token has not answered after half a second.
        key: One of its private keys.
        how: Suite and mechanism.
        message: The whole message.
        spki: The public key that the signature must match (SubjectPublicKeyInfo, DER).
        purpose: Shown in the PIN prompt.
        ready: Callback after all prompts, just before C_Sign. An exception cancels the signature.

    Raises:
        ModuleMisbehaves: The token returned a signature that does not match the key.
        PinError, TokenError, ConfirmationError, OutcomeUnknown: As for :meth:`Module.sign`.
    """
    made = _made(session, key, how, message, purpose, ready)
    if session.driver.kind is not Kind.SOFTWARE or not session.was_checked(key.handle, spki):
        if not matches(spki, how.suite, message, made):
            raise ModuleMisbehaves(serial=session.serial, key_id=key.key_id.hex())
        session.note_checked(key.handle, spki)
    return made


def _made(
    session: Session, key: KeyRecord, how: Plan, message: bytes, purpose: str, ready: Callable[[], None]
) -> bytes:
    driver = session.driver
    call = SignCall(key.handle, how.way.mechanism, how.feed(message), how.suite.digest, key.always_authenticate)
    if driver.kind is Kind.SOFTWARE and driver.confirm.kind is ConfirmKind.NONE:  # no user action to wait for
        return _signed(session, call, purpose, DEFAULT_OPTIONS, ready)
    with _waiting(session) as options:
        with session.noticing_removal():
            return _signed(session, call, purpose, options, ready)


def _signed(session: Session, call: SignCall, purpose: str, options: SignOptions, ready: Callable[[], None]) -> bytes:
    if not call.context:
        ready()
        return session.sign(call, options)

    def send(pin: str | None) -> bytes | UShieldError:
        ready()
        try:
            return session.sign(replace(call, pin=pin), options)
        except UShieldError as error:
            if isinstance(error, OutcomeUnknown) or error.failed_at(Step.SIGN):
                return error  # the PIN was correct: this error must not count as a failed attempt
            raise

    done = session.link.pin.use(session.interaction, PinKind.CONTEXT, purpose, send, session.info())
    if isinstance(done, UShieldError):
        raise done
    return done


@contextmanager
def _waiting(session: Session) -> Iterator[SignOptions]:
    """Call ``waiting_for_token`` once, half a second after C_Sign has begun."""
    confirm, cancelled = session.driver.confirm, threading.Event()
    asks = confirm.kind is not ConfirmKind.NONE
    # PKCS#11 has no call to withdraw a confirmation prompt on the token, so cancelling does not reach the token.
    action = TokenAction(confirm.kind.value, float(confirm.timeout_s) if asks else None, False, cancelled.set)
    timer = threading.Timer(_QUIET_S, session.interaction.waiting_for_token, (action,))
    timer.daemon = True
    try:
        limit_s = confirm.timeout_s + _PATIENCE_S if asks else None
        yield SignOptions(confirm.codes, limit_s, asks, Watch(timer.start, cancelled))
    finally:
        timer.cancel()
