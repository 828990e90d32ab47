"""One driver descriptor: the schema of ``drivers/*.toml``, read and checked key by key.

``drivers/README.md`` explains every key.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from glob import glob
from itertools import chain
from pathlib import Path
from typing import Any, Final

from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ModuleOptions
from ushield_hw.backend.pkcs11.ckr import NUMBERS, Outcome
from ushield_hw.drivers.match import CONFIDENCE, FAMILY_ID, Atr, TokenPattern, UsbId, read_atrs, read_tokens, read_usb
from ushield_hw.errors import DescriptorError
from ushield_hw.order import DisplayProfile
from ushield_hw.schema import Table

_FILE_NAME: Final = r"[^/\\]+"
_ABSOLUTE: Final = {"linux": "/.*", "macos": "/.*", "windows": r"(%[A-Za-z0-9_()]+%|[A-Za-z]:)\\.*"}
_PLATFORM: Final = {"linux": "linux", "darwin": "macos", "win32": "windows"}.get(sys.platform, "linux")


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


@lru_cache(128)
def parse(file: Path, raw: bytes) -> Driver:
    """Read one descriptor; what was read once is remembered with its bytes.

    Raises:
        DescriptorError: it is not TOML, or a key is missing, unknown or wrong; names the file and the key.
    """
    return read(file, table_of(file, raw))


def table_of(file: Path, raw: bytes) -> Mapping[str, Any]:
    """Return what a descriptor holds.

    Raises:
        DescriptorError: it is not TOML; names the file.
    """
    import tomllib

    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DescriptorError(file=str(file), key="", problem="not_toml", reason=str(error)) from error


def read(file: Path, data: Mapping[str, object]) -> Driver:
    """Return what a descriptor's table says.

    Args:
        file: the descriptor; its stem is the family's id.
        data: what it holds.

    Raises:
        DescriptorError: a key is missing, unknown or wrong; names the file and the key.
    """

    def refuse(*, key: str, problem: str, **values: object) -> DescriptorError:
        return DescriptorError(file=str(file), key=key, problem=problem, **values)

    table = Table(data, refuse)
    driver = _driver(file, table)
    table.close()
    if driver.id != file.stem:
        table.fail("id", "not_the_file_name", expected=file.stem)
    return driver


def _driver(file: Path, table: Table) -> Driver:
    match = table.table("match")
    driver = Driver(
        id=table.text("id", pattern=FAMILY_ID),
        vendor=table.text("vendor"),
        product=table.text("product"),
        file=file,
        kind=table.choice("kind", Kind),
        interface=table.choice("interface", Interface),
        transport=table.text("transport", ""),
        bank_token=table.boolean("bank_token", False),
        module=_module(table.table("module")),
        confirm=_confirm(table.table("confirm")),
        pin=_pin(table.table("pin")),
        sign=_sign(table.table("sign")),
        display=_display(table.table("display")),
        capabilities=_capabilities(table.table("capabilities")),
        usb=read_usb(match),
        atrs=read_atrs(match),
        tokens=read_tokens(match),
        proven_with=table.texts("proven_with", ()),
        notes=table.texts("notes", ()),
        sources=table.texts("sources"),
        confidence=table.text("confidence", pattern=CONFIDENCE),
    )
    match.close()
    return driver


def _module(table: Table) -> ModuleSpec:
    default = ModuleSpec()
    config = table.table("config")
    everywhere = {name: table.texts(name, ()) for name in ("linux", "macos", "windows")}
    spec = ModuleSpec(
        paths=everywhere[_PLATFORM],
        isolation=table.choice("isolation", Isolation, default.isolation),
        discover=table.choice("discover", Discover, default.discover),
        deadline_s=table.integer("deadline_s", default.deadline_s, least=1, most=600),
        relist=table.boolean("relist", default.relist),
        general=table.boolean("general", default.general),
        via=table.text("via", None, pattern=FAMILY_ID),
        also_via=table.texts("also_via", (), pattern=FAMILY_ID),
        names=table.texts("names", (), pattern=_FILE_NAME) + tuple(map(file_name, chain(*everywhere.values()))),
        skf=table.texts("skf", (), pattern=_FILE_NAME),
        config_env=config.text("env", None, pattern="[A-Z][A-Z0-9_]*"),
        config_template=config.text("template", None),
        config_adds=config.text("adds", None),
        config_leaves_out=config.text("leaves_out", None),
        config_extends=config.texts("extends", ()),
        config_unless=config.regular("unless"),
        init_reserved=config.text("init_reserved", None),
        one_at_a_time=table.boolean("one_at_a_time", default.one_at_a_time),
        renew_when_refused=table.boolean("renew_when_refused", default.renew_when_refused),
        no_false_usage=table.boolean("no_false_usage", default.no_false_usage),
        services=table.texts("services", (), pattern=_FILE_NAME),
    )
    for platform, paths in everywhere.items():
        for number, path in enumerate(paths):
            if not re.fullmatch(_ABSOLUTE[platform], path):
                table.fail(f"{platform}[{number}]", "path_relative", path=path)
    if spec.via is not None and any(everywhere.values()):
        table.fail("via", "via_and_paths")
    if spec.config_adds is not None and spec.config_env is None:
        config.fail("adds", "needs_env")
    config.close()
    table.close()
    return spec


def platform_paths(module: Mapping[str, object]) -> list[str]:
    """Return the module's paths on this platform, with ``*``, from a descriptor's table ``[module]``."""
    found = module.get(_PLATFORM, [])
    return [str(path) for path in found] if isinstance(found, list) else []


def file_name(path: str) -> str:
    """Return the last part of a path of any platform."""
    return path.replace("\\", "/").rpartition("/")[2]


def _confirm(table: Table) -> ConfirmSpec:
    default = ConfirmSpec()
    spec = ConfirmSpec(
        kind=table.choice("kind", ConfirmKind, default.kind),
        text=table.choice("text", ConfirmText, default.text),
        timeout_s=table.integer("timeout_s", default.timeout_s, least=1, most=3600),
        codes=table.strings("codes"),
    )
    outcomes = [outcome.value for outcome in Outcome]
    for name, outcome in spec.codes.items():
        if name.removeprefix("CKR_") not in NUMBERS and not name.startswith(("CKR_0x", "CKR_VENDOR_DEFINED+0x")):
            table.fail(f"codes.{name}", "not_a_ckr")
        if outcome not in outcomes:
            table.fail(f"codes.{name}", "not_a_choice", allowed=" | ".join(outcomes))
    if spec.text is ConfirmText.MESSAGE and spec.kind is not ConfirmKind.DISPLAY:
        table.fail("text", "needs_display")
    table.close()
    return spec


def _pin(table: Table) -> PinSpec:
    default = PinSpec()
    unblock = table.table("unblock")
    spec = PinSpec(
        flags=table.choice("flags", PinFlags, default.flags),
        policy_tries=table.integer("policy_tries", None, least=1, most=100),
        min_length=table.integer("min_length", None, least=1, most=255),
        max_length=table.integer("max_length", None, least=1, most=255),
        unblock=unblock.choice("via", Unblock, default.unblock),
        login_to_change=table.boolean("login_to_change", default.login_to_change),
        encoding=table.choice("encoding", PinEncoding, default.encoding),
    )
    unblock.close()
    table.close()
    return spec


def _sign(table: Table) -> SignSpec:
    default = SignSpec()
    spec = SignSpec(
        hash_on=table.choice("hash_on", HashOn, default.hash_on),
        padding=table.choice("rsa_padding", Padding, default.padding),
        always_authenticate=table.boolean("always_authenticate", default.always_authenticate),
    )
    table.close()
    return spec


def _display(table: Table) -> DisplayProfile:
    profile = DisplayProfile(
        format=table.text("format", "jcs", pattern=FAMILY_ID),
        max_text=table.integer("max_text", None, least=1, most=140),
        columns=table.integer("columns", None, least=8, most=200),
        rows=table.integer("rows", None, least=1, most=100),
    )
    table.close()
    return profile


def _capabilities(table: Table) -> Capabilities:
    default = Capabilities()
    found = Capabilities(
        generate=table.boolean("generate", default.generate),
        write_certificate=table.boolean("write_certificate", default.write_certificate),
        full=table.texts("full", default.full, pattern=r"CKR_[A-Z0-9_]+"),
        public_certificates=table.boolean("public_certificates", default.public_certificates),
    )
    table.close()
    return found
