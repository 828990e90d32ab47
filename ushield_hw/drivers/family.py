"""A token family: the properties of its tokens, and the paths of its module."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from glob import glob
from pathlib import Path

from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ModuleOptions
from ushield_hw.drivers.match import Atr, TokenPattern, UsbId
from ushield_hw.order import DisplayProfile


class Interface(Enum):
    """API of the vendor's library. Only PKCS#11 is supported."""

    PKCS11 = "pkcs11"
    SKF = "skf"
    CSP = "csp"


class Kind(Enum):
    """Type of device that the module gives access to."""

    TOKEN = "token"  # noqa: S105
    SOFTWARE = "software"
    HSM = "hsm"
    PLATFORM = "platform"  # a TPM, or part of the operating system
    AGGREGATOR = "aggregator"  # gives access to other modules' tokens
    DIAGNOSTIC = "diagnostic"  # wraps another module


class Discover(Enum):
    """When the module is loaded."""

    ALWAYS = "always"  # whenever tokens are enumerated
    NAMED = "named"  # only if a URI's module-path names it


class ConfirmKind(Enum):
    """How the token asks the user to confirm before it signs."""

    NONE = "none"
    TOUCH = "touch"
    BUTTON = "button"
    DISPLAY = "display"
    PINPAD = "pinpad"


class ConfirmText(Enum):
    """Where the order is displayed."""

    HOST = "host"
    MESSAGE = "message"  # the token parses the message that it signs and displays it


class PinFlags(Enum):
    """How reliable the token's CKF_USER_PIN_* flags are."""

    TRUSTED = "trusted"  # set and cleared as the standard requires
    PARTIAL = "partial"  # a flag that is set is correct; one that is not set has no meaning
    NONE = "none"


class PinEncoding(Enum):
    """Encoding, and therefore allowed characters, of a PIN."""

    ASCII = "ascii"
    UTF_8 = "utf-8"


class Unblock(Enum):
    """How a locked PIN is unblocked."""

    SO_INIT_PIN = "so-init-pin"
    SET_PIN_UNLOGGED = "set-pin-unlogged"  # C_SetPIN(PUK, new) in a session without login
    NONE = "none"


class HashOn(Enum):
    """Where the message is hashed."""

    HOST = "host"
    TOKEN = "token"  # noqa: S105


class Padding(Enum):
    """Padding of RSA signatures."""

    PKCS1 = "pkcs1"
    PSS = "pss"


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """Paths and settings of the module.

    Attributes:
        paths: candidate paths on this platform; may contain ``*``.
        isolation: in a worker process or in this process.
        discover: when it is loaded.
        deadline_s: timeout of a call in seconds.
        relist: it must be re-initialised to see tokens and PINs that other processes changed.
        general: it supports many families; a family's own module is preferred.
        via: id of the descriptor whose module this family uses; its own ``paths`` are empty then.
        also_via: ids of other descriptors whose modules also support this family's tokens.
        names: PKCS#11 file names on all platforms; may contain ``*``. Used to recognise a file.
        skf: file names of its GM/T 0016 libraries, which are never loaded.
        config_env: environment variable that names its configuration file.
        config_template: template of that file, shipped with the descriptors.
        config_adds: text that is appended to the module's own configuration, in a copy for the worker process only.
        config_leaves_out: the line that makes the module ignore readers; ``{readers}`` stands for their quoted names.
            It replaces ``{left_out}`` in ``config_adds``.
        config_extends: candidate paths of the module's own configuration; the first existing one is used.
        config_unless: a regular expression; if the module's own configuration matches it, nothing is appended.
        init_reserved: a string for C_Initialize.
        one_at_a_time: it is initialised without locking, and calls are serialised.
        renew_when_refused: it holds the token exclusively after a failed login, and is re-initialised then.
        no_false_usage: it refuses a new key's template with usage attributes that are false (``CKA_DECRYPT`` false).
        services: process names of the programs that must be running for it.
    """

    paths: tuple[str, ...] = ()
    isolation: Isolation = Isolation.PROCESS
    discover: Discover = Discover.ALWAYS
    deadline_s: int = 30
    relist: bool = False
    general: bool = False
    via: str | None = None
    also_via: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    skf: tuple[str, ...] = ()
    config_env: str | None = None
    config_template: str | None = None
    config_adds: str | None = None
    config_leaves_out: str | None = None
    config_extends: tuple[str, ...] = ()
    config_unless: str | None = None
    init_reserved: str | None = None
    one_at_a_time: bool = False
    renew_when_refused: bool = False
    no_false_usage: bool = False
    services: tuple[str, ...] = ()

    @property
    def options(self) -> ModuleOptions:
        """The options for the backend."""
        return ModuleOptions(
            self.relist, self.init_reserved, self.one_at_a_time, self.renew_when_refused, self.no_false_usage
        )


@dataclass(frozen=True, slots=True)
class ConfirmSpec:
    """Confirmation on the token.

    Attributes:
        kind: how the token asks the user.
        text: where the order is displayed.
        timeout_s: how long the token waits, in seconds.
        codes: CKR name returned by C_Sign -> outcome.
    """

    kind: ConfirmKind = ConfirmKind.NONE
    text: ConfirmText = ConfirmText.HOST
    timeout_s: int = 60
    codes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PinSpec:
    """Properties of the PIN.

    Attributes:
        flags: how reliable the token's flags are.
        policy_tries: attempts that this host allows on a token that never locks; None: the token counts.
        min_length: shortest PIN in bytes, if the token does not report it.
        max_length: longest PIN in bytes, if the token does not report it.
        unblock: how a new PIN is set without the old one.
        login_to_change: C_SetPIN checks the old PIN only in a session with login.
        encoding: with ``ascii``, a PIN with other characters is refused without sending it to the token.
    """

    flags: PinFlags = PinFlags.NONE
    policy_tries: int | None = None
    min_length: int | None = None
    max_length: int | None = None
    unblock: Unblock = Unblock.NONE
    login_to_change: bool = False
    encoding: PinEncoding = PinEncoding.ASCII


@dataclass(frozen=True, slots=True)
class SignSpec:
    """Properties of signatures.

    Attributes:
        hash_on: where the message is hashed.
        padding: padding of RSA signatures.
        always_authenticate: new keys need the PIN for each signature.
    """

    hash_on: HashOn = HashOn.HOST
    padding: Padding = Padding.PKCS1
    always_authenticate: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Operations that the token supports through its module.

    Attributes:
        generate: it can generate keys.
        write_certificate: it can store certificates.
        full: CKR names that mean, while an object is written, that the token has no free memory.
        public_certificates: all certificates are visible without login, so one that is not visible does not exist.
    """

    generate: bool = True
    write_certificate: bool = True
    full: tuple[str, ...] = ()
    public_certificates: bool = False


@dataclass(frozen=True, slots=True)
class Driver:
    """One token family, as its descriptor describes it."""

    id: str
    vendor: str
    product: str
    file: Path
    kind: Kind = Kind.TOKEN
    interface: Interface = Interface.PKCS11
    transport: str = ""
    bank_token: bool = False
    module: ModuleSpec = field(default_factory=ModuleSpec)
    confirm: ConfirmSpec = field(default_factory=ConfirmSpec)
    pin: PinSpec = field(default_factory=PinSpec)
    sign: SignSpec = field(default_factory=SignSpec)
    display: DisplayProfile = field(default_factory=DisplayProfile)
    capabilities: Capabilities = field(default_factory=Capabilities)
    usb: tuple[UsbId, ...] = ()
    atrs: tuple[Atr, ...] = ()
    tokens: tuple[TokenPattern, ...] = ()
    proven_with: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    confidence: str = "low"
    consented: bool = True
    """Whether the descriptor is trusted about the user's confirmation: it is the package's own, or the administrator
    lists the family."""

    @property
    def by_pcsc(self) -> bool:
        """Whether its tokens are accessible only through PC/SC, so that its module needs a PC/SC service that works."""
        past = any(usb.binding.past_pcsc for usb in self.usb)
        return self.kind is Kind.TOKEN and self.transport in {"pcsc", "ccid"} and not past

    def module_files(self) -> list[Path]:
        """Return the existing module files, best first, without duplicates.

        Vendors ship modules for several architectures: if there is one for this process, the others are omitted.
        """
        if self.interface is not Interface.PKCS11:
            return []
        found = (Path(path) for pattern in self.module.paths for path in candidates(pattern))
        files = list({path.resolve(): path for path in reversed(list(found)) if path.is_file()}.values())[::-1]
        return [file for file in files if _is_ours(file)] or files

    def __repr__(self) -> str:
        return f"<Driver {self.id!r}>"


def limited(driver: Driver) -> Driver:
    """Return a driver with the restrictions for descriptors outside the package without the administrator's consent.

    Its module runs in a worker process, without the additions to its configuration (which may name files to write) and
    without the string for C_Initialize. The confirmation that it declares is not stated in a signature, and it cannot
    declare that the token displays the signed message.

    Args:
        driver: the driver.
    """
    module = replace(driver.module, isolation=Isolation.PROCESS, config_adds=None, init_reserved=None)
    return replace(driver, module=module, consented=False)


def needs_consent(driver: Driver) -> bool:
    """Return whether a descriptor has settings that apply only with the administrator's consent.

    Args:
        driver: the driver.
    """
    return limited(driver).module != driver.module or driver.confirm.kind is not ConfirmKind.NONE


def _is_ours(file: Path) -> bool:
    """Return whether a module has the word size of this process; True if it is not ELF or cannot be read."""
    try:
        with file.open("rb") as opened:
            head = opened.read(5)
    except OSError:
        return True
    return not head.startswith(b"\x7fELF") or head[4:] == (b"\x02" if sys.maxsize > 2**32 else b"\x01")


def candidates(pattern: str) -> Sequence[str]:
    """Return the paths on this system that a pattern may match, sorted. A returned path need not exist.

    Args:
        pattern: a path; may contain ``*``.
    """
    head, star, tail = pattern.partition("*")
    if not star:
        return (pattern,)
    name, slash, rest = tail.partition("/")
    if not slash or "*" in rest:
        return sorted(glob(pattern))
    return [f"{folder}/{rest}" for folder in _folders(f"{head}*{name}")]


def _folders(pattern: str) -> tuple[str, ...]:
    """Return the folders that a pattern matches; cached, because a hundred descriptors use the same few patterns."""
    try:
        changed = os.stat(os.path.dirname(pattern)).st_mtime_ns
    except OSError:
        return ()
    return _listed(pattern, changed)


@lru_cache(64)
def _listed(pattern: str, changed: int) -> tuple[str, ...]:
    return tuple(sorted(glob(pattern)))
