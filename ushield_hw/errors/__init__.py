"""Every exception of the library. Each knows its code, its sentence in zh and en, and a remedy.

::

    UShieldError             .code .message .remedy .details .failure
      InputError             an order, certificate, config or other file is wrong; .file .argument .place .key
      DriverError            .path .reason
        DriverNotFound       .searched
        DriverLoadError      .how
        DriverUntrusted
        DescriptorError      .file .key
      TokenError             the token answered with an error (.ckr .function .serial), or:
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
        PinCancelled         no PIN was given
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
      VerificationError      could not be checked; .problem
        InvalidError         checked, and wrong
          BadSignature
          Mismatch           .fields
          UntrustedSigner    .reason .serial
          Revoked            .at .reason .serial
          Replayed
      NetworkError           the bank's server could not be reached, or gave no answer that can be used; .url .reason
      RequestRefused         what the reference bank answers to a request that it does not grant; .serial .wait_s
      StorageError           journal, state or output; says what was kept where; .path .reason
        SignedNotKept        .signed_order

None of them is a ``ValueError``: what a token or a person did is not a programming mistake.
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
    """An order, descriptor, certificate or config file is wrong. ``details`` names the place."""

    code = "INPUT_INVALID"
    file = Detail[str | None](None)
    argument = Detail[str | None](None)
    attribute = Detail[str | None](None)
    place = Detail[str | None](None)
    key = Detail[str | None](None)
    reason = Detail[str | None](None)


class DriverError(UShieldError):
    """The PKCS#11 module or its descriptor."""

    code = "DRIVER_FAILED"
    path = Detail[str | None](None)
    reason = Detail[str | None](None)


class DriverNotFound(DriverError):
    """No module file to load. ``searched``: the paths that were looked at."""

    code = "DRIVER_NOT_FOUND"
    searched = Detail[Sequence[str]](())


class LoadOutcome(Enum):
    """What became of a module that was not loaded. The values are ids of texts."""

    REFUSED = "load_refused"  # by the system's loader, or by its own initialisation
    CRASHED = "load_crashed"
    HUNG = "load_hung"
    PROXY = "load_proxy"  # it is no module of its own: it loads others


class DriverLoadError(DriverError):
    """The module cannot be loaded or initialised."""

    code = "DRIVER_LOAD_FAILED"

    @property
    def how(self) -> LoadOutcome:
        """What became of the module."""
        return LoadOutcome(self.details.get("problem", LoadOutcome.REFUSED))


class DriverUntrusted(DriverError):
    """Another user could change the module file. ``place``: the file or folder that lets them."""

    code = "DRIVER_UNTRUSTED"
    place = Detail[str | None](None)


class DescriptorError(DriverError):
    """A driver descriptor is wrong."""

    code = "DESCRIPTOR_INVALID"
    file = Detail[str | None](None)
    key = Detail[str | None](None)


class TokenError(UShieldError):
    """The token or its module answered with an error. ``ckr``: the return value's name."""

    code = "TOKEN_FAILED"
    ckr = Detail[str | None](None)
    function = Detail[str | None](None)
    serial = Detail[str | None](None)


class TokenNotFound(TokenError):
    """No token matches. ``findings``: what was found instead."""

    code = "TOKEN_NOT_FOUND"
    wanted = Detail[str | None](None)
    findings = Detail[Sequence[str]](())


class TokenMultiple(TokenError):
    """Several tokens match. ``candidates``: their URIs."""

    code = "TOKEN_MULTIPLE"
    candidates = Detail[Sequence[str]](())


class TokenRemoved(TokenError):
    """The token was pulled out."""

    code = "TOKEN_REMOVED"


class TokenNotInitialized(TokenError):
    """The token, or its user PIN, was never set up."""

    code = "TOKEN_NOT_INITIALIZED"


class TokenBusy(TokenError):
    """Another program, or this one, holds the token. ``readers``: those whose card is held."""

    code = "TOKEN_BUSY"
    holder = Detail[str | None](None)
    readers = Detail[Sequence[str]](())


class KeyGone(TokenError):
    """The key was removed from the token, by another program, since it was found. Nothing was signed."""

    code = "KEY_GONE"


class TokenFull(TokenError):
    """No memory left on the token."""

    code = "TOKEN_FULL"


class ModuleMisbehaves(TokenError):
    """The token returned a signature that is not by the key it was asked of; it was discarded."""

    code = "MODULE_MISBEHAVES"
    key_id = Detail[str | None](None)


class SoftTokenNotWritten(TokenError):
    """The module keeps its tokens in files, and could not write one."""

    code = "SOFT_TOKEN_NOT_WRITTEN"


class LoginEnded(TokenError):
    """The login that this session stands on has ended: the token was removed, or another program has logged out."""

    code = "LOGIN_ENDED"


class ModuleLost(TokenError):
    """The module's process ended during a call. ``detail``: how."""

    code = "MODULE_CRASHED"
    path = Detail[str | None](None)
    detail = Detail[str | None](None)


class ModuleHung(ModuleLost):
    """The module gave no answer in time, and its process was ended."""

    code = "MODULE_HUNG"


class PinError(UShieldError):
    """The PIN."""

    code = "PIN_FAILED"
    ckr = Detail[str | None](None)
    function = Detail[str | None](None)
    serial = Detail[str | None](None)


class PinIncorrect(PinError):
    """The PIN was wrong, and the attempt is spent. ``state``: what is left."""

    code = "PIN_INCORRECT"
    state = Detail[PinState](PinState())


class PinLocked(PinError):
    """No attempt is left. ``unblock``: how this token is unblocked."""

    code = "PIN_LOCKED"
    state = Detail[PinState](PinState(locked=True))
    unblock = Detail[str | None](None)


class PinFormatError(PinError):
    """The PIN cannot be right: its length in bytes or its characters. No attempt was spent."""

    code = "PIN_FORMAT"
    min = Detail[int | None](None)
    max = Detail[int | None](None)


class PinChangeRequired(PinError):
    """The PIN must be changed before it can be used."""

    code = "PIN_CHANGE_REQUIRED"


class LastTryNotConfirmed(PinError):
    """One attempt is left and nobody agreed to use it. No attempt was spent."""

    code = "LAST_TRY_NOT_CONFIRMED"
    state = Detail[PinState](PinState())


class PinCancelled(PinError):
    """A PIN was needed and none was given. No try was spent."""

    code = "PIN_CANCELLED"


class CertificateError(UShieldError):
    """A certificate or its key."""

    code = "CERTIFICATE_FAILED"
    serial = Detail[str | None](None)
    key_id = Detail[str | None](None)
    subject = Detail[str | None](None)


class CertificateNotFound(CertificateError):
    """No key with a certificate that fits the job."""

    code = "CERTIFICATE_NOT_FOUND"
    candidates = Detail[Sequence[str]](())
    left_out = Detail[Sequence[Any]](())


class CertificateMultiple(CertificateError):
    """Several keys fit the job. ``candidates``: what tells them apart."""

    code = "CERTIFICATE_MULTIPLE"
    candidates = Detail[Sequence[str]](())


class CertificateExpired(CertificateError):
    """The certificate is not valid any more, or not yet. ``not_after``: RFC 3339."""

    code = "CERTIFICATE_EXPIRED"
    not_before = Detail[str | None](None)
    not_after = Detail[str | None](None)


class KeyMismatch(CertificateError):
    """The certificate belongs to another key."""

    code = "KEY_MISMATCH"


class AlreadySigned(CertificateError):
    """The same person has signed the order before, with another token or certificate."""

    code = "ALREADY_SIGNED"
    tx_id = Detail[str | None](None)
    certificate = Detail[str | None](None)
    token = Detail[str | None](None)


class RenewalRejected(CertificateError):
    """The bank's CA refused the renewal."""

    code = "RENEWAL_REJECTED"


class KeyGenerationUnavailable(CertificateError):
    """The token cannot make keys through PKCS#11."""

    code = "KEY_GENERATION_UNAVAILABLE"


class ConfirmationError(UShieldError):
    """The order was not confirmed."""

    code = "CONFIRMATION_FAILED"
    tx_id = Detail[str | None](None)
    ckr = Detail[str | None](None)
    function = Detail[str | None](None)


class ConfirmationRejected(ConfirmationError):
    """Refused by the person, on the token or on the host. Nothing was signed."""

    code = "CONFIRMATION_REJECTED"


class ConfirmationCancelled(ConfirmationError):
    """Cancelled on the host before the token signed. Nothing was signed."""

    code = "CONFIRMATION_CANCELLED"


class ConfirmationTimedOut(ConfirmationError):
    """The order was not confirmed in time. Nothing was signed. ``waited_s``: seconds."""

    code = "CONFIRMATION_TIMED_OUT"
    waited_s = Detail[float](0.0)


class OutcomeUnknown(ConfirmationError):
    """The token may have signed. Ask the bank; do not sign again."""

    code = "OUTCOME_UNKNOWN"
    reason = Detail[str | None](None)


class VerificationError(UShieldError):
    """A signed order could not be checked: something needed for it is missing or out of date."""

    code = "VERIFICATION_IMPOSSIBLE"


class InvalidError(VerificationError):
    """A signed order was checked and is wrong."""

    code = "SIGNED_ORDER_INVALID"


class BadSignature(InvalidError):
    """The signature does not match what it covers, or the container breaks the rules of a signed order."""

    code = "BAD_SIGNATURE"


class Mismatch(InvalidError):
    """A genuine signature over another order. ``fields``: what differs."""

    code = "ORDER_MISMATCH"
    fields = Detail[Sequence[str]](())


class UntrustedSigner(InvalidError):
    """No valid path from the signer's certificate to a trusted CA."""

    code = "SIGNER_UNTRUSTED"
    reason = Detail[str | None](None)
    serial = Detail[str | None](None)


class Revoked(InvalidError):
    """The signer's certificate was revoked."""

    code = "SIGNER_REVOKED"
    at = Detail[str | None](None)
    reason = Detail[str | None](None)
    serial = Detail[str | None](None)


class Replayed(InvalidError):
    """This signed order was accepted before."""

    code = "ORDER_REPLAYED"


class NetworkError(UShieldError):
    """The bank's server could not be reached, or gave no answer that can be used. ``.url``."""

    code = "BANK_UNREACHABLE"
    url = Detail[str | None](None)
    reason = Detail[str | None](None)


class RequestRefused(UShieldError):
    """The reference bank will not do what was asked; the code says why."""

    code = "REQUEST_REFUSED"
    serial = Detail[str | None](None)
    wait_s = Detail[int | None](None)


class StorageError(UShieldError):
    """The journal, the state folder or the output file. It says what was kept where."""

    code = "STORAGE_FAILED"
    path = Detail[str | None](None)
    reason = Detail[str | None](None)


class SignedNotKept(StorageError):
    """The token has signed, but the journal could not be written.

    Attributes:
        signed_order: the ``SignedOrder``: the only copy there is. Not among the details, which may be printed.
    """

    code = "SIGNED_NOT_KEPT"

    def __init__(self, signed_order: object, **details: object) -> None:
        super().__init__(None, **details)
        self.signed_order = signed_order
