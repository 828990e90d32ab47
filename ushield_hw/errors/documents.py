"""Errors of files, certificates and signed orders, of the bank, and of local storage. See :mod:`ushield_hw.errors`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ushield_hw.errors.base import Detail, UShieldError


class InputError(UShieldError):
    """An order, descriptor, certificate or config file is invalid.

    Attributes:
        file: the file, if the input came from one.
        argument: the argument or option, if the input came from one.
        attribute: the URI attribute that is wrong.
        place: where in the input.
        key: the key in a table.
        reason: why, for example an operating system error.
    """

    code = "INPUT_INVALID"
    argument = Detail[str | None](None)
    attribute = Detail[str | None](None)
    place = Detail[str | None](None)
    key = Detail[str | None](None)
    reason = Detail[str | None](None)


class CertificateError(UShieldError):
    """A certificate or its key cannot be used.

    Attributes:
        serial: the token's or certificate's serial number.
        key_id: the key's CKA_ID.
        subject: the certificate's subject.
    """

    code = "CERTIFICATE_FAILED"
    serial = Detail[str | None](None)
    key_id = Detail[str | None](None)
    subject = Detail[str | None](None)


class CertificateNotFound(CertificateError):
    """No key with a suitable certificate was found.

    Attributes:
        candidates: the certificates that were considered.
        left_out: those that were not suitable, with the reason.
    """

    code = "CERTIFICATE_NOT_FOUND"
    candidates = Detail[Sequence[str]](())
    left_out = Detail[Sequence[Any]](())


class CertificateMultiple(CertificateError):
    """Several keys are suitable.

    Attributes:
        candidates: what distinguishes them.
    """

    code = "CERTIFICATE_MULTIPLE"
    candidates = Detail[Sequence[str]](())


class CertificateExpired(CertificateError):
    """The certificate has expired or is not yet valid.

    Attributes:
        not_before: start of its validity, RFC 3339.
        not_after: end of its validity, RFC 3339.
    """

    code = "CERTIFICATE_EXPIRED"
    not_before = Detail[str | None](None)
    not_after = Detail[str | None](None)


class KeyMismatch(CertificateError):
    """The certificate belongs to another key."""

    code = "KEY_MISMATCH"


class AlreadySigned(CertificateError):
    """The same user has already signed the order with another token or certificate.

    Attributes:
        tx_id: the order's transaction id.
        certificate: the certificate that was used.
        token: the token that was used.
    """

    code = "ALREADY_SIGNED"
    tx_id = Detail[str | None](None)
    certificate = Detail[str | None](None)
    token = Detail[str | None](None)


class RenewalRejected(CertificateError):
    """The bank's CA refused the renewal."""

    code = "RENEWAL_REJECTED"


class KeyGenerationUnavailable(CertificateError):
    """The token cannot generate keys through PKCS#11."""

    code = "KEY_GENERATION_UNAVAILABLE"


class VerificationError(UShieldError):
    """A signed order could not be verified: something required is missing or out of date."""

    code = "VERIFICATION_IMPOSSIBLE"


class InvalidError(VerificationError):
    """A signed order was verified and is invalid."""

    code = "SIGNED_ORDER_INVALID"


class BadSignature(InvalidError):
    """The signature does not match the signed data, or the container violates the rules for signed orders."""

    code = "BAD_SIGNATURE"


class Mismatch(InvalidError):
    """The signature is valid, but over another order.

    Attributes:
        fields: the fields that differ.
    """

    code = "ORDER_MISMATCH"
    fields = Detail[Sequence[str]](())


class UntrustedSigner(InvalidError):
    """There is no valid path from the signer's certificate to a trusted CA.

    Attributes:
        reason: why.
        serial: the certificate's serial number.
    """

    code = "SIGNER_UNTRUSTED"
    reason = Detail[str | None](None)
    serial = Detail[str | None](None)


class Revoked(InvalidError):
    """The signer's certificate was revoked.

    Attributes:
        at: time of the revocation.
        reason: reason of the revocation.
        serial: the certificate's serial number.
    """

    code = "SIGNER_REVOKED"
    at = Detail[str | None](None)
    reason = Detail[str | None](None)
    serial = Detail[str | None](None)


class Replayed(InvalidError):
    """This signed order was already accepted."""

    code = "ORDER_REPLAYED"


class NetworkError(UShieldError):
    """The bank's server could not be reached, or its response cannot be used.

    Attributes:
        url: the URL of the request.
        reason: why it failed.
    """

    code = "BANK_UNREACHABLE"
    url = Detail[str | None](None)
    reason = Detail[str | None](None)


class RequestRefused(UShieldError):
    """The reference bank refused a request; the code gives the reason.

    Attributes:
        serial: the certificate's serial number, if the request was about one.
        wait_s: seconds until the request may be repeated.
    """

    code = "REQUEST_REFUSED"
    serial = Detail[str | None](None)
    wait_s = Detail[int | None](None)


class StorageError(UShieldError):
    """The journal, the state folder or the output file could not be used. The message names what was stored, and where.

    Attributes:
        path: the file or folder.
        reason: why, for example an operating system error.
    """

    code = "STORAGE_FAILED"
    path = Detail[str | None](None)
    reason = Detail[str | None](None)


class SignedNotKept(StorageError):
    """The token has signed, but the journal could not be written.

    Attributes:
        signed_order: the ``SignedOrder``; this is the only copy. It is not in ``details``, which may be printed.
    """

    code = "SIGNED_NOT_KEPT"

    def __init__(self, signed_order: object, **details: object) -> None:
        super().__init__(None, **details)
        self.signed_order = signed_order
