"""Find module files: installed ones, configured ones, and alternatives to one that does not exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from ushield_hw.doctor.inspect.image import processor, read_image
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.reader_devices import readers_of
from ushield_hw.doctor.subjects import ModuleFile
from ushield_hw.drivers.catalogue import GENERIC
from ushield_hw.drivers.family import Driver, Interface
from ushield_hw.drivers.installed import installed
from ushield_hw.system.pcsc import Slot
from ushield_hw.system.usb import UsbDevice

_MOST_SHOWN: Final = 6
_FOLDERS: Final = (
    "usr/lib",
    "usr/lib/*-linux-gnu*",
    "usr/lib/*-linux-gnu*/pkcs11",
    "usr/lib/pkcs11",
    "usr/lib64",
    "usr/lib64/pkcs11",
    "usr/lib/softhsm",
    "usr/local/lib",
    "usr/local/lib/*",
    "opt/*",
    "opt/*/lib*",
    "opt/*/*/lib*",
)


def named_modules(machine: Machine, paths: Sequence[Path] | None = None, *, asked: bool = False) -> list[ModuleFile]:
    """Return the modules at these paths, whether they exist or not.

    Args:
        machine: the machine.
        paths: the paths. None: the installed modules and those of the settings.
        asked: whether the user named them.
    """
    found: dict[Path, ModuleFile] = {}
    if paths is None:
        for file in _installed(machine):
            found.setdefault(file.path.resolve(), file)
    for path in machine.settings.module_files if paths is None else paths:
        driver = machine.catalogue.for_module(path) or GENERIC
        found.setdefault(path.resolve(), ModuleFile(machine, path, driver, asked))
    return list(found.values())


def _installed(machine: Machine) -> Iterator[ModuleFile]:
    if machine.is_local:
        yield from (
            ModuleFile(machine, entry.path, entry.driver) for entry in installed(machine.catalogue, machine.settings)
        )
    else:
        yield from (
            ModuleFile(machine, path, driver) for driver in machine.catalogue for path in _files(machine, driver)
        )


def driver_not_installed(machine: Machine) -> Iterator[ModuleFile]:
    """Yield a missing module for every token on the bus that no installed module drives; the first family only."""
    for device in machine.usb or ():
        drivers = [
            driver
            for driver in machine.catalogue.for_usb(device.vid, device.pid)
            if _is_a_token(machine, driver, device)
        ]
        drivers = [_with_module(machine, driver) for driver in drivers]
        drivers = [driver for driver in drivers if driver.interface is Interface.PKCS11 and driver.module.paths]
        if drivers and not any(_drivable(machine, driver) for driver in drivers):
            yield ModuleFile(machine, machine.path(drivers[0].module.paths[0]), drivers[0])


def _is_a_token(machine: Machine, driver: Driver, device: UsbDevice) -> bool:
    """Return whether a device is a token and not a reader for any card, which may be empty."""
    if any(usb.reader for usb in driver.usb if str(usb) == device.id):
        return False
    return not any(reader.slot is Slot.EMPTY for reader in readers_of(machine, device))


def _with_module(machine: Machine, driver: Driver) -> Driver:
    """Return a family with the module that drives it, which may belong to another family."""
    via = driver.module.via
    return driver if via is None else replace(driver, module=machine.catalogue.get(via).module)


def _drivable(machine: Machine, driver: Driver) -> bool:
    """Return whether a module for a family is installed: its own, or another one that shows its tokens."""
    others = (name for name in driver.module.also_via if name in machine.catalogue.ids())
    return any(_files(machine, one) for one in (driver, *map(machine.catalogue.get, others)))


def _files(machine: Machine, driver: Driver) -> list[Path]:
    """Return a family's module files on that machine."""
    places = (machine.root.glob(pattern.lstrip("/")) for pattern in driver.module.paths if pattern.startswith("/"))
    return [path for found in places for path in sorted(found) if path.is_file()]


def similar(file: ModuleFile) -> list[Path]:
    """Return existing modules that may be meant instead: same folder, same name elsewhere, or same family."""
    ours = processor(file.machine.architecture)
    found = (path for path in _similar(file) if _is_module(path, ours))
    return list({path.resolve(): path for path in reversed(list(found))}.values())[::-1][:_MOST_SHOWN]


def _similar(file: ModuleFile) -> Iterator[Path]:
    stem = _stem(file.path)
    yield from sorted(path for path in file.path.parent.glob("*") if _stem(path) == stem)
    for pattern in _FOLDERS:
        yield from sorted(file.machine.root.glob(f"{pattern}/{file.path.name}*"))
    yield from _files(file.machine, file.driver)


def _stem(path: Path) -> str:
    return path.name.split(".")[0].lower().removeprefix("lib")


def _is_module(path: Path, ours: str) -> bool:
    image = read_image(path)
    return image is not None and ours in image.architectures and "C_GetFunctionList" in (image.exports or ())
