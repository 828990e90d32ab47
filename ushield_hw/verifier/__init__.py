"""Verify signed orders on the bank's side, without a token and without network access.

cryptography, which is slow to import, is imported when the first signature is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, SupportsBytes

from ushield_hw import cms
from ushield_hw.cms import Confirmation, Profile, SignedOrderParts
from ushield_hw.crypto.parsing import Unreadable
from ushield_hw.crypto.verification import checker
from ushield_hw.errors import BadSignature, InputError, InvalidError, Mismatch, UntrustedSigner
from ushield_hw.order import Order, Rules, decode
from ushield_hw.verifier.status import judge, time_text
from ushield_hw.verifier.trust import Signer, TrustStore

__all__ = ["Revocation", "Signer", "TrustStore", "Verified", "check_signature", "verify"]

_STRICT: Final = Rules()
_JCS: Final = "jcs"  # the message format that is the canonical bytes


class Revocation(StrEnum):
    """Whether revocation was checked."""

    GOOD = "good"  # every certificate is covered by a CRL and none is revoked
    NOT_CHECKED = "not_checked"  # no CRLs were given


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of a successful verification.

    Attributes:
        order: the order that was signed.
        format: the message format of the signed content, for example ``jcs`` or ``xml-tdm``.
        signer: the signer and its certificate.
        profile: what the signature covers.
        confirmation: how the user confirmed, as stated by the signer; None for ``Profile.PLAIN``. A bank relies on what
            it registered for the certificate, not on this value.
        claimed_signing_time: the signing time stated by the signer's host; None for ``Profile.PLAIN``. It is not
            authenticated by a third party and no check uses it.
        revocation: whether revocation was checked.
    """

    order: Order
    format: str
    signer: Signer
    profile: Profile
    confirmation: Confirmation | None
    claimed_signing_time: datetime | None
    revocation: Revocation

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document of ``ushield verify --json``."""
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
    """Verify a signed order.

    The steps, in this order:

    1. Parse the container strictly; :func:`ushield_hw.cms.parse` rejects malformed input.
    2. Check the signature with the public key of the signer's certificate.
    3. Build a path from that certificate to a trusted CA that is valid at ``at``. If the certificate has a key usage,
    it must include digitalSignature or nonRepudiation. Extended key usage is ignored (as with openssl's ``-purpose
    any``).
    4. If CRLs are given, every certificate of the path must be covered by a CRL and not revoked at ``at``.
    5. The content must be an order in its canonical form. This check distinguishes a genuine plain signature from the
    signed attributes of a CAdES signature replayed as content. The key usage must fit the order's type.
    6. If ``expected`` is given, the signed order must equal it in every field.
    7. If ``at`` is given, the order must not have expired at that time. Without ``at`` the order's expiry is not
    checked; it was checked when the order was signed.

    Args:
        signed: CMS in DER (the content of the file), or the result of :func:`ushield_hw.sign`.
        trust: trusted CAs and CRLs.
        expected: the order that should have been signed.
        at: the time of verification, timezone-aware: when the bank received the order. Default: now.
        rules: schema rules that may differ between installations. ``expected`` was already validated with its own.
        judge_expiry: whether to run step 7. None: only if ``at`` is given.

    Returns:
        The verified order, its signer and what the signature states.

    Raises:
        InputError: ``SIGNED_ORDER_MALFORMED``: the input is not a signed order.
        BadSignature: step 1, 2 or 5 failed; ``.problem`` is the violated rule. In step 5 ``.why`` is the order's own
            ``InputError``.
        UntrustedSigner: step 3 or 5 failed; ``.reason``.
        Revoked: step 4: a certificate is revoked; ``.at`` (RFC 3339), ``.reason``.
        VerificationError: ``REVOCATION_UNKNOWN``: step 4 could not be completed; ``.problem``. ``PATH_TOO_COMPLEX``:
            the path search exceeded its budget.
        Mismatch: step 6 failed; ``.fields``: the fields that differ.
        InvalidError: ``ORDER_EXPIRED``: step 7 failed; ``.expires``, ``.now``: the time of verification.
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
    """Parse a signed order and check its signature with the embedded certificate: steps 1 and 2 of :func:`verify`.

    This proves integrity only. It does not check whether the signer is trusted.

    Args:
        signed: CMS in DER.

    Returns:
        The parsed parts of the signed order.

    Raises:
        InputError: ``SIGNED_ORDER_MALFORMED``.
        BadSignature: ``.problem`` is the violated rule.
    """
    parts = cms.parse(signed)
    try:
        is_right = checker(parts.signer.spki, parts.suite.name)(parts.signature, parts.signed_bytes)
    except (Unreadable, ValueError) as wrong:  # for example, the key is not a point on its curve
        raise BadSignature(problem="cms_signature_wrong") from wrong
    if not is_right:
        raise BadSignature(problem="cms_signature_wrong")
    return parts


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
    # an Order is validated when it is created; no need to parse the same bytes
    if expected is not None and content == expected.canonical:
        return _JCS, expected
    try:
        return decode(content, rules=rules)
    except InputError as refused:
        raise BadSignature(problem="cms_not_an_order", why=refused) from refused


def _check_expected(order: Order, expected: Order) -> None:
    fields = order.differences(expected)
    if fields:
        raise Mismatch(fields=fields)
