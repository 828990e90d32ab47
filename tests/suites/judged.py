"""One certificate of a suite, judged as a signer's."""

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
    """Return why a certificate is not accepted, or None: everything :func:`ushield_hw.verify` asks of one.

    Raises:
        Exception: anything but an error of ours is a fault.
    """
    try:
        store = TrustStore(anchors, others, crls, policies=policies)
        path = store.path(_parts(leaf), moment)
        judge(path.statuses, moment, moment)
    except UShieldError as error:
        return error
    return None


def _parts(leaf: bytes) -> SignedOrderParts:
    """Return a signed order by this certificate, as far as the path is concerned."""
    facts = CertificateFacts.read(leaf)
    return SignedOrderParts(b"", leaf, (), SUITES[0], Profile.PLAIN, None, b"", b"", facts, None)
