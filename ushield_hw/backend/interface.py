"""What a token backend offers to the rest of the library, whichever interface the token speaks.

The first backend is PKCS#11 (:class:`ushield_hw.backend.module.Module`), in a worker process or in this one. Whatever
a module answers comes back as plain data (:mod:`ushield_hw.backend.model`) or as an error with a typed failure
(:class:`ushield_hw.errors.ModuleFailure`): nothing above knows the codes of an interface.
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
    PublicKey,
    SignCall,
    SlotInfo,
    TokenInfo,
    User,
)
from ushield_hw.crypto.algorithms import KeyKind


@dataclass(frozen=True, slots=True)
class Watch:
    """What the owner of a call wants to know of it, and do to it, while it is under way.

    Attributes:
        began: called once when C_Sign has been entered.
        cancelled: set, from any thread, by who does not want to wait any longer.
    """

    began: Callable[[], None] = lambda: None
    cancelled: threading.Event = field(default_factory=threading.Event)


class Isolation(Enum):
    """Where a module runs.

    ``IN_PROCESS`` is a permission. A module runs in a worker all the same where this process cannot have it to itself:
    it was loaded here before a fork, or with other arguments, or it needs variables that this process does not have.
    """

    PROCESS = "process"
    IN_PROCESS = "in-process"


@dataclass(frozen=True, slots=True)
class Patience:
    """How a signature that may wait for a person is waited for.

    Attributes:
        codes: the descriptor's meaning of the codes that a signature may end with.
        deadline_s: how long the token may take, the person's time to confirm included; None: as any call.
        asks: the token asks a person.
        watch: told when C_Sign has begun, and able to end the wait for it; None: nobody watches.
    """

    codes: Mapping[str, str] = field(default_factory=dict)
    deadline_s: float | None = None
    asks: bool = False
    watch: Watch | None = None


PATIENCE: Final = Patience()


ANOTHER: Final = "another program"
"""The holder of a card that cannot be named."""


class TokenBackend(Protocol):
    """One vendor module and the tokens in its slots. Safe to use from several threads.

    Every method but :meth:`close` raises ``DriverError`` when the module cannot be loaded, ``ModuleLost`` when it ends
    or hangs during the call, and otherwise the error that its answer stands for, with ``failure`` set.
    """

    @property
    def path(self) -> Path:
        """The module's file."""
        ...

    @property
    def name(self) -> str:
        """Of one that is there for one token only; otherwise empty."""
        ...

    @property
    def isolation(self) -> Isolation:
        """Where it runs."""
        ...

    @property
    def deadline_s(self) -> float:
        """How long a call may take that does not say otherwise."""
        ...

    @property
    def here(self) -> TokenBackend:
        """This backend for the process that runs: after a fork it is loaded anew."""
        ...

    @property
    def needs_relist(self) -> bool:
        """Whether it sees tokens and PINs that other processes have changed only after it was initialised again."""
        ...

    def apart(self, name: str = "") -> TokenBackend:
        """Return the module loaded once more, for itself."""
        ...

    def info(self) -> ModuleInfo:
        """Return what the module says of itself."""
        ...

    def slots(self, *, deadline_s: float | None = None) -> tuple[SlotInfo, ...]:
        """Return every slot, with its token where one is present."""
        ...

    def token(self, slot_id: int) -> TokenInfo:
        """Return a token's information and flags as they are now."""
        ...

    def mechanisms(self, slot_id: int) -> tuple[str, ...]:
        """Return the names of the mechanisms a token offers."""
        ...

    def contents(self, slot_id: int, *wanted: ObjectClass) -> Contents:
        """Return the objects on a token, and what could not be read."""
        ...

    def certificates(self, slot_id: int, key_id: bytes | None = None) -> tuple[CertificateRecord, ...]:
        """Return the certificate objects that can be read; at least those with ``key_id``, where that is known."""
        ...

    def keys(self, slot_id: int, key_id: bytes | None = None) -> tuple[KeyRecord, ...]:
        """Return the key objects that can be read; at least those with ``key_id``, where that is known."""
        ...

    def login(self, slot_id: int, user: User, pin: str | None, *, deadline_s: float | None = None) -> int:
        """Log in once; return the login's id. ``pin`` None: the token asks for it itself."""
        ...

    def attend(self, slot_id: int) -> int:
        """Hold a token that needs no login; return what stands for a login's id."""
        ...

    def logged_in(self, login_id: int) -> bool:
        """Tell whether a login still stands."""
        ...

    def logout(self, login_id: int) -> None:
        """End a login."""
        ...

    def sign(self, login_id: int, call: SignCall, patience: Patience = ...) -> bytes:
        """Sign; the token is asked at most once."""
        ...

    def set_pin(self, slot_id: int, old: str | None, new: str | None, *, deadline_s: float | None = None) -> None:
        """Change the user PIN. PINs None: the token asks for both itself."""
        ...

    def init_pin(self, login_id: int, new: str | None, *, deadline_s: float | None = None) -> None:
        """Set the user PIN as the SO. ``new`` None: the token asks for it itself."""
        ...

    def generate(
        self, login_id: int, kind: KeyKind, bits: int, key_id: bytes, label: str, *, always_authenticate: bool
    ) -> PublicKey:
        """Make a signature key pair on the token."""
        ...

    def write_certificate(
        self, login_id: int, der: bytes, *, key_id: bytes, label: str, subject: bytes, issuer: bytes, serial: bytes
    ) -> int:
        """Write a certificate; return its handle."""
        ...

    def relabel(self, login_id: int, handle: int, label: str) -> None:
        """Give an object another label."""
        ...

    def destroy(self, login_id: int, handle: int) -> None:
        """Remove one object from the token."""
        ...

    def close(self) -> None:
        """End every login and let the module go; the next call loads it again."""
        ...
