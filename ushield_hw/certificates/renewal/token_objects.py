"""The token's objects during a renewal. Each method may be called again after a crash."""

from __future__ import annotations

from collections.abc import Callable

from ushield_hw.backend.model import CertificateRecord
from ushield_hw.certificates.certificate import make_key, objects_of, remove, remove_key, write
from ushield_hw.certificates.renewal.record import Record
from ushield_hw.cms import CertificateFacts
from ushield_hw.cms.names import same
from ushield_hw.crypto.public_key import spki_of
from ushield_hw.errors import CertificateError, KeyMismatch, TokenBusy, TokenError, TokenRemoved, Trait
from ushield_hw.token.key_pairs import PENDING, REPLACED, Pair, session_pairs
from ushield_hw.token.session import Session


class NotWritten(TokenError):
    """The token does not accept a certificate for this key; a retry would not help."""


class TokenObjects:
    """The operations of one renewal on the token.

    Args:
        session: An open session.
        record: The record of the renewal.

    Attributes:
        swapped: Whether the new certificate was written in place of the old one.
    """

    def __init__(self, session: Session, record: Record) -> None:
        self.swapped = False
        self._session = session
        self._record = record

    def make_key(self) -> bytes:
        """Generate the new key and return its public half (SubjectPublicKeyInfo, DER).

        A key with the same CKA_ID from an earlier attempt is deleted first: no request for it was sent.
        """
        record = self._record
        remove(self._session, record.key_id)
        label = record.label + PENDING
        return spki_of(make_key(self._session, record.kind, record.bits, record.key_id, label, each=record.each))

    def has_key(self) -> bool:
        """Tell whether the private key is on the token."""
        key_id = self._record.key_id
        return any(key.private and key.key_id == key_id for key in self._session.keys(key_id))

    def write(self) -> None:
        """Write the new certificate and compare it with what the token returns.

        Raises:
            KeyMismatch: ``RENEWAL_KEY_GONE``: its key is no longer on the token.
            TokenFull: The token has no free space.
            NotWritten: ``RENEWAL_NOT_WRITTEN``.
        """
        record = self._record
        if not self.has_key():
            raise KeyMismatch("RENEWAL_KEY_GONE", serial=self._session.serial, key_id=record.key_id.hex())
        if self._written():
            return
        if record.same_key:
            self._write_beside()
        else:
            self._write_anew()

    def put_into_use(self) -> None:
        """Activate the new pair by removing the label suffix that marks it as pending."""
        record = self._record
        if not same(CertificateFacts.read(record.old).issuer, self._facts.issuer):
            self._relabel_pair(record.old_key_id, record.old, record.label + REPLACED)  # otherwise both would be active
        self._relabel_pair(record.key_id, record.certificate, record.label)
        if any(certificate.label.endswith(PENDING) for certificate in self._written()):
            self._destroy(lambda one: one.der == record.certificate)
            write(self._session, self._facts, record.key_id, record.label)

    def check_in_use(self) -> None:
        """Make sure that the new pair is the one that signs, before the old pair is removed.

        Raises:
            CertificateError: ``RENEWAL_NOT_IN_USE``.
        """
        new = self._new_pair()
        if new is None or new.key is None or not new.activated:
            raise CertificateError("RENEWAL_NOT_IN_USE", serial=self._session.serial)

    def remove_old(self) -> None:
        """Delete the old certificate, then its key unless another certificate needs it."""
        record = self._record
        self._destroy(lambda one: one.der == record.old)
        others = {one.key_id for one in self._session.certificates()}
        if not record.same_key and record.old_key_id not in others:
            remove_key(self._session, CertificateFacts.read(record.old), record.old_key_id)

    def clear(self) -> None:
        """Delete the objects that this renewal has written, and no others."""
        record = self._record
        if record.same_key:
            self._destroy(lambda one: one.der == record.certificate != b"")
            self._restore()
        else:
            self._destroy(lambda one: one.key_id == record.key_id)
            remove(self._session, record.key_id)

    @property
    def _facts(self) -> CertificateFacts:
        return CertificateFacts.read(self._record.certificate)

    def _written(self) -> list[CertificateRecord]:
        return objects_of(self._session, self._record.certificate, self._record.key_id)

    def _new_pair(self) -> Pair | None:
        pairs = session_pairs(self._session)
        return next((pair for pair in pairs if pair.facts.der == self._record.certificate), None)

    def _destroy(self, chosen: Callable[[CertificateRecord], bool]) -> None:
        self._session.destroy([one for one in self._session.certificates() if chosen(one)])

    def _relabel_pair(self, key_id: bytes, der: bytes, label: str) -> None:
        """Change the label of a key and its certificate. On some tokens only the key's label persists."""
        kind = CertificateFacts.read(der).key
        for key in self._session.keys():
            if key.key_id == key_id and key.kind in {kind, None} and key.label != label:  # None: unknown
                self._relabel(key.handle, label)
        for certificate in self._session.certificates():
            if certificate.der == der and certificate.label != label:
                self._relabel(certificate.handle, label)

    def _relabel(self, handle: int, label: str) -> None:
        """Change the label of an object, if the token allows it."""
        try:
            self._session.relabel(handle, label)
        except (TokenRemoved, TokenBusy):
            raise
        except TokenError as error:
            if not error.failed_as(Trait.ATTRIBUTE_FIXED):
                raise

    def _write_anew(self) -> None:
        """Write the certificate; retry once if the error does not clearly mean that the token is full.

        A partly written certificate, left when the token was removed, also blocks the write: OpenSC neither shows nor
        replaces it.
        """
        unclear = self._session.driver.capabilities.full
        for last in (False, True):
            self._destroy(lambda one: one.key_id == self._record.key_id)  # may be partly written
            try:
                write(self._session, self._facts, self._record.key_id, self._record.label + PENDING)
                return
            except TokenError as error:
                if error.ckr not in unclear or self._session.is_removed_after(error):
                    raise
                if last:
                    raise error.restated(NotWritten, "RENEWAL_NOT_WRITTEN", serial=self._session.serial) from error

    def _write_beside(self) -> None:
        """Write the certificate next to the old one of the same key, or in place of it."""
        try:
            write(self._session, self._facts, self._record.key_id, self._record.label + PENDING)
        except (TokenRemoved, TokenBusy):
            raise
        except TokenError as error:
            if self._session.is_removed_after(error):
                raise
            self._swap()

    def _swap(self) -> None:
        """Replace the old certificate of the same key with the new one; the record has both.

        In between, the token has no certificate for the key. There is no other way for a token that accepts one
        certificate per key, or has no space for two. OpenSC does not sign with such a key until the module is loaded
        again.
        """
        self.swapped = True
        self._destroy(lambda one: one.der == self._record.old)
        try:
            write(self._session, self._facts, self._record.key_id, self._record.label)
        except TokenError:
            self._restore()
            raise

    def _restore(self) -> None:
        """Write the old certificate back if it was deleted to make space."""
        old = CertificateFacts.read(self._record.old)
        if not any(one.der == old.der for one in self._session.certificates()):
            write(self._session, old, self._record.old_key_id, self._record.label)
