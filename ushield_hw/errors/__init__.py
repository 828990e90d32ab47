"""All exceptions of the library. Each has a code, a message in Chinese and English, and a remedy.

::

    UShieldError             .code .message .remedy .details .failure
      InputError             an order, certificate, config or other file is invalid; .file .argument .place .key
      DriverError            .path .reason
        DriverNotFound       .searched
        DriverLoadError      .how
        DriverUntrusted
        DescriptorError      .file .key
      TokenError             the token returned an error (.ckr .function .serial), or:
        TokenNotFound        .wanted .findings
        TokenMultiple        .candidates
        TokenRemoved
        TokenNotInitialized
        TokenBusy            .holder .readers
        SoftTokenNotWritten
        LoginEnded
        KeyGone
        TokenFull
        ModuleLost           .path .detail
          ModuleHung
        ModuleMisbehaves     .key_id
      PinError               .ckr .function .serial
        PinIncorrect         .state
        PinLocked            .state .unblock
        PinFormatError       .min .max
        PinChangeRequired
        LastTryNotConfirmed  .state
        PinCancelled         a PIN was required and none was given
      CertificateError       .serial .key_id .subject
        CertificateNotFound  .candidates .left_out
        CertificateMultiple  .candidates
        CertificateExpired   .not_before .not_after
        KeyMismatch
        AlreadySigned        .tx_id .certificate .token
        RenewalRejected
        KeyGenerationUnavailable
      ConfirmationError      .tx_id
        ConfirmationRejected
        ConfirmationCancelled
        ConfirmationTimedOut .waited_s
        OutcomeUnknown       .reason
      VerificationError      a signed order could not be verified; .problem
        InvalidError         a signed order was verified and is invalid
          BadSignature
          Mismatch           .fields
          UntrustedSigner    .reason .serial
          Revoked            .at .reason .serial
          Replayed
      NetworkError           the bank's server could not be reached, or its response cannot be used; .url .reason
      RequestRefused         the reference bank refused a request; .serial .wait_s
      StorageError           journal, state or output; the message names what was stored, and where; .path .reason
        SignedNotKept        .signed_order

None of them is a ``ValueError``: the action of a token or user is not a programming error.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from ushield_hw.errors.base import Detail, ModuleFailure, Step, Trait, UShieldError, jsonable
from ushield_hw.pin_state import PinState

__all__ = [
    "AlreadySigned",
    "BadSignature",
    "CertificateError",
    "CertificateExpired",
    "CertificateMultiple",
    "CertificateNotFound",
    "ConfirmationCancelled",
    "ConfirmationError",
    "ConfirmationRejected",
    "ConfirmationTimedOut",
    "DescriptorError",
    "Detail",
    "DriverError",
    "DriverLoadError",
    "DriverNotFound",
    "DriverUntrusted",
    "InputError",
    "InvalidError",
    "KeyGenerationUnavailable",
    "KeyGone",
    "KeyMismatch",
    "LastTryNotConfirmed",
    "LoadOutcome",
    "LoginEnded",
    "Mismatch",
    "ModuleFailure",
    "ModuleHung",
    "ModuleLost",
    "ModuleMisbehaves",
    "NetworkError",
    "OutcomeUnknown",
    "PinCancelled",
    "PinChangeRequired",
    "PinError",
    "PinFormatError",
    "PinIncorrect",
    "PinLocked",
    "RenewalRejected",
    "Replayed",
    "RequestRefused",
    "Revoked",
    "SignedNotKept",
    "SoftTokenNotWritten",
    "Step",
    "StorageError",
    "TokenBusy",
    "TokenError",
    "TokenFull",
    "TokenMultiple",
    "TokenNotFound",
    "TokenNotInitialized",
    "TokenRemoved",
    "Trait",
    "UShieldError",
    "UntrustedSigner",
    "VerificationError",
    "jsonable",
]


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


class DriverError(UShieldError):
    """The PKCS#11 module or its descriptor cannot be used.

    Attributes:
        path: the module file.
        reason: why, if known.
    """

    code = "DRIVER_FAILED"
    path = Detail[str | None](None)
    reason = Detail[str | None](None)


class DriverNotFound(DriverError):
    """The module file was not found.

    Attributes:
        searched: the paths that were checked.
    """

    code = "DRIVER_NOT_FOUND"
    searched = Detail[Sequence[str]](())


class LoadOutcome(Enum):
    """How loading a module failed. The values are message ids."""

    REFUSED = "load_refused"  # by the system's loader or the module's own initialisation
    CRASHED = "load_crashed"
    HUNG = "load_hung"
    PROXY = "load_proxy"  # not a vendor module: it loads other modules


class DriverLoadError(DriverError):
    """The module cannot be loaded or initialised."""

    code = "DRIVER_LOAD_FAILED"

    @property
    def how(self) -> LoadOutcome:
        """How loading failed."""
        return LoadOutcome(self.details.get("problem", LoadOutcome.REFUSED))


class DriverUntrusted(DriverError):
    """Another user can change the module file.

    Attributes:
        place: the file or folder with the unsafe permissions.
    """

    code = "DRIVER_UNTRUSTED"
    place = Detail[str | None](None)


class DescriptorError(DriverError):
    """A driver descriptor is invalid.

    Attributes:
        file: the descriptor file.
        key: the key in it.
    """

    code = "DESCRIPTOR_INVALID"
    key = Detail[str | None](None)


class TokenError(UShieldError):
    """The token or its module returned an error.

    Attributes:
        ckr: name of the return code.
        function: the function that returned it.
        serial: the token's serial number.
    """

    code = "TOKEN_FAILED"
    ckr = Detail[str | None](None)
    function = Detail[str | None](None)
    serial = Detail[str | None](None)


class TokenNotFound(TokenError):
    """No token matches.

    Attributes:
        wanted: what was searched for.
        findings: what was found instead.
    """

    code = "TOKEN_NOT_FOUND"
    wanted = Detail[str | None](None)
    findings = Detail[Sequence[str]](())


class TokenMultiple(TokenError):
    """Several tokens match.

    Attributes:
        candidates: their URIs.
    """

    code = "TOKEN_MULTIPLE"
    candidates = Detail[Sequence[str]](())


class TokenRemoved(TokenError):
    """The token was removed."""

    code = "TOKEN_REMOVED"


class TokenNotInitialized(TokenError):
    """The token or its user PIN is not initialised."""

    code = "TOKEN_NOT_INITIALIZED"


class TokenBusy(TokenError):
    """Another program, or this one, holds the token.

    Attributes:
        holder: the program that holds it.
        readers: the readers whose card is held.
    """

    code = "TOKEN_BUSY"
    holder = Detail[str | None](None)
    readers = Detail[Sequence[str]](())


class KeyGone(TokenError):
    """Another program deleted the key after it was selected. Nothing was signed."""

    code = "KEY_GONE"


class TokenFull(TokenError):
    """The token has no free memory."""

    code = "TOKEN_FULL"


class ModuleMisbehaves(TokenError):
    """The token returned a signature that does not verify with the requested key; it was discarded.

    Attributes:
        key_id: the requested key's CKA_ID.
    """

    code = "MODULE_MISBEHAVES"
    key_id = Detail[str | None](None)


class SoftTokenNotWritten(TokenError):
    """The module stores its tokens in files, and could not write one of them."""

    code = "SOFT_TOKEN_NOT_WRITTEN"


class LoginEnded(TokenError):
    """The session's login has ended: the token was removed, or another program has logged out."""

    code = "LOGIN_ENDED"


class ModuleLost(TokenError):
    """The module's worker process ended during a call.

    Attributes:
        path: the module file.
        detail: how the process ended.
    """

    code = "MODULE_CRASHED"
    path = Detail[str | None](None)
    detail = Detail[str | None](None)


class ModuleHung(ModuleLost):
    """The module did not return before the timeout; its worker process was killed."""

    code = "MODULE_HUNG"


class PinError(UShieldError):
    """An operation on the PIN failed.

    Attributes:
        ckr: name of the module's return code.
        function: the function that returned it.
        serial: the token's serial number.
    """

    code = "PIN_FAILED"
    ckr = Detail[str | None](None)
    function = Detail[str | None](None)
    serial = Detail[str | None](None)


class PinIncorrect(PinError):
    """The PIN was wrong; one attempt was used.

    Attributes:
        state: the attempts remaining.
    """

    code = "PIN_INCORRECT"
    state = Detail[PinState](PinState())


class PinLocked(PinError):
    """The PIN is locked: no attempts remain.

    Attributes:
        state: the state of the PIN.
        unblock: how this token is unblocked.
    """

    code = "PIN_LOCKED"
    state = Detail[PinState](PinState(locked=True))
    unblock = Detail[str | None](None)


class PinFormatError(PinError):
    """The PIN's length in bytes or its characters are invalid. No attempt was used.

    Attributes:
        min: shortest PIN in bytes.
        max: longest PIN in bytes.
    """

    code = "PIN_FORMAT"
    min = Detail[int | None](None)
    max = Detail[int | None](None)


class PinChangeRequired(PinError):
    """The PIN must be changed before it can be used."""

    code = "PIN_CHANGE_REQUIRED"


class LastTryNotConfirmed(PinError):
    """One attempt remains and the user did not agree to use it. No attempt was used.

    Attributes:
        state: the state of the PIN.
    """

    code = "LAST_TRY_NOT_CONFIRMED"
    state = Detail[PinState](PinState())


class PinCancelled(PinError):
    """A PIN was required and none was given. No attempt was used."""

    code = "PIN_CANCELLED"


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


class ConfirmationError(UShieldError):
    """The order was not confirmed.

    Attributes:
        tx_id: the order's transaction id.
        ckr: name of the module's return code.
        function: the function that returned it.
    """

    code = "CONFIRMATION_FAILED"
    tx_id = Detail[str | None](None)
    ckr = Detail[str | None](None)
    function = Detail[str | None](None)


class ConfirmationRejected(ConfirmationError):
    """The user rejected the order, on the token or on the host. Nothing was signed."""

    code = "CONFIRMATION_REJECTED"


class ConfirmationCancelled(ConfirmationError):
    """Cancelled on the host before the token signed. Nothing was signed."""

    code = "CONFIRMATION_CANCELLED"


class ConfirmationTimedOut(ConfirmationError):
    """The order was not confirmed before the timeout. Nothing was signed.

    Attributes:
        waited_s: time waited, in seconds.
    """

    code = "CONFIRMATION_TIMED_OUT"
    waited_s = Detail[float](0.0)


class OutcomeUnknown(ConfirmationError):
    """The token may have signed. Ask the bank; do not sign again.

    Attributes:
        reason: why the outcome is unknown.
    """

    code = "OUTCOME_UNKNOWN"
    reason = Detail[str | None](None)


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
