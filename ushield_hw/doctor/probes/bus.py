"""A: the USB bus. Check that a token is present, shows the expected interfaces, and may be opened.

A missing device is at most a warning, because soft tokens need no USB. A present device that cannot be used is a
failure.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ushield_hw.doctor.finding import Priority, Rule, Said, Way, causes, fail, ok, probe, skip, warn
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.drivers.family import Driver, Interface
from ushield_hw.drivers.match import CHIP_MAKERS, Binding
from ushield_hw.system.pcsc import Slot
from ushield_hw.system.processes import named
from ushield_hw.system.usb import CCID, HID, MASS_STORAGE, UsbDevice

_GUESTS: Final = {"wsl", "vm"}  # a container sees the bus of its host
_READ_WRITE: Final = 0o6
_EVERYTHING: Final = 1 << 1  # CAP_DAC_OVERRIDE: file permissions do not apply
_PCSCD_TROUBLE: Final = re.compile(r"LIBUSB_ERROR_(?:IO|PIPE|TIMEOUT)")  # NO_DEVICE is a normal removal
_OFTEN: Final = 3  # fewer can be a replug or a suspend of the machine
_DENIED: Final = "LIBUSB_ERROR_ACCESS"
_NOT_CLAIMED: Final = {None, "usbfs"}  # usbfs: claimed by a program, as pcscd must
_SHOWN: Final = 12


@dataclass
class Plugged:
    """A device on the bus that is or may be a token or a reader.

    Attributes:
        machine: the machine.
        device: the device.
        drivers: the families that list its USB id.
    """

    machine: Machine
    device: UsbDevice
    drivers: tuple[Driver, ...] = ()

    @property
    def binding(self) -> Binding | None:
        """The interface type according to the catalogue; None: the USB id is unknown."""
        marks = (usb for driver in self.drivers for usb in driver.usb if str(usb) == self.device.id)
        return next((usb.binding for usb in marks), None)

    @property
    def past_pcsc(self) -> bool:
        """Whether it does not use PC/SC, so that a missing reader is no problem."""
        return self.binding is not None and self.binding.past_pcsc and not self.device.has(CCID)

    @property
    def way(self) -> Way:
        """The access path of a token in it."""
        return Way.DIRECT if self.past_pcsc else Way.PCSC

    @property
    def families(self) -> list[str]:
        """The ids of the families that list it."""
        return [driver.id for driver in self.drivers]

    @property
    def label(self) -> str:
        """USB id and position on the bus, to distinguish identical devices."""
        return f"{self.device.id} {self.device.folder.name}"

    def evidence(self, **more: Any) -> dict[str, Any]:
        """Return the common evidence of its findings, and ``more``."""
        return {"usb": self.device.id, "name": self.device.name or self.device.id, **more}


def plugged(machine: Machine) -> tuple[Plugged, ...]:
    """Return the devices that are known tokens, CCID devices, or drives of a token vendor."""
    found = (
        Plugged(machine, device, tuple(machine.catalogue.for_usb(device.vid, device.pid))) for device in _all(machine)
    )
    return tuple(one for one in found if one.drivers or one.device.has(CCID) or _drive_by_a_maker(one))


def ccid_devices(machine: Machine) -> tuple[UsbDevice, ...]:
    """Return the devices that PC/SC should show as readers."""
    return tuple(device for device in _all(machine) if device.has(CCID))


def modules_of(machine: Machine, driver: Driver) -> list[str]:
    """Return the installed module files that a descriptor names, as paths of that machine."""
    found = (file for pattern in driver.module.paths for file in sorted(machine.root.glob(pattern.lstrip("/"))))
    return list(dict.fromkeys(f"/{file.relative_to(machine.root)}" for file in found))


def _all(machine: Machine) -> tuple[UsbDevice, ...]:
    return machine.usb or ()


def _only_a_drive(device: UsbDevice) -> bool:
    return device.has(MASS_STORAGE) and not device.has(CCID)


def _drive_by_a_maker(one: Plugged) -> bool:
    vid = one.device.vid
    return _only_a_drive(one.device) and vid not in CHIP_MAKERS and bool(one.machine.catalogue.for_vendor(vid))


def _by_a_maker(machine: Machine) -> UsbDevice | None:
    """Return a device of a token vendor that no descriptor lists."""
    makers = (one for one in _all(machine) if one.vid not in CHIP_MAKERS and machine.catalogue.for_vendor(one.vid))
    return next(makers, None)


def _card_is_there(machine: Machine) -> bool:
    """Return whether PC/SC shows a card; its reader need not be on this bus."""
    return any(reader.slot is not Slot.EMPTY for reader in machine.reader_list.readers)


def _seen(machine: Machine) -> list[str]:
    return [f"{device.id} {device.name}".strip() for device in _all(machine)][:_SHOWN]


# --- the bus as a whole -----------------------------------------------------------------------------------------------


@probe("A1", "usb.present", Rule(warned=Priority.ABSENT, kinds={"model": Priority.STRANGE}))
def nothing_on_the_bus(machine: Machine) -> Said:
    """Check that a token or reader is on the bus."""
    if found := plugged(machine):
        return ok(devices=[one.device.id for one in found])
    if _card_is_there(machine):
        return skip("card_is_there")
    if (one := _by_a_maker(machine)) is not None:
        makers = sorted({driver.vendor for driver in machine.catalogue.for_vendor(one.vid)})
        return warn(kind="model", usb=one.id, name=one.name or one.id, makers=makers, seen=_seen(machine))
    if machine.kind in _GUESTS:
        return skip("guest", kind=machine.kind)  # reported as A2
    if machine.usb is None:
        return skip("no_usb")
    return warn(seen=_seen(machine) or ["-"])


@probe("A2", "usb.guest", Rule(warned=Priority.ABSENT))
def only_the_host_has_it(machine: Machine) -> Said:
    """Check whether a virtual machine has no token because the host does not pass it on."""
    if machine.kind not in _GUESTS:
        return skip("not_a_guest")
    if found := plugged(machine):
        return ok(kind=machine.kind, devices=[one.device.id for one in found])
    if _card_is_there(machine) or _by_a_maker(machine) is not None:
        return skip("card_is_there")
    return warn(kind=machine.kind, seen=_seen(machine) or ["-"])


# --- one device -------------------------------------------------------------------------------------------------------


@probe("A3", "usb.drive_only")
def drive_only(one: Plugged) -> Said:
    """Check for a device that shows only its driver CD-ROM and has not switched to token mode."""
    if not _only_a_drive(one.device):
        return ok(**one.evidence())
    if one.past_pcsc:
        return skip("speaks_mass_storage", **one.evidence())
    makers = one.families or [driver.id for driver in one.machine.catalogue.for_vendor(one.device.vid)]
    evidence = one.evidence(families=makers)
    return fail(**evidence) if one.drivers else warn(**evidence)


@probe("A4", "usb.own_protocol", Rule(warned=Priority.FAULT))  # no module here can drive a present device
def own_protocol(one: Plugged) -> Said:
    """Check for a vendor protocol, which is no error but needs the vendor's module."""
    if not one.past_pcsc or one.binding is None:
        return skip("shown_by_pcsc", **one.evidence())
    modules = [file for driver in one.drivers for file in modules_of(one.machine, driver)]
    driven = modules and any(driver.interface is Interface.PKCS11 for driver in one.drivers)
    evidence = one.evidence(binding=one.binding.value, families=one.families, modules=modules or ["-"])
    return ok(**evidence) if driven else warn(**evidence)


@probe("A5", "usb.ccid_off")
def ccid_off(one: Plugged) -> Said:
    """Check that the CCID interface is enabled."""
    if one.binding not in {Binding.CCID, Binding.NO_CCID} or _only_a_drive(one.device):
        return skip("needs_none", **one.evidence())
    classes = [f"{interface.usb_class & 0xFF:02x}" for interface in one.device.interfaces]
    return ok(**one.evidence()) if one.device.has(CCID) else fail(**one.evidence(classes=classes or ["-"]))


@probe("A6", "usb.node_permission", Rule(after=causes("A4")))
def node_permission(one: Plugged) -> Said:
    """Check that the vendor's module may open the device node."""
    if not one.past_pcsc:
        return skip("shown_by_pcsc", **one.evidence())
    nodes = [node for node in _nodes(one) if node.exists()]
    if not nodes:
        return skip("no_node", **one.evidence())
    for node in nodes:
        if not os.access(node, os.R_OK | os.W_OK):
            return fail(**one.evidence(**permission_of(one.machine, node)))
    return ok(**one.evidence(node=_there(one.machine, nodes[0])))


@probe("A7", "usb.no_hidraw", Rule(after=causes("A4")))
def no_hidraw(one: Plugged) -> Said:
    """Check that a HID device has a hidraw node; kernels without hidraw and containers lack it."""
    if not one.past_pcsc or not one.device.has(HID):
        return skip("not_hid", **one.evidence())
    missing = [_there(one.machine, node) for node in one.device.hidraw if not node.exists()]
    if one.device.hidraw and not missing:
        return ok(**one.evidence())
    return fail(**one.evidence(missing=missing or ["/dev/hidraw*"], kind=one.machine.kind))


@probe("A8", "usb.claimed_by_kernel")
def claimed_by_kernel(one: Plugged) -> Said:
    """Check that no kernel driver has claimed the CCID interface."""
    if not one.device.has(CCID):
        return skip("no_ccid", **one.evidence())
    holders = [part.driver for part in one.device.interfaces if part.usb_class == CCID]
    taken = [driver for driver in holders if driver not in _NOT_CLAIMED]
    return fail(**one.evidence(driver=taken[0])) if taken else ok(**one.evidence())


@probe("A9", "usb.unsteady")
def unsteady(one: Plugged) -> Said:
    """Check for repeated disconnects, caused by USB power saving or a bad cable or hub."""
    lines, power = _complaints(one), one.device.power or "-"
    enough = 1 if power == "auto" else _OFTEN
    evidence = one.evidence(power=power, errors=len(lines))
    return warn(**evidence, last=lines[-1].strip()) if len(lines) >= enough else ok(**evidence)


@probe("A10", "usb.pcscd_permission")
def pcscd_permission(one: Plugged) -> Said:
    """Check that pcscd may open the device if it does not run as root."""
    if not one.device.has(CCID):
        return skip("no_ccid", **one.evidence())
    daemons = [_Identity.of(one.machine, process.pid) for process in named(one.machine, "pcscd")]
    if not daemons:
        return skip("no_pcscd", **one.evidence())
    if not one.device.node.exists():
        return skip("no_node", **one.evidence())
    evidence = one.evidence(**permission_of(one.machine, one.device.node), daemon_uid=daemons[0].uid)
    refused = _DENIED in one.machine.logs and not any(daemon.all_powerful for daemon in daemons)
    allowed = any(daemon.may_use(one.device.node) for daemon in daemons)
    return ok(**evidence) if allowed and not refused else fail(**evidence)


def _complaints(one: Plugged) -> list[str]:
    """Return the lines of kernel and pcscd logs about problems of the device."""
    place = re.escape(one.device.folder.name)
    kernel = re.compile(rf"usb {place}: .*(?:error -\d+|reset \S+-speed|not responding|unable to enumerate)")
    daemon = _PCSCD_TROUBLE if one.device.has(CCID) else kernel
    return [line for line in one.machine.logs.splitlines() if kernel.search(line) or daemon.search(line)]


def _nodes(one: Plugged) -> tuple[Path, ...]:
    """Return the nodes through which its module accesses it."""
    return one.device.hidraw + one.device.storage or (one.device.node,)


def _there(machine: Machine, path: Path) -> str:
    return f"/{path.relative_to(machine.root)}" if path.is_relative_to(machine.root) else str(path)


def permission_of(machine: Machine, node: Path) -> dict[str, str]:
    """Return owner, group and mode of a path as evidence."""
    status = node.stat()
    return {
        "node": _there(machine, node),
        "owner": _user(status.st_uid),
        "group": _group(status.st_gid),
        "mode": f"{status.st_mode & 0o7777:04o}",
    }


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


@dataclass(frozen=True, slots=True)
class _Identity:
    """User, groups and capabilities of a process."""

    uid: int
    groups: frozenset[int]
    all_powerful: bool

    @classmethod
    def of(cls, machine: Machine, pid: int) -> _Identity:
        """Read them from ``/proc``; a process whose status is hidden is assumed to be root's, the usual case."""
        lines = dict(line.partition(":")[::2] for line in (machine.text(f"/proc/{pid}/status") or "").splitlines())
        uids, gids = lines.get("Uid", "").split() or ["0"] * 2, lines.get("Gid", "").split() or ["0"] * 2
        uid, groups = int(uids[1]), {int(gids[1]), *map(int, lines.get("Groups", "").split())}
        capable = bool(int(lines.get("CapEff", "0").strip() or "0", 16) & _EVERYTHING)
        return cls(uid, frozenset(groups), uid == 0 or capable)

    def may_use(self, node: Path) -> bool:
        """Return whether the process may read and write the node."""
        status = node.stat()
        if self.all_powerful:
            return True
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid in self.groups else 0
        return status.st_mode >> shift & _READ_WRITE == _READ_WRITE


PROBES: Final = (nothing_on_the_bus, only_the_host_has_it)
DEVICE_PROBES: Final = (
    drive_only,
    own_protocol,
    ccid_off,
    node_permission,
    no_hidraw,
    claimed_by_kernel,
    unsteady,
    pcscd_permission,
)
