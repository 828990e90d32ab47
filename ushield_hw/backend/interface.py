"""The backend interface: the operations that the library needs from a vendor module, whatever API it implements.

The first backend is PKCS#11 (:class:`ushield_hw.backend.module.Module`), in a worker process or in this process. A
backend returns plain data (:mod:`ushield_hw.backend.model`) or raises an error with a typed failure
(:class:`ushield_hw.errors.ModuleFailure`), so that no layer above depends on the return codes of one API.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

from ushield_hw.backend.model import (
    CertificateRecord,
    Contents,
    KeyRecord,
    ModuleInfo,
    ObjectClass,
    SignCall,
    SlotInfo,
    TokenInfo,
    User,
)
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.public_key import PublicKey


@dataclass(frozen=True, slots=True)
class Watch:
    """Progress callback and cancellation of one call.

    Attributes:
        began: called once, when C_Sign has been entered.
        cancelled: set it, from any thread, to stop waiting for the call.
    """

    began: Callable[[], None] = lambda: None
    cancelled: threading.Event = field(default_factory=threading.Event)


class Isolation(Enum):
    """Where a module runs.

    ``IN_PROCESS`` is a permission. The module still runs in a worker process if it was loaded in this process before a
    fork or with other arguments, or if it needs environment variables that this process does not have.
    """

    PROCESS = "process"
    IN_PROCESS = "in-process"


@dataclass(frozen=True, slots=True)
class SignOptions:
    """Timeout, cancellation and return codes of a signature that may need the user's confirmation.

    Attributes:
        codes: the meaning of the return codes of a signature, from the descriptor.
        deadline_s: timeout in seconds, including the user's time to confirm; None: the module's default.
        asks: whether the token asks the user to confirm.
        watch: progress callback and cancellation; None: neither is needed.
    """

    codes: Mapping[str, str] = field(default_factory=dict)
    deadline_s: float | None = None
    asks: bool = False
    watch: Watch | None = None


DEFAULT_OPTIONS: Final = SignOptions()


class TokenBackend(Protocol):
    """One vendor module and the tokens in its slots. Thread-safe.

    Every method except :meth:`close` raises ``DriverError`` if the module cannot be loaded, ``ModuleLost`` if it
    crashes or hangs during the call, and otherwise the error that its return code is mapped to, with ``failure`` set.
    """

    @property
    def path(self) -> Path:
        """Path of the module file."""
        ...

    @property
    def name(self) -> str:
        """Name of an instance that serves one token only, see :meth:`separate`; otherwise empty."""
        ...

    @property
    def isolation(self) -> Isolation:
        """Where the module runs."""
        ...

    @property
    def deadline_s(self) -> float:
        """Default timeout of a call, in seconds."""
        ...

    @property
    def in_this_process(self) -> TokenBackend:
        """This backend in the current process; in a forked child, an instance that is loaded again."""
        ...

    @property
    def needs_relist(self) -> bool:
        """Whether the module must be initialised again to see tokens and PINs that other processes have changed."""
        ...

    def separate(self, name: str = "") -> TokenBackend:
        """Return a separate instance of the module.

        Args:
            name: one instance is kept for each name.
        """
        ...

    def info(self) -> ModuleInfo:
        """Return the module's information (CK_INFO)."""
        ...

    def slots(self, *, deadline_s: float | None = None) -> tuple[SlotInfo, ...]:
        """Return every slot, with its token if one is present.

        Args:
            deadline_s: timeout in seconds; None: the module's default.
        """
        ...

    def token(self, slot_id: int) -> TokenInfo:
        """Return the current information and flags of a token."""
        ...

    def mechanisms(self, slot_id: int) -> tuple[str, ...]:
        """Return the names of the mechanisms that a token supports."""
        ...

    def contents(self, slot_id: int, *wanted: ObjectClass, key_id: bytes | None = None) -> Contents:
        """Return the objects on a token, and the problems with those that could not be read.

        Args:
            slot_id: the token's slot.
            *wanted: the object classes to read; none: all of them.
            key_id: the result may be limited to the objects with this CKA_ID; None: return all.
        """
        ...

    def certificates(self, slot_id: int, key_id: bytes | None = None) -> tuple[CertificateRecord, ...]:
        """Return the readable certificate objects.

        Args:
            slot_id: the token's slot.
            key_id: the result may be limited to the objects with this CKA_ID; None: return all.
        """
        ...

    def keys(self, slot_id: int, key_id: bytes | None = None) -> tuple[KeyRecord, ...]:
        """Return the readable key objects; private keys are visible only after login.

        Args:
            slot_id: the token's slot.
            key_id: the result may be limited to the objects with this CKA_ID; None: return all.
        """
        ...

    def login(self, slot_id: int, user: User, pin: str | None, *, deadline_s: float | None = None) -> int:
        """Log in, with one attempt.

        Args:
            slot_id: the token's slot.
            user: the role that logs in.
            pin: the PIN; None: it is entered on the token or reader (protected authentication path).
            deadline_s: timeout in seconds; None: the module's default.

        Returns:
            The login id.
        """
        ...

    def open_without_login(self, slot_id: int) -> int:
        """Open a token that needs no login.

        Returns:
            An id that is used as a login id.
        """
        ...

    def logged_in(self, login_id: int) -> bool:
        """Return whether a login is still valid."""
        ...

    def logout(self, login_id: int) -> None:
        """Log out."""
        ...

    def sign(self, login_id: int, call: SignCall, options: SignOptions = ...) -> bytes:
        """Sign. The token's sign function is called at most once; the call is never retried.

        Args:
            login_id: the id that :meth:`login` or :meth:`open_without_login` returned.
            call: key, mechanism and data.
            options: timeout, cancellation and the meaning of return codes.

        Returns:
            The signature as the token returned it.
        """
        ...

    def set_pin(self, slot_id: int, old: str | None, new: str | None, *, deadline_s: float | None = None) -> None:
        """Change the user PIN.

        Args:
            slot_id: the token's slot.
            old: the current PIN; None: both PINs are entered on the token or reader.
            new: the new PIN; None as for ``old``.
            deadline_s: timeout in seconds; None: the module's default.
        """
        ...

    def init_pin(self, login_id: int, new: str | None, *, deadline_s: float | None = None) -> None:
        """Set the user PIN, logged in as the SO.

        Args:
            login_id: the SO's login.
            new: the new user PIN; None: it is entered on the token or reader.
            deadline_s: timeout in seconds; None: the module's default.
        """
        ...

    def generate(
        self, login_id: int, kind: KeyKind, bits: int, key_id: bytes, label: str, *, always_authenticate: bool
    ) -> PublicKey:
        """Generate a signature key pair on the token.

        Args:
            login_id: the user's login.
            kind: type of the key.
            bits: key length in bits.
            key_id: CKA_ID of both objects.
            label: CKA_LABEL of both objects.
            always_authenticate: whether each signature needs the PIN again (CKA_ALWAYS_AUTHENTICATE).

        Returns:
            The public key.
        """
        ...

    def write_certificate(
        self, login_id: int, der: bytes, *, key_id: bytes, label: str, subject: bytes, issuer: bytes, serial: bytes
    ) -> int:
        """Write a certificate object.

        Args:
            login_id: the user's login.
            der: the certificate.
            key_id: CKA_ID of the object.
            label: CKA_LABEL of the object.
            subject: DER of the certificate's subject.
            issuer: DER of the certificate's issuer.
            serial: DER of the certificate's serial number.

        Returns:
            The object's handle.
        """
        ...

    def relabel(self, login_id: int, handle: int, label: str) -> None:
        """Change the label of an object."""
        ...

    def destroy(self, login_id: int, handle: int) -> None:
        """Delete one object from the token."""
        ...

    def close(self) -> None:
        """End every login and unload the module; the next call loads it again."""
        ...
