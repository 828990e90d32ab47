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

from ushield_hw.errors.base import Detail, ModuleFailure, Step, Trait, UShieldError, jsonable
from ushield_hw.errors.documents import (
    AlreadySigned,
    BadSignature,
    CertificateError,
    CertificateExpired,
    CertificateMultiple,
    CertificateNotFound,
    InputError,
    InvalidError,
    KeyGenerationUnavailable,
    KeyMismatch,
    Mismatch,
    NetworkError,
    RenewalRejected,
    Replayed,
    RequestRefused,
    Revoked,
    SignedNotKept,
    StorageError,
    UntrustedSigner,
    VerificationError,
)
from ushield_hw.errors.tokens import (
    DescriptorError,
    DriverError,
    DriverLoadError,
    DriverNotFound,
    DriverUntrusted,
    KeyGone,
    LoadOutcome,
    LoginEnded,
    ModuleHung,
    ModuleLost,
    ModuleMisbehaves,
    SoftTokenNotWritten,
    TokenBusy,
    TokenError,
    TokenFull,
    TokenMultiple,
    TokenNotFound,
    TokenNotInitialized,
    TokenRemoved,
)
from ushield_hw.errors.users import (
    ConfirmationCancelled,
    ConfirmationError,
    ConfirmationRejected,
    ConfirmationTimedOut,
    LastTryNotConfirmed,
    OutcomeUnknown,
    PinCancelled,
    PinChangeRequired,
    PinError,
    PinFormatError,
    PinIncorrect,
    PinLocked,
)

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
