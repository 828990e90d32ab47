"""Renew a certificate without a gap: the new pair is made, proved and put into use before the old one goes.

::

    new key -> request, signed by both keys -> certificate, checked -> on the token, read back -> test signature
            -> the bank knows -> in use -> the old pair is removed

Every step is on record before the next begins, so that the same call goes on after a crash, a token that was pulled
out, or a bank that did not answer. Only what the record names is ever removed from the token. Until the new pair is in
use, the old one signs; from then on, the new one.
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
    """Begin a renewal, or go on with one, and return the request for the bank; asked again, the same bytes.

    Args:
        session: an open token.
        choice: which pair; default: the only one there is.
        same_key: keep the key and renew the certificate alone: for a token without room, if the bank allows it.
        on_step: called after every step.

    Returns:
        CMS SignedData by the old key, DER, whose content is a PKCS#10 request by the new key.

    Raises:
        CertificateError: no pair to renew, or several; it has expired; the token cannot make keys.
        TokenFull: ``RENEWAL_NO_ROOM``; nothing is left of what was begun.
        PinError, TokenError, ConfirmationError, StorageError: as elsewhere; the same call goes on from there.
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
    """Take the certificate that came for a request, prove the new pair, and put it into use.

    Args:
        session: an open token.
        certificate: PEM or DER.
        choice: which renewal, where several are under way on the token.
        authorities: CA certificates, DER, one of which must have issued it; none: the old certificate's issuer must.
        retire: what becomes of the old pair.
        on_step: called after every step.

    Raises:
        InputError: ``CERTIFICATE_MALFORMED``, ``CERTIFICATE_SEVERAL``.
        CertificateNotFound: ``RENEWAL_NOT_BEGUN``.
        CertificateError: it is not the certificate that was asked for; nothing was written. See :func:`fit.check`.
        PinError, TokenError, ConfirmationError, StorageError: the same call goes on from there.
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
    """Renew a certificate with the bank, from the new key to the end; the same call goes on after anything.

    Args:
        session: an open token.
        bank: where the certificate comes from.
        choice: which pair; default: the only one there is.
        authorities: as for :func:`install`.
        retire: what becomes of the old pair.
        same_key: as for :func:`request`.
        on_step: called after every step.

    Raises:
        RenewalRejected: the bank refused; if it has issued nothing yet, what was begun is removed again.
        NetworkError: the bank could not be reached; nothing is lost.
        CertificateError, TokenFull, PinError, TokenError, ConfirmationError, StorageError: as :func:`request` and
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
    """Return the request of the renewal that is under way on a token, as :func:`request` gave it; needs no login."""
    found = under_way(settings, token, choice)
    return found[0].request or None if len(found) == 1 else None


def is_under_way(settings: Settings, token: Identity, choice: KeyChoice = ANY) -> bool:
    """Tell whether a renewal has begun on a token, of this key, and not ended; needs no login and no token.

    Raises:
        StorageError: the records cannot be read.
    """
    return bool(under_way(settings, token, choice))


def abandon(session: Session, choice: KeyChoice = ANY) -> bool:
    """Give up a renewal that is under way and remove what it has put on the token; tell whether there was one.

    Raises:
        CertificateError: ``RENEWAL_TOO_FAR``: the new pair is in use already, or the bank has put it into use.
    """
    if not open_records(session, choice):
        return False
    with renewing(session, choice, silent, begin=False) as work:
        if work.record.acknowledged or not work.record.step.before(Step.ACTIVE):
            raise CertificateError("RENEWAL_TOO_FAR", serial=session.serial)
        work.give_up("abandoned")
    return True
