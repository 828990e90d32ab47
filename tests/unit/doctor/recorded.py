"""Recorded machines: folders that mirror a machine's file system, and assertions on the findings about them."""

from __future__ import annotations

import os
import plistlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ushield_hw import messages
from ushield_hw.config import Settings
from ushield_hw.doctor.finding import Finding, Probe, Status
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.system.pcsc import Failure, ReaderList
from ushield_hw.system.usb import CCID

# For root: drop the capabilities that bypass file permissions.
POWERLESS: Final = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
USB: Final = "sys/bus/usb/devices"
_PLACEHOLDER: Final = re.compile(r"(?<!\\u){[a-z_]+}")
TOKEN: Final = "096e:0807"
NO_SERVICE: Final = ReaderList(failure=Failure("SCardEstablishContext", "SCARD_E_NO_SERVICE", 0x8010001D))


class Tree:
    """A machine's file system in a folder.

    Args:
        folder: the parent folder.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.drivers = folder / "root", folder / "drivers"
        self.root.mkdir(parents=True)
        self.drivers.mkdir()

    def file(self, path: str, content: str | bytes = "") -> Path:
        """Create a file."""
        found = self.root / path.lstrip("/")
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_bytes(content.encode() if isinstance(content, str) else content)
        return found

    def link(self, path: str, target: str | Path) -> None:
        """Create a symbolic link."""
        found = self.root / path.lstrip("/")
        found.parent.mkdir(parents=True, exist_ok=True)
        found.symlink_to(target)

    def bus(self) -> Path:
        """Add a USB bus with a hub."""
        for name, content in {"idVendor": "1d6b", "idProduct": "0002", "bDeviceClass": "09"}.items():
            self.file(f"{USB}/usb1/{name}", content)
        return self.root / USB

    def device(
        self,
        usb: str,
        classes: Sequence[int] = (CCID,),
        name: str = "Maker Token",
        place: str = "1-2",
        power: str = "on",
        driver: str | None = None,
    ) -> Path:
        """Add a USB device; return its node. ``driver``: the kernel driver of its first interface."""
        (vid, _, pid), number = usb.partition(":"), place.rpartition("-")[2]
        self.bus()
        files = {"idVendor": vid, "idProduct": pid, "bDeviceClass": "00", "busnum": "1", "devnum": number}
        for file, content in {**files, "product": name, "power/control": power}.items():
            self.file(f"{USB}/{place}/{file}", f"{content}\n")
        for count, usb_class in enumerate(classes):
            self.file(f"{USB}/{place}/{place}:1.{count}/bInterfaceClass", f"{usb_class:02x}\n")
        if driver is not None:
            (self.root / "sys/bus/usb/drivers" / driver).mkdir(parents=True)
            self.link(f"{USB}/{place}/{place}:1.0/driver", f"../../../drivers/{driver}")
        return self.file(f"/dev/bus/usb/001/{number.zfill(3)}")

    def node(self, kind: str, place: str = "1-2", part: int = 0) -> Path:
        """Add a node for a device's interface, such as ``hidraw3`` or ``sg1``; return its path in /dev."""
        folder = "0003:1234.0001/hidraw" if kind.startswith("hidraw") else "host6/target6:0:0/6:0:0:0/scsi_generic"
        (self.root / USB / place / f"{place}:1.{part}" / folder / kind).mkdir(parents=True)
        return self.root / "dev" / kind

    def process(self, pid: int, name: str, uid: int = 0, maps: str = "", links: Sequence[str] = ()) -> None:
        """Add a running process."""
        self.file(f"/proc/{pid}/comm", f"{name}\n")
        self.file(f"/proc/{pid}/status", f"Name:\t{name}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\n")
        self.file(f"/proc/{pid}/maps", maps)
        (self.root / f"proc/{pid}/fd").mkdir()
        for number, target in enumerate(links):
            self.link(f"/proc/{pid}/fd/{number}", target)

    def reader_driver(self, *ids: str, name: str = "ifd-ccid", any_ccid: bool = True) -> None:
        """Install a reader driver that lists these USB ids."""
        pairs = [usb.split(":") for usb in ids]
        said = {
            "CFBundleName": "CCIDCLASSDRIVER" if any_ccid else name,
            "CFBundleShortVersionString": "1.5.2",
            "ifdVendorID": [f"0x{vid.upper()}" for vid, _ in pairs],
            "ifdProductID": [f"0x{pid.upper()}" for _, pid in pairs],
        }
        self.file(f"/usr/lib/pcsc/drivers/{name}.bundle/Contents/Info.plist", plistlib.dumps(said))

    def family(
        self, name: str, *rows: str, paths: Sequence[str] = (), interface: str = "pkcs11", module: str = ""
    ) -> None:
        """Write a descriptor. ``rows``: USB ids with a binding (``1234:0001 hid``), or ATRs in hex."""
        text = f'id = "{name}"\nvendor = "Maker"\nproduct = "{name}"\nkind = "token"\ninterface = "{interface}"\n'
        listed = ", ".join(f'"{path}"' for path in paths)
        text += f'confidence = "low"\nsources = []\n[module]\n{f"linux = [{listed}]" if paths else ""}\n{module}\n'
        (self.drivers / f"{name}.toml").write_text(text + "".join(map(_mark, rows)), encoding="utf-8")

    def machine(self, reader_list: ReaderList | None = None, **how: Any) -> Machine:
        """Return the machine; ``reader_list``: the readers that PC/SC shows."""
        how = {"environ": {}, "system": "linux", "log": "", **how}
        machine = Machine(Settings(drivers=(self.drivers,)), self.root, **how)
        machine.reader_list = ReaderList() if reader_list is None else reader_list
        return machine


def _mark(row: str) -> str:
    if ":" not in row:
        return f'[[match.atr]]\natr = "{row}"\n'
    usb, _, binding = row.partition(" ")
    vid, _, pid = usb.partition(":")
    return f'[[match.usb]]\nvid = "{vid}"\npid = "{pid}"\nbinding = "{binding or "ccid"}"\n'


def texts(finding: Finding) -> dict[str, tuple[str, str]]:
    """Return the cause and the remedy by language."""
    found: dict[str, tuple[str, str]] = {}
    try:
        for language in messages.LANGUAGES:
            messages.set_language(language)
            found[language] = (finding.cause() or "", finding.remedy() or "")
    finally:
        messages.set_language(None)
    return found


def told(finding: Finding, probe: Probe[Any], status: Status, *words: str, **evidence: Any) -> None:
    """Assert a finding's status and evidence, and that its texts contain the words in both languages."""
    assert (finding.id, finding.probe) == (probe.id, probe.name)
    assert finding.status is status, finding.evidence
    assert {name: finding.evidence.get(name) for name in evidence} == evidence
    readable(texts(finding) if finding.is_problem else {}, finding.id, *words)


def readable(found: Mapping[str, Sequence[str]], identity: str, *words: str) -> None:
    """Assert that the texts exist in each language, have no placeholders left, and contain these words."""
    for cause, remedy in found.values():
        assert not cause.startswith("doctor."), f"{identity} has no cause"
        assert not remedy.startswith("doctor."), f"{identity} has no remedy"
        assert _PLACEHOLDER.findall(cause + remedy) == [], f"{identity}: not filled in"
        assert [word for word in words if word not in cause + remedy] == []
