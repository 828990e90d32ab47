"""List USB devices from Linux's sysfs. The folders are parameters; a missing bus is not an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CCID: Final = 0x0B
HID: Final = 0x03
MASS_STORAGE: Final = 0x08
_HUB: Final = 0x09


@dataclass(frozen=True, slots=True)
class UsbInterface:
    """One interface of a device.

    Attributes:
        usb_class: bInterfaceClass.
        driver: the bound kernel driver; None: none.
        hidraw: its hidraw nodes.
        storage: its sg nodes, for SCSI commands to a drive without using its file system.
    """

    usb_class: int
    driver: str | None
    hidraw: tuple[Path, ...] = ()
    storage: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class UsbDevice:
    """A USB device that is not a hub.

    Attributes:
        vid, pid: vendor and product id, lower-case hex.
        name: manufacturer and product name. Untrusted.
        serial: its serial number, if it has one. Untrusted.
        folder: its folder in sysfs, whose name the kernel log uses for the device.
        node: its node under ``/dev/bus/usb``.
        power: ``power/control``: ``on`` or ``auto``.
        interfaces: the interfaces of its configuration.
    """

    vid: str
    pid: str
    name: str
    serial: str
    folder: Path
    node: Path
    power: str
    interfaces: tuple[UsbInterface, ...]

    def has(self, usb_class: int) -> bool:
        """Return whether one of its interfaces has this class."""
        return any(interface.usb_class == usb_class for interface in self.interfaces)

    @property
    def id(self) -> str:
        """Vendor and product id in the format of ``lsusb``."""
        return f"{self.vid}:{self.pid}"

    @property
    def hidraw(self) -> tuple[Path, ...]:
        """The hidraw nodes of all its interfaces."""
        return tuple(node for interface in self.interfaces for node in interface.hidraw)

    @property
    def storage(self) -> tuple[Path, ...]:
        """The sg nodes of all its interfaces."""
        return tuple(node for interface in self.interfaces for node in interface.storage)


def usb_devices(devices: Path = Path("/sys/bus/usb/devices"), dev: Path = Path("/dev")) -> tuple[UsbDevice, ...] | None:
    """Return the devices on the bus; None if the system has no USB.

    Args:
        devices: the folder of devices in sysfs.
        dev: the folder of device nodes.
    """
    if not devices.is_dir():
        return None
    return tuple(device for folder in sorted(devices.iterdir()) if (device := _device(folder, dev)) is not None)


def _device(folder: Path, dev: Path) -> UsbDevice | None:
    vid, pid = _text(folder / "idVendor"), _text(folder / "idProduct")
    if not vid or not pid or _number(folder / "bDeviceClass") == _HUB:
        return None
    bus, number = _text(folder / "busnum"), _text(folder / "devnum")
    return UsbDevice(
        vid.lower(),
        pid.lower(),
        " ".join(filter(None, (_text(folder / "manufacturer"), _text(folder / "product")))),
        _text(folder / "serial"),
        folder,
        dev / "bus" / "usb" / bus.zfill(3) / number.zfill(3),
        _text(folder / "power" / "control"),
        tuple(_interfaces(folder, dev)),
    )


def _interfaces(folder: Path, dev: Path) -> Iterator[UsbInterface]:
    for part in sorted(folder.glob(f"{folder.name}:*")):
        driver = part / "driver"
        name = driver.resolve().name if driver.exists() else None
        yield UsbInterface(
            _number(part / "bInterfaceClass"), name, _nodes(part, "hidraw", dev), _nodes(part, "sg", dev)
        )


def _nodes(interface: Path, kind: str, dev: Path) -> tuple[Path, ...]:
    """Return an interface's device nodes of one kind; sysfs has a folder for each, named by kind and number."""
    found = {folder.name for folder in interface.glob(f"**/{kind}[0-9]*")}
    return tuple(dev / name for name in sorted(found))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(file: Path) -> int:
    try:
        return int(_text(file), 16)
    except ValueError:
        return -1
