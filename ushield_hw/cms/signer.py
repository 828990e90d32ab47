"""Rules for signers and certificate paths, shared by writing and reading."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from ushield_hw.cms.certificate import CertificateFacts
from ushield_hw.cms.names import same
from ushield_hw.crypto.algorithms import Suite, too_short
from ushield_hw.crypto.der import DerError

MOST_INTERMEDIATES: Final = 4

read_kept = lru_cache(maxsize=1024)(CertificateFacts.read)
"""``CertificateFacts.read`` with a cache: a bank reads the certificates of the same customers repeatedly."""


def check_key(signer: CertificateFacts, suite: Suite) -> None:
    """Refuse a key that does not fit the suite, or is too short.

    Args:
        signer: The certificate of the key.
        suite: The suite.

    Raises:
        DerError: ``key_kind`` or ``key_too_short``.
    """
    if signer.key is not suite.key:
        raise DerError("key_kind")
    if too_short(signer.key, signer.key_bits):
        raise DerError("key_too_short")


def in_order(signer: CertificateFacts, others: Sequence[CertificateFacts]) -> tuple[bytes, ...]:
    """Return certificates as DER in path order: the signer's issuer first, then the issuer's issuer, and so on.

    Signatures are not checked here; the verifier checks them when it has a trusted CA.

    Args:
        signer: The signer's certificate.
        others: The other certificates.

    Raises:
        DerError: ``certificate_not_on_path``: a certificate is not a CA on that path, there are two for one position,
            or there are too many.
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
