"""A token family: what is different about its tokens, and where its module may be."""

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
    """What the vendor's library speaks. Only PKCS#11 is driven."""

    PKCS11 = "pkcs11"
    SKF = "skf"
    CSP = "csp"


class Kind(Enum):
    """What stands behind the module."""

    TOKEN = "token"  # noqa: S105
    SOFTWARE = "software"
    HSM = "hsm"
    PLATFORM = "platform"  # TPM, the operating system's own
    AGGREGATOR = "aggregator"  # shows other modules' tokens
    DIAGNOSTIC = "diagnostic"  # wraps another module


class Discover(Enum):
    """When the module is loaded."""

    ALWAYS = "always"  # whenever tokens are looked for
    NAMED = "named"  # only when a URI's module-path names it


class ConfirmKind(Enum):
    """How the token asks its owner before it signs."""

    NONE = "none"
    TOUCH = "touch"
    BUTTON = "button"
    DISPLAY = "display"
    PINPAD = "pinpad"


class ConfirmText(Enum):
    """Who shows the order."""

    HOST = "host"
    MESSAGE = "message"  # the token parses the message it signs and shows it


class PinFlags(Enum):
    """How far the CKF_USER_PIN_* flags can be believed."""

    TRUSTED = "trusted"  # set and cleared as the standard says
    PARTIAL = "partial"  # a flag that is set is true; one that is clear says nothing
    NONE = "none"


class PinEncoding(Enum):
    """Which characters a PIN may have."""

    ASCII = "ascii"
    UTF_8 = "utf-8"


class Unblock(Enum):
    """How a locked PIN is unblocked."""

    SO_INIT_PIN = "so-init-pin"
    SET_PIN_UNLOGGED = "set-pin-unlogged"  # C_SetPIN(PUK, new) in a session that is not logged in
    NONE = "none"


class HashOn(Enum):
    """Where a message is hashed."""

    HOST = "host"
    TOKEN = "token"  # noqa: S105


class Padding(Enum):
    """Which RSA signature is made."""

    PKCS1 = "pkcs1"
    PSS = "pss"


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """Where the module is and how it is run.

    Attributes:
        paths: this platform's candidates; may hold ``*``.
        isolation: in a worker process or in this one.
        discover: when it is loaded.
        deadline_s: how long a call may take.
        relist: it must be re-initialised to see tokens and PINs that others changed.
        general: it drives many families; a family's own module is preferred.
        via: the descriptor whose module this family is driven by; its own ``paths`` are empty then.
        also_via: other descriptors whose modules show this family's tokens too.
        names: every PKCS#11 file name of any platform, with ``*``: for telling whose file one is.
        skf: its GM/T 0016 libraries, which are never loaded.
        config_env: the variable that names its configuration file.
        config_template: the template for that file, shipped beside the descriptors.
        config_adds: what is added to the module's own configuration, in a copy that only our worker gets.
        config_leaves_out: the line that makes the module leave readers out; ``{readers}`` are their names in quotes. It
            is put where ``config_adds`` has ``{left_out}``.
        config_extends: where that configuration of its own may lie, the first that exists counts.
        config_unless: a regular expression; where the module's own configuration has it, nothing is added.
        init_reserved: a string for C_Initialize.
        one_at_a_time: it is told to use no locks of its own, and gets one call at a time.
        renew_when_refused: it keeps the token to itself after a login that failed, and is initialised anew then.
        no_false_usage: it refuses a new key's template that says what the key is not for (``CKA_DECRYPT`` false).
        services: programs that must run for it, by the names of their processes.
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
        """How its worker must handle it."""
        return ModuleOptions(
            self.relist, self.init_reserved, self.one_at_a_time, self.renew_when_refused, self.no_false_usage
        )


@dataclass(frozen=True, slots=True)
class ConfirmSpec:
    """How the token confirms. ``codes``: CKR name -> outcome, for C_Sign."""

    kind: ConfirmKind = ConfirmKind.NONE
    text: ConfirmText = ConfirmText.HOST
    timeout_s: int = 60
    codes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PinSpec:
    """The PIN.

    Attributes:
        flags: how far the token's flags can be believed.
        policy_tries: tries this host allows on a token that never locks; None: the token counts.
        min_length: in bytes, where the token does not say.
        max_length: likewise.
        encoding: which characters a PIN may have; what is not ASCII is refused unsent unless the token takes UTF-8.
        unblock: how a new PIN is set without the old one.
        login_to_change: C_SetPIN checks the old PIN only under a login.
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
    """How signatures are made. ``always_authenticate``: new keys want the PIN for each signature."""

    hash_on: HashOn = HashOn.HOST
    padding: Padding = Padding.PKCS1
    always_authenticate: bool = False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the module can be asked to do on the token, and what it shows.

    Attributes:
        generate: it makes keys.
        write_certificate: it takes certificates.
        full: CKR names that, when an object is written, mean that the token is full.
        public_certificates: every certificate shows without a login: what is not seen then is not there.
    """

    generate: bool = True
    write_certificate: bool = True
    full: tuple[str, ...] = ()
    public_certificates: bool = False


@dataclass(frozen=True, slots=True)
class Driver:
    """One family of tokens."""

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
    """Whether its word counts on how the owner confirms: the package's own, or the administrator lists the family."""

    @property
    def by_pcsc(self) -> bool:
        """Whether its tokens come through PC/SC and no other way: without an answer there, its module gives none."""
        past = any(usb.binding.past_pcsc for usb in self.usb)
        return self.kind is Kind.TOKEN and self.transport in {"pcsc", "ccid"} and not past

    def module_files(self) -> list[Path]:
        """Return the candidate module files that exist here, best first, each file once.

        Vendors ship a module for several architectures: where one for ours is there, the others are left out.
        """
        if self.interface is not Interface.PKCS11:
            return []
        found = (Path(path) for pattern in self.module.paths for path in candidates(pattern))
        files = list({path.resolve(): path for path in reversed(list(found)) if path.is_file()}.values())[::-1]
        return [file for file in files if _is_ours(file)] or files

    def __repr__(self) -> str:
        return f"<Driver {self.id!r}>"


def limited(driver: Driver) -> Driver:
    """Return a driver as it counts where its descriptor is not the package's and the administrator has not consented.

    Its module runs in a worker, and gets neither the additions to its configuration (which may name files to write) nor
    the string for C_Initialize. What it says of the owner's confirmation is not stated in a signature, and it cannot
    have the token show what is signed.
    """
    module = replace(driver.module, isolation=Isolation.PROCESS, config_adds=None, init_reserved=None)
    return replace(driver, module=module, consented=False)


def needs_consent(driver: Driver) -> bool:
    """Tell whether a descriptor says anything that counts only with the administrator's consent."""
    return limited(driver).module != driver.module or driver.confirm.kind is not ConfirmKind.NONE


def _is_ours(file: Path) -> bool:
    """Tell whether a module can be of our word size; what is no ELF file, or cannot be read, is not judged."""
    try:
        with file.open("rb") as opened:
            head = opened.read(5)
    except OSError:
        return True
    return not head.startswith(b"\x7fELF") or head[4:] == (b"\x02" if sys.maxsize > 2**32 else b"\x01")


def candidates(pattern: str) -> Sequence[str]:
    """Return the paths that a pattern may stand for here, sorted; whether such a file is there is not said."""
    head, star, tail = pattern.partition("*")
    if not star:
        return (pattern,)
    name, slash, rest = tail.partition("/")
    if not slash or "*" in rest:
        return sorted(glob(pattern))
    return [f"{folder}/{rest}" for folder in _folders(f"{head}*{name}")]


def _folders(pattern: str) -> tuple[str, ...]:
    """Return what a pattern of folders stands for; a hundred descriptors ask for the same few."""
    try:
        changed = os.stat(os.path.dirname(pattern)).st_mtime_ns
    except OSError:
        return ()
    return _listed(pattern, changed)


@lru_cache(64)
def _listed(pattern: str, changed: int) -> tuple[str, ...]:
    return tuple(sorted(glob(pattern)))
