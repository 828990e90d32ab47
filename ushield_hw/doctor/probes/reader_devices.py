"""Match PC/SC readers with devices on the USB bus.

pcscd names a reader after the entry of its driver for the USB id, or after the device's own name, and appends numbers:
``Maker Token [CCID Interface] (0815) 00 00``. If neither name matches, only the number of devices and readers can be
compared.
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
_VIRTUAL: Final = re.compile(r"Virtual PCD\b")  # a reader of vsmartcard, which has no USB device


@dataclass(frozen=True)
class Unshown:
    """CCID devices without a matching reader.

    Attributes:
        devices: the devices, or the candidates among which it is.
        certain: whether there are fewer readers than devices. False: a reader with an unrelated name may belong to one.
    """

    devices: tuple[UsbDevice, ...] = ()
    certain: bool = True


def readers_of(machine: Machine, device: UsbDevice) -> tuple[Reader, ...]:
    """Return the readers that have a device's name."""
    names = _names(machine, device)
    return tuple(reader for reader in machine.reader_list.readers if _bears(reader.name, names))


def unshown(machine: Machine) -> Unshown:
    """Return the CCID devices for which PC/SC shows no reader."""
    free, without = _physical(machine.reader_list.readers), []
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
    """Return one name per reader: a reader with several slots appears several times under one number."""
    found: dict[tuple[str, str], str] = {}
    for reader in readers:
        name = NUMBERED.match(reader.name)
        found.setdefault((name["base"], name["reader"]) if name else (reader.name, ""), reader.name)
    return list(found.values())


def _names(machine: Machine, device: UsbDevice) -> list[str]:
    return [name.casefold() for name in (device.name, *_listed(machine, device)) if name]


def _listed(machine: Machine, device: UsbDevice) -> list[str]:
    """Return the names that the reader drivers list for a device."""
    return [driver.names[device.id] for driver in bundles(machine) if device.id in driver.names]


def _bears(reader: str, names: Sequence[str]) -> bool:
    name = NUMBERED.match(reader)
    base = (name["base"] if name else reader).casefold()
    return any(base.startswith(one) or one.startswith(base) for one in names)


def _interfaces(device: UsbDevice) -> int:
    return sum(part.usb_class == CCID for part in device.interfaces)
