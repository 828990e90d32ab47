"""Checks one certificate of a suite as a signer's certificate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ushield_hw.cms import CertificateFacts, Profile, SignedOrderParts
from ushield_hw.crypto.algorithms import SUITES
from ushield_hw.errors import UShieldError
from ushield_hw.verifier import TrustStore
from ushield_hw.verifier.policies import ANY, PolicyInputs
from ushield_hw.verifier.status import judge


def refusal(
    leaf: bytes,
    anchors: Sequence[bytes],
    others: Sequence[bytes],
    crls: Sequence[bytes],
    moment: datetime,
    policies: PolicyInputs = ANY,
) -> UShieldError | None:
    """Return why a certificate is rejected, or None: every check that :func:`ushield_hw.verify` makes on it.

    Raises:
        Exception: any exception but the library's own is a defect.
    """
    try:
        store = TrustStore(anchors, others, crls, policies=policies)
        path = store.path(_parts(leaf), moment)
        judge(path.statuses, moment, moment)
    except UShieldError as error:
        return error
    return None


def _parts(leaf: bytes) -> SignedOrderParts:
    """Return the parts of a signed order with this certificate that path validation uses."""
    facts = CertificateFacts.read(leaf)
    return SignedOrderParts(b"", leaf, (), SUITES[0], Profile.PLAIN, None, b"", b"", facts, None)
