"""Checking a signed order, on the bank's side: no token, no network.

The slow library (cryptography) is imported when the first signature is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, SupportsBytes

from ushield_hw import cms
from ushield_hw.cms import Confirmation, Profile, SignedOrderParts
from ushield_hw.crypto.algorithms import SUITES, Padding, Suite
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.errors import BadSignature, InputError, InvalidError, Mismatch, UntrustedSigner
from ushield_hw.order import Order, Rules, decode
from ushield_hw.verifier.status import judge, time_text
from ushield_hw.verifier.trust import Signer, TrustStore

if TYPE_CHECKING:
    from cryptography.hazmat.primitives import hashes

__all__ = ["Revocation", "Signer", "TrustStore", "Verified", "check_signature", "verify"]

_STRICT: Final = Rules()
_JCS: Final = "jcs"  # the message format that is the canonical bytes


class Revocation(StrEnum):
    """What is known about revocation."""

    GOOD = "good"  # a CRL was there for every certificate, and none is revoked
    NOT_CHECKED = "not_checked"  # no CRLs were given


@dataclass(frozen=True, slots=True)
class Verified:
    """A signed order that is genuine.

    Attributes:
        order: what was signed.
        format: the message format it was signed in: ``jcs``, ``xml-tdm``…
        signer: whose signature it is.
        profile: what the signature covers.
        confirmation: how the person confirmed, as the signer states it; None for ``Profile.PLAIN``. What a bank trusts
            is what it registered for the certificate.
        claimed_signing_time: when the signer's host says that it was signed; None for ``Profile.PLAIN``. Nobody vouches
            for it, and nothing is judged by it.
        revocation: what is known about it.
    """

    order: Order
    format: str
    signer: Signer
    profile: Profile
    confirmation: Confirmation | None
    claimed_signing_time: datetime | None
    revocation: Revocation

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``ushield verify --json`` prints."""
        return {
            "verified": True,
            "order": self.order.to_json(),
            "signer": {"subject": self.signer.subject, "serial": self.signer.serial},
            "profile": self.profile.value,
            "confirmation": self.confirmation and self.confirmation.value,
            "claimed_signing_time": self.claimed_signing_time and time_text(self.claimed_signing_time),
            "revocation": self.revocation.value,
        }

    def __repr__(self) -> str:
        return f"<Verified {self.order!r} revocation={self.revocation.value!r}>"


def verify(
    signed: bytes | SupportsBytes,
    *,
    trust: TrustStore,
    expected: Order | None = None,
    at: datetime | None = None,
    rules: Rules = _STRICT,
    judge_expiry: bool | None = None,
) -> Verified:
    """Check a signed order: return what it says, or raise.

    1. The container is taken apart, strictly: what :func:`ushield_hw.cms.parse` refuses, goes no further.
    2. The signature is checked with the key of the signer's certificate.
    3. A path must lead from that certificate to a trusted CA and hold at the moment. The certificate's key usage, if it
       has one, must allow digitalSignature or nonRepudiation; extended key usage does not matter (as with openssl's
       ``-purpose any``).
    4. With CRLs, each certificate of the path must be on record as not revoked at the moment.
    5. The content must be an order in its canonical form: that is what tells apart a genuine plain signature and the
       attributes of a CAdES signature shown again as content. The key usage must be the one for orders of its type.
    6. If an order is expected, the signed one must say the same in every field.

    7. If the moment is given, the order must not have expired then. Without it, whether the order's own time is over is
       not looked at: that was judged when it was signed.

    Args:
        signed: the file's bytes, CMS in DER, or what :func:`ushield_hw.sign` returned.
        trust: CAs and CRLs.
        expected: what should have been signed.
        at: the moment to judge at, aware: when the bank received it. Now, if not given.
        rules: what may differ in orders from one installation to another. ``expected`` was held to its own.
        judge_expiry: whether to do step 7; None: if ``at`` is given.

    Raises:
        InputError: ``SIGNED_ORDER_MALFORMED``: this is not a signed order at all.
        BadSignature: steps 1, 2 and 5; ``.problem`` is the rule that is broken; in step 5, ``.why`` is the order's own
            ``InputError``.
        UntrustedSigner: steps 3 and 5; ``.reason``.
        Revoked: step 4; ``.at`` (RFC 3339), ``.reason``.
        VerificationError: ``REVOCATION_UNKNOWN``: step 4 could not be done; ``.problem``.
        Mismatch: step 6; ``.fields``: the places that differ.
        InvalidError: ``ORDER_EXPIRED``: step 7; ``.expires``, ``.now``: the moment.
        ValueError: ``at`` has no time zone.
    """
    moment = _moment(at)
    parts = check_signature(bytes(signed))
    path = trust.path(parts, moment)
    _check_key_usage(parts, "digitalSignature", "nonRepudiation")
    if path.statuses:
        judge(path.statuses, moment, datetime.now(UTC))
    name, order = _order(parts.content, expected, rules)
    _check_key_usage(parts, *sorted(order.purpose_of_key.usages))
    if expected is not None and order is not expected:
        _check_expected(order, expected)
    if judge_expiry or (judge_expiry is None and at is not None):
        _check_expiry(order, moment)
    revocation = Revocation.GOOD if trust.checks_revocation else Revocation.NOT_CHECKED
    return Verified(order, name, path.signer, parts.profile, parts.confirmation, parts.signing_time, revocation)


def _check_expiry(order: Order, moment: datetime) -> None:
    if moment >= order.expires:
        raise InvalidError("ORDER_EXPIRED", place="expires", expires=order["expires"], now=time_text(moment))


def _moment(at: datetime | None) -> datetime:
    if at is None:
        return datetime.now(UTC)
    if at.utcoffset() is None:
        raise ValueError("the moment needs a time zone")
    return at


def check_signature(signed: bytes) -> SignedOrderParts:
    """Take a signed order apart and check the signature with the key inside: steps 1 and 2 of :func:`verify`.

    This says that nothing was damaged, not that anybody may be trusted.

    Raises:
        InputError: ``SIGNED_ORDER_MALFORMED``.
        BadSignature: ``.problem`` is the rule that is broken.
    """
    parts = cms.parse(signed)
    try:
        is_right = _checker(parts.signer.spki, parts.suite.name)(parts.signature, parts.signed_bytes)
    except (Unreadable, ValueError) as wrong:  # the key is no point of its curve, or the like
        raise BadSignature(problem="cms_signature_wrong") from wrong
    if not is_right:
        raise BadSignature(problem="cms_signature_wrong")
    return parts


@lru_cache(maxsize=4096)
def _checker(spki: bytes, suite_name: str) -> Callable[[bytes, bytes], bool]:
    """Return what checks signatures by the key ``spki``; loading a key costs as much as a check."""
    from cryptography.exceptions import InvalidSignature

    check = _raising_checker(spki, next(suite for suite in SUITES if suite.name == suite_name))

    def is_right(signature: bytes, message: bytes) -> bool:
        try:
            check(signature, message)
        except InvalidSignature:
            return False
        return True

    return is_right


def _raising_checker(spki: bytes, suite: Suite) -> Callable[[bytes, bytes], None]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    digest: hashes.HashAlgorithm = getattr(hashes, suite.digest.upper())()
    with reading():
        key = load_der_public_key(spki)
    if isinstance(key, ec.EllipticCurvePublicKey):
        curve = ec.ECDSA(digest)
        return lambda signature, message: key.verify(signature, message, curve)
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError(f"no key for {suite.name}")
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
    filled = pss if suite.padding is Padding.PSS else padding.PKCS1v15()
    return lambda signature, message: key.verify(signature, message, filled, digest)


def _check_key_usage(parts: SignedOrderParts, *any_of: str) -> None:
    allowed = parts.signer.key_usage
    if allowed is not None and allowed.isdisjoint(any_of):
        raise UntrustedSigner(
            problem="signer_key_usage",
            reason="key_usage",
            serial=parts.signer.serial_hex,
            needed=" | ".join(any_of),
            allowed=sorted(allowed),
        )


def _order(content: bytes, expected: Order | None, rules: Rules) -> tuple[str, Order]:
    if expected is not None and content == expected.canonical:  # an order is valid once it is made: nothing to parse
        return _JCS, expected
    try:
        return decode(content, rules=rules)
    except InputError as refused:
        raise BadSignature(problem="cms_not_an_order", why=refused) from refused


def _check_expected(order: Order, expected: Order) -> None:
    fields = order.differences(expected)
    if fields:
        raise Mismatch(fields=fields)
