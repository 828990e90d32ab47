"""C: readers. Does pcscd have a driver for what is on the bus, and is what it shows really there?"""

from __future__ import annotations

import re
from typing import Final

from ushield_hw.doctor.bus import ccid_devices
from ushield_hw.doctor.finding import Said, fail, ok, probe, skip, warn
from ushield_hw.doctor.machine import Machine
from ushield_hw.doctor.pcsclite import DRIVER_FOLDERS, bundles, drivers, program
from ushield_hw.pcsc import Slot
from ushield_hw.usb import CCID

_MOST: Final = {"linux": 16, "win32": 10}  # PCSCLITE_MAX_READERS_CONTEXTS; Windows 10
_NUMBERED: Final = re.compile(r"(?P<base>.*?)(?: \[.*\])?(?: \(.*\))? (?P<reader>[0-9A-F]{2}) (?P<slot>[0-9A-F]{2})$")


@probe("C24", "reader.driver_knows")
def unknown_to_the_driver(machine: Machine) -> Said:
    """A CCID device whose USB id no reader driver lists."""
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
    shown = bool(machine.scene.readers)  # whose reader it is cannot be told from its name
    return warn(**evidence) if shown else fail(**evidence)


@probe("C25", "reader.drivers_installed")
def no_driver(machine: Machine) -> Said:
    """Pcscd has no USB reader driver at all."""
    if machine.system != "linux":
        return skip("not_on_this_system")
    if found := drivers(machine):
        return ok(drivers=found)
    if not program(machine):
        return skip("no_pcscd")
    searched, devices = list(DRIVER_FOLDERS), [device.id for device in ccid_devices(machine)]
    return fail(searched=searched, devices=devices) if devices else warn(searched=searched, devices=["-"])


@probe("C26", "reader.present")
def no_reader(machine: Machine) -> Said:
    """PC/SC works and shows no reader."""
    scene, devices = machine.scene, [f"{device.id} {device.name}".strip() for device in ccid_devices(machine)]
    if scene.failure is not None:
        return skip("no_service")
    if scene.readers:
        return ok(readers=[reader.name for reader in scene.readers])
    return fail(devices=devices) if devices else warn(devices=["-"])


@probe("C27", "reader.count")
def too_many(machine: Machine) -> Said:
    """As many readers as PC/SC can have: others may be missing."""
    most = _MOST.get(machine.system)
    if most is None or machine.scene.failure is not None:
        return skip("no_service" if most else "not_on_this_system")
    count = len(machine.scene.readers)
    return warn(count=count, most=most) if count >= most else ok(count=count, most=most)


@probe("C28", "reader.stale")
def stale(machine: Machine) -> Said:
    """A reader that PC/SC still shows and that is not there any more."""
    if machine.scene.failure is not None:
        return skip("no_service")
    # PC/SC cannot be asked about a reader whose name is not ASCII: that says nothing.
    gone = [one.name for one in machine.scene.readers if one.slot is Slot.UNAVAILABLE and one.name.isascii()]
    if gone:
        return fail(readers=gone)
    doubled = _doubled(machine)
    return warn(readers=doubled) if doubled else ok()


def _doubled(machine: Machine) -> list[str]:
    """Return the readers of one name that are more than the devices of that name on the bus.

    A device whose name is not in the reader's says nothing, for drivers have names of their own for many.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for reader in machine.scene.readers:
        if name := _NUMBERED.match(reader.name):
            found.setdefault(name["base"], {}).setdefault(name["reader"], []).append(reader.name)
    doubled = (readers for base, readers in found.items() if 0 < _on_the_bus(machine, base) < len(readers))
    return [name for readers in doubled for names in readers.values() for name in names]


def _on_the_bus(machine: Machine, base: str) -> int:
    """Return for how many readers of a name there is something on the bus; a device may be several."""
    devices = (device for device in ccid_devices(machine) if device.name and base.startswith(device.name))
    return sum(part.usb_class == CCID for device in devices for part in device.interfaces)


PROBES: Final = (unknown_to_the_driver, no_driver, no_reader, too_many, stale)
