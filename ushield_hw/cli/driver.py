"""``ushield driver list|show|check|match``."""

from __future__ import annotations

from pathlib import Path

import click

from ushield_hw import messages
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Group
from ushield_hw.drivers import Catalogue, Driver, parse
from ushield_hw.errors import DriverNotFound, InputError


def _catalogue() -> Catalogue:
    return Catalogue(options.settings().drivers)


def driver_document(driver: Driver) -> dict[str, object]:
    """Return what ``--json`` says of a driver."""
    return {
        "id": driver.id,
        "vendor": driver.vendor,
        "product": driver.product,
        "kind": driver.kind,
        "interface": driver.interface,
        "file": str(driver.file),
        "confidence": driver.confidence,
        "proven_with": list(driver.proven_with),
        "modules": {
            "candidates": list(driver.module.paths),
            "installed": [str(path) for path in driver.module_files()],
            "isolation": driver.module.isolation,
            "discover": driver.module.discover,
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
        "usb": [f"{usb.vid}:{usb.pid}" for usb in driver.usb],
        "atrs": [atr.atr for atr in driver.atrs],
        "notes": list(driver.notes),
        "sources": list(driver.sources),
    }


def _row(driver: Driver) -> str:
    state = "driver.installed" if driver.module_files() else "driver.not_installed"
    proven = messages.text("driver.proven" if driver.proven_with else "driver.known")
    return f"{driver.id:<16} {proven} · {messages.text(state)} · {driver.vendor} {driver.product}"


@click.group("driver", cls=Group, help=messages.text("help.driver"))
def driver_command() -> None:
    """The catalogue of token families."""


@driver_command.command("list", help=messages.text("help.driver.list"))
@options.as_json()
def _list(as_json: bool) -> None:
    drivers = list(_catalogue())
    if as_json:
        output.document({"drivers": [driver_document(driver) for driver in drivers]})
    else:
        output.lines(_row(driver) for driver in drivers)


@driver_command.command("show", help=messages.text("help.driver.show"))
@click.argument("driver_id", metavar="ID")
@options.as_json()
def _show(driver_id: str, as_json: bool) -> None:
    driver = _catalogue().get(driver_id)
    if as_json:
        output.document(driver_document(driver))
    else:
        output.lines(driver.file.read_text(encoding="utf-8").splitlines())


@driver_command.command("check", help=messages.text("help.driver.check"))
@click.argument("file", metavar="FILE.toml", type=click.Path(path_type=Path, dir_okay=False))
@options.as_json()
def _check(file: Path, as_json: bool) -> None:
    driver = parse(file, options.read_file(file))
    if as_json:
        output.document({"valid": True, "driver": driver_document(driver)})
    else:
        output.lines([messages.text("driver.valid", id=driver.id, file=file)])


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
    found = _matching(usb, atr, module)
    if not found:
        raise DriverNotFound("DRIVER_NONE_MATCHES", searched=[str(folder) for folder in options.settings().drivers])
    if as_json:
        output.document({"drivers": [driver_document(driver) for driver in found]})
    else:
        output.lines(_row(driver) for driver in found)


def _matching(usb: str | None, atr: str | None, module: Path | None) -> list[Driver]:
    catalogue = _catalogue()
    if sum(value is not None for value in (usb, atr, module)) != 1:
        raise InputError("USAGE_ONE_OF", argument="--usb, --atr, --module")
    if usb is not None:
        vid, colon, pid = usb.partition(":")
        if not colon:
            raise InputError("USAGE", argument="--usb", reason="VID:PID")
        return catalogue.for_usb(vid, pid)
    if atr is not None:
        try:
            return catalogue.for_atr(bytes.fromhex(atr))
        except ValueError as error:
            raise InputError("USAGE", argument="--atr", reason="hex") from error
    found = catalogue.for_module(module.absolute()) if module else None
    return [found] if found else []
