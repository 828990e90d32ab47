"""Whether a certificate that came is the one that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from ushield_hw.cms import CertificateFacts
from ushield_hw.cms.names import same
from ushield_hw.errors import CertificateError, KeyMismatch
from ushield_hw.order import KeyUse
from ushield_hw.order.times import time_text

_AHEAD: Final = timedelta(minutes=5)  # as far as two clocks may differ
_USES: Final = (KeyUse.PAYMENT, KeyUse.LOGIN)


def check(
    new: CertificateFacts, old: CertificateFacts, spki: bytes, authorities: Sequence[bytes], now: datetime
) -> None:
    """Accept a certificate as the renewal of another.

    Args:
        new: the certificate that came.
        old: the one it renews.
        spki: the key that was requested, DER.
        authorities: CA certificates, DER, one of which must have issued it; none: it must be the old one's issuer.
        now: the moment, aware.

    Raises:
        KeyMismatch: ``RENEWAL_OTHER_KEY``: it is for another key than the one requested.
        CertificateError: ``RENEWAL_CERTIFICATE_WRONG``, with ``.problem``; ``RENEWAL_CLOCK``: it is not valid yet by
            this host's clock.
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
    """Tell whether one of these CAs has signed it (RFC 5280 section 6.1.3: name and signature)."""
    from ushield_hw.verifier.certificate import Certificate

    certificate = Certificate(new)
    return any(Certificate.read(der).has_signed(certificate) for der in authorities)
