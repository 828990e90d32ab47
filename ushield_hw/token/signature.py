"""One signature by a token: which suite, what C_Sign receives, whose PIN, and the wait for whoever must confirm it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from ushield_hw.backend.interface import PATIENCE, Patience, Watch
from ushield_hw.backend.model import KeyRecord, SignCall
from ushield_hw.crypto.algorithms import DIGEST_INFO_PREFIX, Feed, KeyKind, Suite, Way, suites_for
from ushield_hw.drivers.catalogue import ConfirmKind, Driver, HashOn, Kind
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
# The module's own time-out comes first; this one is for a module that hangs.
_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a key signs: which suite, and the mechanism that makes it on this token."""

    suite: Suite
    way: Way

    def feed(self, message: bytes) -> bytes:
        """Return what C_Sign receives for a message; it is hashed here unless the token does."""
        if self.way.feed is Feed.MESSAGE:
            return message
        digest = self.suite.hash(message)
        return digest if self.way.feed is Feed.DIGEST else DIGEST_INFO_PREFIX[self.suite.digest] + digest


def plan(session: Session, kind: KeyKind | None) -> Plan:
    """Return how a kind of key signs on an open token.

    Raises:
        TokenError: as :func:`plan_for`.
    """
    return plan_for(session.driver, session.mechanisms(), kind)


def plan_for(driver: Driver, offered: Sequence[str], kind: KeyKind | None) -> Plan:
    """Return how a kind of key signs, from what the token offers and its driver prefers.

    Args:
        driver: the token's.
        offered: its mechanisms, without CKM_.
        kind: of key; None: one that no signed order may use.

    Raises:
        TokenError: ``MECHANISM_MISSING``: the token offers none of those that make a valid signed order.
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
    """Return the token's signature over a message: one C_Sign, and one login for it where the key wants that.

    Nothing leaves that does not verify. A software token is checked once for each key and session.

    Args:
        session: an open token; its interaction is called, after half a second, while the token waits.
        key: one of its private keys.
        how: suite and mechanism.
        message: the whole message.
        spki: the public key that the signature must be for (SubjectPublicKeyInfo, DER).
        purpose: said in the PIN prompt.
        ready: called when the person has been asked everything, just before the token is; what it raises ends it.

    Raises:
        ModuleMisbehaves: the token returned a signature that is not this key's.
        PinError, TokenError, ConfirmationError, OutcomeUnknown: as :meth:`Module.sign`.
    """
    made = _made(session, key, how, message, purpose, ready)
    if session.driver.kind is not Kind.SOFTWARE or not session.was_checked(key.handle, spki):
        if not is_by(spki, how.suite, message, made):
            raise ModuleMisbehaves(serial=session.serial, key_id=key.key_id.hex())
        session.note_checked(key.handle, spki)
    return made


def is_by(spki: bytes, suite: Suite, message: bytes, raw: bytes) -> bool:
    """Tell whether a signature, as C_Sign returns it, is by a public key (SubjectPublicKeyInfo, DER)."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    from ushield_hw.crypto.private_key import builder_arguments  # which digest and padding a suite is

    arguments = builder_arguments(suite)
    try:
        key = load_der_public_key(spki)
        if isinstance(key, ec.EllipticCurvePublicKey):
            half = (key.key_size + 7) // 8
            if len(raw) != 2 * half:
                return False
            wire = encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
            key.verify(wire, message, ec.ECDSA(arguments["algorithm"]))
            return True
        if isinstance(key, rsa.RSAPublicKey):
            padding = arguments.get("rsa_padding") or PKCS1v15()
            key.verify(raw, message, padding, arguments["algorithm"])
            return True
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return False


def _made(
    session: Session, key: KeyRecord, how: Plan, message: bytes, purpose: str, ready: Callable[[], None]
) -> bytes:
    driver = session.driver
    call = SignCall(key.handle, how.way.mechanism, how.feed(message), how.suite.digest, key.always_authenticate)
    if driver.kind is Kind.SOFTWARE and driver.confirm.kind is ConfirmKind.NONE:  # nobody waits for it
        return _signed(session, call, purpose, PATIENCE, ready)
    with _waiting(session) as patience:
        with session.noticing_removal():
            return _signed(session, call, purpose, patience, ready)


def _signed(session: Session, call: SignCall, purpose: str, patience: Patience, ready: Callable[[], None]) -> bytes:
    if not call.context:
        ready()
        return session.sign(call, patience)

    def send(pin: str | None) -> bytes | UShieldError:
        ready()
        try:
            return session.sign(replace(call, pin=pin), patience)
        except UShieldError as error:
            if isinstance(error, OutcomeUnknown) or error.failed_at(Step.SIGN):
                return error  # the PIN was right: what failed after it must not count as a failed try
            raise

    done = session.link.pin.use(session.interaction, PinKind.CONTEXT, purpose, send, session.info())
    if isinstance(done, UShieldError):
        raise done
    return done


@contextmanager
def _waiting(session: Session) -> Iterator[Patience]:
    """Say, once, that the token is waiting for its owner: half a second after C_Sign has begun."""
    confirm, cancelled = session.driver.confirm, threading.Event()
    asks = confirm.kind is not ConfirmKind.NONE
    # PKCS#11 has no call that takes a question back from a token, so cancelling never reaches it.
    action = TokenAction(confirm.kind.value, float(confirm.timeout_s) if asks else None, False, cancelled.set)
    timer = threading.Timer(_QUIET_S, session.interaction.waiting_for_token, (action,))
    timer.daemon = True
    try:
        limit_s = confirm.timeout_s + _PATIENCE_S if asks else None
        yield Patience(confirm.codes, limit_s, asks, Watch(timer.start, cancelled))
    finally:
        timer.cancel()
