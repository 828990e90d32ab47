"""C: PC/SC readers. Check that pcscd has a driver for every CCID device, and that its readers exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ushield_hw.doctor.finding import (
    Priority,
    Rule,
    Said,
    Way,
    causes,
    fail,
    ok,
    probe,
    skip,
    unchecked,
    warn,
)
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.inspect.pcsclite import DRIVER_FOLDERS, bundles, drivers, program
from ushield_hw.doctor.probes.bus import ccid_devices
from ushield_hw.doctor.probes.reader_devices import NUMBERED, unshown
from ushield_hw.doctor.subjects import pcsc_unavailable
from ushield_hw.system.pcsc import Slot
from ushield_hw.system.usb import CCID, UsbDevice

_MOST: Final = {"linux": 16, "win32": 10}  # PCSCLITE_MAX_READERS_CONTEXTS; Windows 10
_NO_FOLDER: Final = "Cannot open PC/SC drivers directory"
_NOT_CLAIMED: Final = "LIBUSB_ERROR_BUSY"


@probe("C24", "reader.driver_knows", Rule(way=Way.PCSC, after=causes("C25")))
def unknown_to_the_driver(machine: Machine) -> Said:
    """Check that a reader driver lists the USB id of every CCID device."""
    devices = ccid_devices(machine)
    if not devices:
        return skip("no_ccid_device")
    known = bundles(machine)
    if not known:
        return skip("no_driver")
    listed = {usb for driver in known for usb in driver.ids}
    unknown = [device for device in devices if device.id not in listed]
    named = [f"{driver.path} {driver.version}".strip() for driver in known]
    if not unknown:
        return ok(devices=[device.id for device in devices], drivers=named)
    evidence = {"devices": [f"{device.id} {device.name}".strip() for device in unknown], "drivers": named}
    missing = {device.id for device in unshown(machine).devices}
    return fail(**evidence) if any(device.id in missing for device in unknown) else warn(**evidence)


@probe("C25", "reader.drivers_installed", Rule(warned=Priority.ABSENT, way=Way.PCSC))
def no_driver(machine: Machine) -> Said:
    """Check that pcscd has a USB reader driver."""
    if machine.system != "linux":
        return skip("not_on_this_system")
    found, devices = drivers(machine), [device.id for device in ccid_devices(machine)]
    shown = bool(devices and machine.reader_list.readers) and not unshown(machine).devices
    logged = [] if shown else [line.strip() for line in machine.logs.splitlines() if _NO_FOLDER in line]
    if found and not (logged and devices):
        return ok(drivers=found)
    if shown:  # installed in a folder that only this pcscd searches
        return ok(drivers=found, readers=[reader.name for reader in machine.reader_list.readers])
    if not found and not program(machine) and not logged:
        return skip("no_pcscd")
    evidence: dict[str, Any] = {"searched": list(DRIVER_FOLDERS), "devices": devices or ["-"]}
    if logged:
        evidence.update(kind="logged", log=logged[-1], drivers=found or ["-"])
    return fail(**evidence) if devices else warn(**evidence)


@probe(
    "C26",
    "reader.present",
    Rule(warned=Priority.ABSENT, way=Way.PCSC, after=causes("A3 A5 A8 A9 A10 B14 B21 B23 C24 C25 C27 D33")),
)
def no_reader(machine: Machine) -> Said:
    """Check that PC/SC shows a reader for every CCID device."""
    reader_list, missing = machine.reader_list, unshown(machine)
    if reader_list.failure is not None:
        return unchecked(pcsc_unavailable(machine))
    readers, devices = [reader.name for reader in reader_list.readers], _called(missing.devices)
    busy = [line.strip() for line in machine.logs.splitlines() if _NOT_CLAIMED in line]
    if readers and not devices:
        return ok(readers=readers)
    if not devices:
        return warn(devices=["-"])
    if busy:
        return fail(kind="busy", devices=devices, readers=readers or ["-"], log=busy[-1])
    if not readers:
        return fail(devices=devices)
    evidence = {"devices": devices, "readers": readers}
    return fail(kind="missing", **evidence) if missing.certain else warn(kind="perhaps", **evidence)


def _called(devices: Iterable[UsbDevice]) -> list[str]:
    return [f"{device.id} {device.name}".strip() for device in devices]


@probe("C27", "reader.count", Rule(way=Way.PCSC))
def too_many(machine: Machine) -> Said:
    """Check whether PC/SC has reached its maximum number of readers, so that others may be missing."""
    most = _MOST.get(machine.system)
    if most is None or machine.reader_list.failure is not None:
        return unchecked(pcsc_unavailable(machine)) if most else skip("not_on_this_system")
    count = len(machine.reader_list.readers)
    return warn(count=count, most=most) if count >= most else ok(count=count, most=most)


@probe("C28", "reader.stale", Rule(way=Way.PCSC))
def stale(machine: Machine) -> Said:
    """Check for readers that PC/SC still shows although they were removed."""
    if machine.reader_list.failure is not None:
        return unchecked(pcsc_unavailable(machine))
    # Except on Linux, PC/SC cannot query a reader whose name is not ASCII; its state is then meaningless.
    asked = [one for one in machine.reader_list.readers if machine.system == "linux" or one.name.isascii()]
    gone = [one.name for one in asked if one.slot is Slot.UNAVAILABLE]
    if gone:
        return fail(readers=gone)
    doubled = _doubled(machine)
    return warn(readers=doubled) if doubled else ok()


def _doubled(machine: Machine) -> list[str]:
    """Return the readers of one name that outnumber the devices of that name on the bus.

    A reader whose name does not contain a device's name is ignored because drivers have their own names for many
    devices.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for reader in machine.reader_list.readers:
        if name := NUMBERED.match(reader.name):
            found.setdefault(name["base"], {}).setdefault(name["reader"], []).append(reader.name)
    doubled = (readers for base, readers in found.items() if 0 < _on_the_bus(machine, base) < len(readers))
    return [name for readers in doubled for names in readers.values() for name in names]


def _on_the_bus(machine: Machine, base: str) -> int:
    """Return the number of CCID interfaces on the bus with a reader's name; a device may have several."""
    devices = (device for device in ccid_devices(machine) if device.name and base.startswith(device.name))
    return sum(part.usb_class == CCID for device in devices for part in device.interfaces)


PROBES: Final = (unknown_to_the_driver, no_driver, no_reader, too_many, stale)
