"""Errors of vendor modules, their descriptors and tokens. See :mod:`ushield_hw.errors`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from ushield_hw.errors.base import Detail, UShieldError


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
