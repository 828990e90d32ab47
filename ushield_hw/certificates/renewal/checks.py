"""Check that a certificate is the one that was requested."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from ushield_hw.cms import CertificateFacts
from ushield_hw.cms.names import same
from ushield_hw.errors import CertificateError, KeyMismatch
from ushield_hw.order import KeyUse
from ushield_hw.order.times import time_text

_AHEAD: Final = timedelta(minutes=5)  # tolerated difference of two clocks
_USES: Final = (KeyUse.PAYMENT, KeyUse.LOGIN)


def check(
    new: CertificateFacts, old: CertificateFacts, spki: bytes, authorities: Sequence[bytes], now: datetime
) -> None:
    """Raise an error unless a certificate is the renewal of another.

    Args:
        new: The new certificate.
        old: The certificate that it renews.
        spki: The key that was requested, DER.
        authorities: CA certificates, DER, one of which must have issued it. Empty: it must have the old certificate's
            issuer.
        now: A timezone-aware time.

    Raises:
        KeyMismatch: ``RENEWAL_OTHER_KEY``: it is for another key than the one requested.
        CertificateError: ``RENEWAL_CERTIFICATE_WRONG``, with ``.problem``; ``RENEWAL_CLOCK``: it is not valid yet
            according to this host's clock.
    """
    if new.spki != spki:
        raise KeyMismatch("RENEWAL_OTHER_KEY", subject=new.subject_text(), serial=new.serial_hex)
    problem = _problem(new, old, authorities)
    if problem is not None:
        raise CertificateError(
            "RENEWAL_CERTIFICATE_WRONG",
            problem=f"renewal_{problem}",
            subject=new.subject_text(),
            issuer=new.issuer_text(),
            serial=new.serial_hex,
        )
    if new.not_before > now + _AHEAD:
        raise CertificateError("RENEWAL_CLOCK", not_before=time_text(new.not_before), now=time_text(now))
    if new.not_after <= now:
        raise CertificateError("RENEWAL_CERTIFICATE_WRONG", problem="renewal_over", not_after=time_text(new.not_after))


def _problem(new: CertificateFacts, old: CertificateFacts, authorities: Sequence[bytes]) -> str | None:
    of_same_issuer = same(new.issuer, old.issuer)
    issued = _issued(new, authorities) if authorities else of_same_issuer
    wrong = {
        "same": new.der == old.der or (of_same_issuer and new.serial == old.serial),
        "subject": not same(new.subject, old.subject),
        "issuer": not issued,
        "usage": new.is_ca or any(_allows(old, use) and not _allows(new, use) for use in _USES),
        "gap": new.not_before > old.not_after,
        "not_longer": new.not_after <= old.not_after,
    }
    return next((problem for problem, is_so in wrong.items() if is_so), None)


def _allows(facts: CertificateFacts, use: KeyUse) -> bool:
    return facts.key_usage is None or not use.usages.isdisjoint(facts.key_usage)


def _issued(new: CertificateFacts, authorities: Sequence[bytes]) -> bool:
    """Tell whether one of the CAs has signed it (RFC 5280 section 6.1.3: name and signature)."""
    from ushield_hw.verifier.certificate import Certificate

    certificate = Certificate(new)
    return any(Certificate.read(der).has_signed(certificate) for der in authorities)
