"""Parse one driver descriptor: the schema of ``drivers/*.toml``.

``drivers/README.md`` explains every key.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.pkcs11.ckr import NUMBERS, Outcome
from ushield_hw.drivers.family import (
    Capabilities,
    ConfirmKind,
    ConfirmSpec,
    ConfirmText,
    Discover,
    Driver,
    HashOn,
    Interface,
    Kind,
    ModuleSpec,
    Padding,
    PinEncoding,
    PinFlags,
    PinSpec,
    SignSpec,
    Unblock,
)
from ushield_hw.drivers.match import CONFIDENCE, FAMILY_ID, read_atrs, read_tokens, read_usb
from ushield_hw.errors import DescriptorError
from ushield_hw.order import DisplayProfile
from ushield_hw.schema import Table

_FILE_NAME: Final = r"[^/\\]+"
_ABSOLUTE: Final = {"linux": "/.*", "macos": "/.*", "windows": r"(%[A-Za-z0-9_()]+%|[A-Za-z]:)\\.*"}
_PLATFORM: Final = {"linux": "linux", "darwin": "macos", "win32": "windows"}.get(sys.platform, "linux")


@lru_cache(128)
def parse(file: Path, raw: bytes) -> Driver:
    """Parse one descriptor. The result is cached by file and content.

    Args:
        file: the descriptor; its stem is the family's id.
        raw: its content.

    Raises:
        DescriptorError: it is not TOML, or a key is missing, unknown or invalid; names the file and the key.
    """
    return read(file, table_of(file, raw))


def table_of(file: Path, raw: bytes) -> Mapping[str, Any]:
    """Return the TOML table of a descriptor.

    Args:
        file: the descriptor, for the error.
        raw: its content.

    Raises:
        DescriptorError: it is not TOML; names the file.
    """
    import tomllib

    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DescriptorError(file=str(file), key="", problem="not_toml", reason=str(error)) from error


def read(file: Path, data: Mapping[str, object]) -> Driver:
    """Return the driver that a descriptor's table describes.

    Args:
        file: the descriptor; its stem is the family's id.
        data: its table.

    Raises:
        DescriptorError: a key is missing, unknown or invalid; names the file and the key.
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
    """Return the module's paths on this platform from a descriptor's table ``[module]``; they may contain ``*``."""
    found = module.get(_PLATFORM, [])
    return [str(path) for path in found] if isinstance(found, list) else []


def file_name(path: str) -> str:
    """Return the last component of a path of any platform."""
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
