"""``ushield driver list|show|check|match``."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from ushield_hw import messages
from ushield_hw.cli import families, options, output
from ushield_hw.cli.help import Group
from ushield_hw.config import data_file
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.drivers.descriptor import parse
from ushield_hw.drivers.family import Driver, needs_consent
from ushield_hw.drivers.match import CHIP_MAKERS
from ushield_hw.errors import DriverNotFound, InputError
from ushield_hw.system import trust


def _catalogue() -> Catalogue:
    return Catalogue.of(options.settings())


def driver_document(driver: Driver) -> dict[str, object]:
    """Return the JSON object of a driver."""
    return {
        "id": driver.id,
        "vendor": driver.vendor,
        "product": driver.product,
        "kind": driver.kind,
        "interface": driver.interface,
        "transport": driver.transport,
        "bank_token": driver.bank_token,
        "file": str(driver.file),
        "confidence": driver.confidence,
        "proven_with": list(driver.proven_with),
        "modules": {
            "candidates": list(driver.module.paths),
            "installed": [str(path) for path in driver.module_files()],
            "isolation": driver.module.isolation,
            "discover": driver.module.discover,
            "via": driver.module.via,
            "also_via": list(driver.module.also_via),
            "names": list(driver.module.names),
            "skf": list(driver.module.skf),
        },
        "confirm": {
            "kind": driver.confirm.kind,
            "text": driver.confirm.text,
            "timeout_s": driver.confirm.timeout_s,
            "codes": dict(driver.confirm.codes),
        },
        "pin": {
            "flags": driver.pin.flags,
            "policy_tries": driver.pin.policy_tries,
            "unblock": driver.pin.unblock,
        },
        "capabilities": {
            "generate": driver.capabilities.generate,
            "write_certificate": driver.capabilities.write_certificate,
            "public_certificates": driver.capabilities.public_certificates,
        },
        "usb": [str(usb) for usb in driver.usb],
        "bindings": {str(usb): usb.binding for usb in driver.usb},
        "atrs": [atr.atr for atr in driver.atrs],
        "notes": list(driver.notes),
        "sources": list(driver.sources),
    }


@click.group("driver", cls=Group, help=messages.text("help.driver"))
def driver_command() -> None:
    """Commands for the catalogue of token families."""


@driver_command.command("list", help=messages.text("help.driver.list"))
@options.as_json()
def _list(as_json: bool) -> None:
    catalogue = _catalogue()
    if as_json:
        output.document({"drivers": [driver_document(driver) for driver in catalogue]})
    else:
        output.lines(families.listed(catalogue))


@driver_command.command("show", help=messages.text("help.driver.show"))
@click.argument("driver_id", metavar="ID")
@options.as_json()
def _show(driver_id: str, as_json: bool) -> None:
    driver = _catalogue().get(driver_id)
    if as_json:
        output.document(driver_document(driver))
    else:
        output.lines(data_file(driver.file).decode().splitlines())


@driver_command.command("check", help=messages.text("help.driver.check"))
@click.argument("file", metavar="FILE.toml", type=click.Path(path_type=Path, dir_okay=False))
@options.as_json()
def _check(file: Path, as_json: bool) -> None:
    driver, catalogue = parse(file, options.read_file(file)), _catalogue()
    families.through(driver, catalogue)  # raises if a family it refers to is unknown
    _warn_of_unsafe(file)
    consent = f'[drivers]\nconsent = ["{driver.id}"]' if needs_consent(driver) else None
    if as_json:
        output.document({"valid": True, "driver": driver_document(driver), "consent": consent})
    else:
        output.lines([messages.text("driver.valid", id=driver.id, file=file)])
        output.lines(families.matched([driver], [], catalogue))
        if consent:
            output.lines([messages.text("driver.needs_consent"), "", *consent.splitlines()])


def _warn_of_unsafe(file: Path) -> None:
    with suppress(OSError):  # the input is not a regular file
        try:
            trust.checked(file.absolute())
        except trust.Unsafe as error:
            output.note(InputError("CONFIG_UNSAFE", file=str(file), **error.details).message)


@driver_command.command("match", help=messages.text("help.driver.match"))
@click.option("--usb", metavar="VID:PID", default=None, help=options.say("usb"))
@click.option("--atr", metavar="HEX", default=None, help=options.say("atr"))
@click.option(
    "--module",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help=options.say("module"),
)
@options.as_json()
def _match(usb: str | None, atr: str | None, module: Path | None, as_json: bool) -> None:
    catalogue = _catalogue()
    if sum(value is not None for value in (usb, atr, module)) != 1:
        raise InputError("USAGE_ONE_OF", argument="--usb, --atr, --module")
    if usb is not None:
        found = _by_usb(catalogue, usb.lower())
    elif atr is not None:
        found = _by_atr(catalogue, atr)
    else:
        found = _by_module(catalogue, module or Path())
    if as_json:
        output.document({"drivers": [driver_document(one) for one in found.drivers], **found.said})
    else:
        output.lines(families.matched(found.drivers, found.remarks, catalogue))


@dataclass(frozen=True)
class _Found:
    """The matching families, additional JSON fields, and remarks for the user."""

    drivers: list[Driver]
    said: dict[str, object]
    remarks: list[str]


def _by_usb(catalogue: Catalogue, usb: str) -> _Found:
    if not re.fullmatch("[0-9a-f]{4}:[0-9a-f]{4}", usb):
        raise InputError("USAGE", argument="--usb", reason="VID:PID")
    vid, _, pid = usb.partition(":")
    drivers = catalogue.for_usb(vid, pid)
    if not drivers and vid in CHIP_MAKERS:
        raise _nothing("DRIVER_CHIP_MAKER", usb=usb, vid=vid, maker=CHIP_MAKERS[vid])
    if not drivers and (others := [driver.id for driver in catalogue.for_vendor(vid)]):
        raise _nothing("DRIVER_VENDOR_KNOWN", usb=usb, vid=vid, ids=", ".join(others))
    if not drivers:
        raise _nothing("DRIVER_NONE_MATCHES")
    rows = [row for driver in drivers for row in driver.usb if str(row) == usb]
    remarks = [*families.usb_remarks(usb, rows), *_ambiguous("usb", drivers)]
    return _Found(drivers, {"ambiguous": len(drivers) > 1, "pcsc_reader": families.reader(rows[0])}, remarks)


def _by_atr(catalogue: Catalogue, atr: str) -> _Found:
    try:
        wanted = bytes.fromhex(atr.replace(":", ""))
    except ValueError as error:
        raise InputError("USAGE", argument="--atr", reason="hex") from error
    drivers = catalogue.for_atr(wanted)
    if not drivers:
        raise _nothing("DRIVER_NONE_MATCHES")
    return _Found(drivers, {"ambiguous": len(drivers) > 1}, _ambiguous("atr", drivers))


def _by_module(catalogue: Catalogue, module: Path) -> _Found:
    owner = catalogue.for_module(module.absolute())
    drivers = [owner] if owner and module.absolute() in owner.module_files() else catalogue.naming(module.name)
    drivers = drivers or ([owner] if owner else [])
    if not drivers:
        raise _nothing("DRIVER_NONE_MATCHES")
    remarks = _ambiguous("module", drivers)
    if any(families.is_skf(driver, module.name) for driver in drivers):
        remarks.append(messages.text("driver.skf_library", file=module.name))
    if shown := [family.id for driver in drivers for family in catalogue.driven_by(driver)]:
        remarks.append(messages.text("driver.shows_too", ids=", ".join(shown)))
    return _Found(drivers, {"ambiguous": len(drivers) > 1, "shows_too": shown}, remarks)


def _ambiguous(by: str, drivers: list[Driver]) -> list[str]:
    return [messages.text(f"driver.ambiguous.{by}", n=len(drivers))] if len(drivers) > 1 else []


def _nothing(code: str, **details: object) -> DriverNotFound:
    return DriverNotFound(code, searched=[str(folder) for folder in options.settings().drivers], **details)
