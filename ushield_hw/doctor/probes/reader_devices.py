"""Which reader of PC/SC belongs to which device on the USB bus.

pcscd calls a reader by the name that its driver lists for the USB id, or by what the device calls itself, and puts
numbers behind it: ``Maker Token [CCID Interface] (0815) 00 00``. Where neither name fits, only the numbers of devices
and readers can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.inspect.pcsclite import bundles
from ushield_hw.doctor.probes.bus import ccid_devices
from ushield_hw.system.pcsc import Reader
from ushield_hw.system.usb import CCID, UsbDevice

NUMBERED: Final = re.compile(r"(?P<base>.*?)(?: \[.*\])?(?: \(.*\))? (?P<reader>[0-9A-F]{2}) (?P<slot>[0-9A-F]{2})$")
_VIRTUAL: Final = re.compile(r"Virtual PCD\b")  # vsmartcard's: no device belongs to it


@dataclass(frozen=True)
class Unshown:
    """CCID devices without a reader of their own.

    Attributes:
        devices: they, or those among which it is.
        certain: there are fewer readers than devices; else a reader of a strange name may be one's.
    """

    devices: tuple[UsbDevice, ...] = ()
    certain: bool = True


def readers_of(machine: Machine, device: UsbDevice) -> tuple[Reader, ...]:
    """Return the readers that bear a device's name."""
    names = _names(machine, device)
    return tuple(reader for reader in machine.scene.readers if _bears(reader.name, names))


def unshown(machine: Machine) -> Unshown:
    """Return the CCID devices that PC/SC shows no reader for."""
    free, without = _physical(machine.scene.readers), []
    for device in ccid_devices(machine):
        names = _names(machine, device)
        own = [reader for reader in free if _bears(reader, names)][: _interfaces(device)]
        free = [reader for reader in free if reader not in own]
        if not own:
            without.append(device)
    strange = [reader for reader in free if not _VIRTUAL.match(reader)]
    certain = len(strange) < len(without)
    found = without if certain else [device for device in without if _listed(machine, device)]
    return Unshown(tuple(found), certain)


def _physical(readers: Sequence[Reader]) -> list[str]:
    """Return one name a reader: one with several slots shows several times under one number."""
    found: dict[tuple[str, str], str] = {}
    for reader in readers:
        name = NUMBERED.match(reader.name)
        found.setdefault((name["base"], name["reader"]) if name else (reader.name, ""), reader.name)
    return list(found.values())


def _names(machine: Machine, device: UsbDevice) -> list[str]:
    return [name.casefold() for name in (device.name, *_listed(machine, device)) if name]


def _listed(machine: Machine, device: UsbDevice) -> list[str]:
    """Return the names that the reader drivers have for a device."""
    return [driver.names[device.id] for driver in bundles(machine) if device.id in driver.names]


def _bears(reader: str, names: Sequence[str]) -> bool:
    name = NUMBERED.match(reader)
    base = (name["base"] if name else reader).casefold()
    return any(base.startswith(one) or one.startswith(base) for one in names)


def _interfaces(device: UsbDevice) -> int:
    return sum(part.usb_class == CCID for part in device.interfaces)
