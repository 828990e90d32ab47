"""Renew a certificate without a gap: the new pair is made, proved and activated before the old one is removed.

::

    new key -> request, signed by both keys -> certificate, checked -> on the token, read back -> test signature
            -> acknowledged by the bank -> active -> the old pair is removed

Every step is recorded before the next begins, so that the same call resumes after a crash, a removed token, or a bank
that did not answer. Only objects named in the record are removed from the token. The old pair signs until the new pair
is active; from then on, the new pair signs.
"""

from __future__ import annotations

from collections.abc import Sequence

from ushield_hw.backend.model import Identity
from ushield_hw.certificates.certificate import read_certificate
from ushield_hw.certificates.renewal.process import (
    Bank,
    OnStep,
    Renewed,
    Retire,
    in_use,
    just_done,
    open_records,
    renewing,
    silent,
    under_way,
)
from ushield_hw.certificates.renewal.record import Step
from ushield_hw.cms import CertificateFacts
from ushield_hw.config import Settings
from ushield_hw.errors import CertificateError
from ushield_hw.token.key_pairs import ANY, KeyChoice
from ushield_hw.token.session import Session

__all__ = ["Bank", "Renewed", "Retire", "Step", "abandon", "install", "is_under_way", "renew", "request", "requested"]


def request(session: Session, choice: KeyChoice = ANY, *, same_key: bool = False, on_step: OnStep = silent) -> bytes:
    """Start or resume a renewal and return the request for the bank. Idempotent: later calls return the same bytes.

    Args:
        session: An open session.
        choice: The pair to renew. Default: the only one there is.
        same_key: Keep the key and renew only the certificate, for a token without free space, if the bank allows it.
        on_step: Callback after every step.

    Returns:
        CMS SignedData by the old key, DER, whose content is a PKCS#10 request by the new key.

    Raises:
        CertificateError: There is no pair to renew, or there are several; the certificate has expired; the token cannot
            generate keys.
        TokenFull: ``RENEWAL_NO_ROOM``; the objects written so far were deleted.
        PinError, TokenError, ConfirmationError, StorageError: The step failed; the same call resumes there.
    """
    with renewing(session, choice, on_step, same_key=same_key) as work:
        work.request()
        return work.record.request


def install(
    session: Session,
    certificate: bytes,
    choice: KeyChoice = ANY,
    *,
    authorities: Sequence[bytes] = (),
    retire: Retire = Retire.REMOVE,
    on_step: OnStep = silent,
) -> Renewed:
    """Install the certificate issued for a request, prove the new pair and activate it.

    Args:
        session: An open session.
        certificate: The new certificate, PEM or DER.
        choice: The renewal, if several are in progress on the token.
        authorities: CA certificates, DER, one of which must have issued the new certificate. Empty: it must have the
            old certificate's issuer.
        retire: Whether to remove or keep the old pair.
        on_step: Callback after every step.

    Returns:
        The completed renewal.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``, ``CERTIFICATE_SEVERAL``.
        CertificateNotFound: ``RENEWAL_NOT_BEGUN``.
        CertificateError: It is not the certificate that was requested; nothing was written. See :func:`checks.check`.
        PinError, TokenError, ConfirmationError, StorageError: The step failed; the same call resumes there.
    """
    facts = CertificateFacts.read(read_certificate(certificate))
    if (known := in_use(session, facts)) is not None and not open_records(session, choice):
        return Renewed(known.key_id, facts, None, None, replayed=True)
    with renewing(session, choice, on_step, begin=False) as work:
        work.receive(facts, authorities)
        return work.finish(None, retire)


def renew(
    session: Session,
    bank: Bank,
    choice: KeyChoice = ANY,
    *,
    authorities: Sequence[bytes] = (),
    retire: Retire = Retire.REMOVE,
    same_key: bool = False,
    on_step: OnStep = silent,
) -> Renewed:
    """Renew a certificate with the bank, from the new key to the removed old pair. Idempotent: the same call resumes.

    Args:
        session: An open session.
        bank: The bank's CA.
        choice: The pair to renew. Default: the only one there is.
        authorities: As for :func:`install`.
        retire: Whether to remove or keep the old pair.
        same_key: As for :func:`request`.
        on_step: Callback after every step.

    Returns:
        The completed renewal.

    Raises:
        RenewalRejected: The bank refused. If it has not issued a certificate yet, the objects written so far were
            deleted.
        NetworkError: The bank could not be reached; the same call resumes there.
        CertificateError, TokenFull, PinError, TokenError, ConfirmationError, StorageError: As for :func:`request` and
            :func:`install`.
    """
    if (done := just_done(session, choice)) is not None:
        return done
    with renewing(session, choice, on_step, same_key=same_key) as work:
        work.request()
        if work.record.step.before(Step.RECEIVED):
            work.receive(work.certified(bank), authorities)
        return work.finish(bank, retire)


def requested(settings: Settings, token: Identity, choice: KeyChoice = ANY) -> bytes | None:
    """Return the request of the renewal in progress on a token, as returned by :func:`request`. Needs no login.

    Args:
        settings: The settings in force.
        token: The identity of the token.
        choice: The key, if several renewals are in progress on the token.

    Returns:
        The request, or None if there is not exactly one renewal, or it has no request yet.

    Raises:
        StorageError: The records cannot be read.
    """
    found = under_way(settings, token, choice)
    return found[0].request or None if len(found) == 1 else None


def is_under_way(settings: Settings, token: Identity, choice: KeyChoice = ANY) -> bool:
    """Tell whether a renewal is in progress on a token. Needs no login, and the token need not be present.

    Args:
        settings: The settings in force.
        token: The identity of the token.
        choice: The key that is renewed.

    Raises:
        StorageError: The records cannot be read.
    """
    return bool(under_way(settings, token, choice))


def abandon(session: Session, choice: KeyChoice = ANY) -> bool:
    """Cancel a renewal in progress and delete the objects that it wrote to the token.

    Args:
        session: An open session.
        choice: The renewal, if several are in progress on the token.

    Returns:
        Whether a renewal was in progress.

    Raises:
        CertificateError: ``RENEWAL_TOO_FAR``: the new pair is active on the token, or the bank has activated it.
    """
    if not open_records(session, choice):
        return False
    with renewing(session, choice, silent, begin=False) as work:
        if work.record.acknowledged or not work.record.step.before(Step.ACTIVE):
            raise CertificateError("RENEWAL_TOO_FAR", serial=session.serial)
        work.give_up("abandoned")
    return True
