"""Who may sign an order, and which certificates go with it: the rules that writing and reading share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from ushield_hw.cms.certificate import CertificateFacts
from ushield_hw.cms.der import DerError
from ushield_hw.cms.names import same
from ushield_hw.crypto.algorithms import RSA_LEAST_BITS, KeyKind, Suite

MOST_INTERMEDIATES: Final = 4

read_kept = lru_cache(maxsize=1024)(CertificateFacts.read)
"""``CertificateFacts.read`` that remembers: a bank reads the same customers' certificates again and again."""


def check_key(signer: CertificateFacts, suite: Suite) -> None:
    """Refuse a key that ``suite`` is not for, or one too short.

    Raises:
        DerError: ``key_kind`` or ``key_too_short``.
    """
    if signer.key is not suite.key:
        raise DerError("key_kind")
    if signer.key is KeyKind.RSA and signer.key_bits < RSA_LEAST_BITS:
        raise DerError("key_too_short")


def in_order(signer: CertificateFacts, others: Sequence[CertificateFacts]) -> tuple[bytes, ...]:
    """Return ``others`` as DER in the order of a path: the signer's issuer first, then the issuer's issuer…

    Signatures are not checked here; the verifier does, when it has a trusted CA.

    Raises:
        DerError: ``certificate_not_on_path``: one of them is not a CA on that path, there are two for one place, or
            there are more than a path has places.
    """
    if not others:
        return ()
    left, path, child = list(others), [], signer
    if len(left) > MOST_INTERMEDIATES:
        raise DerError("certificate_not_on_path")
    while left:
        issuers = [one for one in left if one.is_ca and same(one.subject, child.issuer)]
        if len(issuers) != 1:
            raise DerError("certificate_not_on_path")
        child = issuers[0]
        left.remove(child)
        path.append(child.der)
    return tuple(path)
