"""Every exception of the library. Each knows its code, its sentence in zh and en, and what to do about it.

::

    UShieldError             .code .message .remedy .details
      InputError             an order, certificate, config or other file is wrong; names the place
      DriverError
        DriverNotFound       .searched
        DriverLoadError      .path .reason
        DriverUntrusted      .path .reason
        DescriptorError      .file .key
      TokenError             the token answered with an error (.ckr), or:
        TokenNotFound        .findings
        TokenMultiple        .candidates
        TokenRemoved
        TokenNotInitialized
        TokenBusy            .holder
        KeyGone
        TokenFull
        ModuleMisbehaves     .key_id
      PinError
        PinIncorrect         .state
        PinLocked            .unblock
        PinFormatError       .min .max
        PinChangeRequired
        LastTryNotConfirmed  .state
        PinCancelled         nobody gave a PIN
      CertificateError
        CertificateNotFound
        CertificateMultiple  .candidates
        CertificateExpired   .not_after
        KeyMismatch
        AlreadySigned        .tx_id .certificate .token
        RenewalRejected
        KeyGenerationUnavailable
      ConfirmationError
        ConfirmationRejected
        ConfirmationCancelled
        ConfirmationTimedOut .waited_s
        OutcomeUnknown       .tx_id
      VerificationError      could not be checked
        InvalidError         checked, and wrong
          BadSignature
          Mismatch
          UntrustedSigner
          Revoked
          Replayed
      NetworkError           the bank's server could not be reached, or gave no answer to be used
      RequestRefused         what the reference bank answers to a request that it will not grant
      StorageError           journal, state or output; says what was kept where
        SignedNotKept        .signed_order

None of them is a ``ValueError``: what a token or a person did is not a programming mistake.
"""

from __future__ import annotations

from enum import Enum

from ushield_hw import messages


class UShieldError(Exception):
    """Root of the tree.

    Args:
        code: what happened, in capitals: the key of the sentence and the remedy in ``messages``. A class that stands
            for one thing has its own.
        **details: facts for a program, each also an attribute. Never a PIN.
    """

    code: str = "INTERNAL"

    def __init__(self, code: str | None = None, /, **details: object) -> None:
        self.code = code or type(self).code
        self.details = details
        super().__init__(self.code)

    def __getattr__(self, name: str) -> object:
        try:
            return self.__dict__["details"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name!r}") from None

    @property
    def message(self) -> str:
        """One sentence, in the language in force."""
        return messages.text(self.code, **self._values())

    @property
    def remedy(self) -> str:
        """What to do about it, in the language in force."""
        own = f"problem.{self.details.get('problem')}.remedy"  # where one code stands for problems of several kinds
        return messages.text(own if messages.known(own) else f"{self.code}.remedy", **self._values())

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> dict[str, object]:
        """Return the error document that ``--json`` prints (design 3.1)."""
        details = {name: jsonable(value) for name, value in self.details.items()}
        return {"code": self.code, "message": self.message, "remedy": self.remedy, "details": details}

    def _values(self) -> dict[str, object]:
        values = {name: _worded(name, value) for name, value in self.details.items()}
        if "problem" in values:  # a short id with a text of its own
            values["problem"] = messages.text(f"problem.{values.pop('problem')}", **values)
        return values


def _worded(name: str, value: object) -> object:
    """Return a detail as it is put into a sentence."""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or messages.text("nothing")
    if name in {"reason", "why"} and messages.known(f"os.{value}"):  # the operating system speaks English
        return messages.text(f"os.{value}")
    if name == "holder" and messages.known(f"holder.{value}"):  # one that has no name
        return messages.text(f"holder.{value}")
    return value


def jsonable(value: object) -> object:
    """Return ``value`` as JSON can hold it: dataclasses and mappings as objects, enums and paths as strings."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, frozenset, set)):
        return [jsonable(item) for item in value]
    to_json = getattr(value, "to_json", None)
    return jsonable(to_json()) if to_json else str(value)


class InputError(UShieldError):
    """An order, descriptor, certificate or config file is wrong. ``details`` names the place."""

    code = "INPUT_INVALID"


class DriverError(UShieldError):
    """The PKCS#11 module or its descriptor."""

    code = "DRIVER_FAILED"


class DriverNotFound(DriverError):
    """No module file to load. ``.searched``: the paths that were looked at."""

    code = "DRIVER_NOT_FOUND"


class DriverLoadError(DriverError):
    """The module cannot be loaded or initialised. ``.path``, ``.reason``."""

    code = "DRIVER_LOAD_FAILED"


class DriverUntrusted(DriverError):
    """Somebody else could change the module file. ``.path``, ``.reason``."""

    code = "DRIVER_UNTRUSTED"


class DescriptorError(DriverError):
    """A driver descriptor is wrong. ``.file``, ``.key``, ``.problem``."""

    code = "DESCRIPTOR_INVALID"


class TokenError(UShieldError):
    """The token or its module answered with an error. ``.ckr``: the return value's name, ``.function``."""

    code = "TOKEN_FAILED"


class TokenNotFound(TokenError):
    """No token matches. ``.findings``: what was found instead."""

    code = "TOKEN_NOT_FOUND"


class TokenMultiple(TokenError):
    """Several tokens match. ``.candidates``: their URIs."""

    code = "TOKEN_MULTIPLE"


class TokenRemoved(TokenError):
    """The token was pulled out."""

    code = "TOKEN_REMOVED"


class TokenNotInitialized(TokenError):
    """The token, or its user PIN, was never set up."""

    code = "TOKEN_NOT_INITIALIZED"


class TokenBusy(TokenError):
    """Somebody else holds the token. ``.holder``."""

    code = "TOKEN_BUSY"


class KeyGone(TokenError):
    """The key was removed from the token, by another program, since it was found. Nothing was signed."""

    code = "KEY_GONE"


class TokenFull(TokenError):
    """No memory left on the token."""

    code = "TOKEN_FULL"


class ModuleMisbehaves(TokenError):
    """The token returned a signature that is not by the key it was asked of; it was thrown away. ``.key_id``."""

    code = "MODULE_MISBEHAVES"


class PinError(UShieldError):
    """The PIN."""

    code = "PIN_FAILED"


class PinIncorrect(PinError):
    """The PIN was wrong, and the try is spent. ``.state``: what is left."""

    code = "PIN_INCORRECT"


class PinLocked(PinError):
    """No try is left. ``.unblock``: how this token is unblocked."""

    code = "PIN_LOCKED"


class PinFormatError(PinError):
    """The PIN cannot be right: its length or characters. No try was spent. ``.min``, ``.max``."""

    code = "PIN_FORMAT"


class PinChangeRequired(PinError):
    """The PIN must be changed before it can be used."""

    code = "PIN_CHANGE_REQUIRED"


class LastTryNotConfirmed(PinError):
    """One try is left and nobody agreed to use it. No try was spent. ``.state``."""

    code = "LAST_TRY_NOT_CONFIRMED"


class PinCancelled(PinError):
    """A PIN was needed and none was given. No try was spent."""

    code = "PIN_CANCELLED"


class CertificateError(UShieldError):
    """A certificate or its key."""

    code = "CERTIFICATE_FAILED"


class CertificateNotFound(CertificateError):
    """No key with a certificate that fits the job."""

    code = "CERTIFICATE_NOT_FOUND"


class CertificateMultiple(CertificateError):
    """Several keys fit the job. ``.candidates``."""

    code = "CERTIFICATE_MULTIPLE"


class CertificateExpired(CertificateError):
    """The certificate's time is over or has not begun. ``.not_after``."""

    code = "CERTIFICATE_EXPIRED"


class KeyMismatch(CertificateError):
    """The certificate belongs to another key."""

    code = "KEY_MISMATCH"


class AlreadySigned(CertificateError):
    """This person has signed the order before, with another token or certificate. ``.tx_id``, ``.certificate``."""

    code = "ALREADY_SIGNED"


class RenewalRejected(CertificateError):
    """The bank's CA refused the renewal."""

    code = "RENEWAL_REJECTED"


class KeyGenerationUnavailable(CertificateError):
    """The token cannot make keys through PKCS#11."""

    code = "KEY_GENERATION_UNAVAILABLE"


class ConfirmationError(UShieldError):
    """The person's yes to an order did not come."""

    code = "CONFIRMATION_FAILED"


class ConfirmationRejected(ConfirmationError):
    """Refused by the person, on the token or on the host. Nothing was signed."""

    code = "CONFIRMATION_REJECTED"


class ConfirmationCancelled(ConfirmationError):
    """Cancelled on the host before the token signed. Nothing was signed."""

    code = "CONFIRMATION_CANCELLED"


class ConfirmationTimedOut(ConfirmationError):
    """Nobody answered in time. Nothing was signed. ``.waited_s``: seconds."""

    code = "CONFIRMATION_TIMED_OUT"


class OutcomeUnknown(ConfirmationError):
    """The token may have signed. Ask the bank; do not sign again. ``.tx_id``."""

    code = "OUTCOME_UNKNOWN"


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
    """A genuine signature over another order. ``.fields``: what differs."""

    code = "ORDER_MISMATCH"


class UntrustedSigner(InvalidError):
    """No valid path from the signer's certificate to a trusted CA. ``.reason``."""

    code = "SIGNER_UNTRUSTED"


class Revoked(InvalidError):
    """The signer's certificate was revoked. ``.at``."""

    code = "SIGNER_REVOKED"


class Replayed(InvalidError):
    """This signed order was accepted before."""

    code = "ORDER_REPLAYED"


class NetworkError(UShieldError):
    """The bank's server could not be reached, or gave no answer that can be used. ``.url``."""

    code = "BANK_UNREACHABLE"


class RequestRefused(UShieldError):
    """The reference bank will not do what was asked; the code says why."""

    code = "REQUEST_REFUSED"


class StorageError(UShieldError):
    """The journal, the state folder or the output file. ``.path``; says what was kept where."""

    code = "STORAGE_FAILED"


class SignedNotKept(StorageError):
    """The token has signed, but the journal could not be written.

    Attributes:
        signed_order: the ``SignedOrder``: the only copy there is. Not among the details, which may be printed.
    """

    code = "SIGNED_NOT_KEPT"

    def __init__(self, signed_order: object, **details: object) -> None:
        super().__init__(None, **details)
        self.signed_order = signed_order
