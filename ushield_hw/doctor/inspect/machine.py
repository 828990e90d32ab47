"""Access to the machine under diagnosis. All reads go through this class, so that tests can use a recorded machine.

``root`` is the root of its file system: ``/sys``, ``/proc``, ``/dev``, ``/run``, ``/etc`` and libraries are read below
it. A recorded machine is a folder.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from ushield_hw.config import Settings
from ushield_hw.doctor.inspect import pcscd
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.errors import InputError
from ushield_hw.system import pcsc
from ushield_hw.system.lazy import cached_property
from ushield_hw.system.usb import UsbDevice, usb_devices
from ushield_hw.token.key_pairs import KeyChoice
from ushield_hw.uri import TokenUri

_WIDE: Final = 8  # pointer size in bytes
_JOURNAL_S: Final = 3.0
_JOURNAL_LINES: Final = 400


@dataclass
class Machine:
    """This machine or a recorded one.

    Attributes:
        settings: the settings in effect.
        root: the root of its file system.
        environ: the environment of the program under diagnosis.
        system: ``linux``, ``darwin`` or ``win32``.
        log: log lines about pcscd, polkit and USB; None: read them with journalctl.
        selector: the requested token: a URI, a serial number or a label; None: any.
        now: its current time; None: the time of this machine.
        key_id: CKA_ID of the requested key; None: the selector may name one.
        certificate: serial number or SHA-256 prefix of the requested certificate; None: any.
    """

    settings: Settings
    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    system: str = sys.platform
    log: str | None = None
    selector: str | None = None
    now: datetime | None = None
    key_id: bytes | None = None
    certificate: str | None = None

    def path(self, absolute: str | Path) -> Path:
        """Return the local path of a path of that machine."""
        return self.root / str(absolute).lstrip("/")

    def text(self, absolute: str | Path) -> str | None:
        """Return the content of a text file, or None if it does not exist or cannot be read."""
        try:
            return self.path(absolute).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    @property
    def is_local(self) -> bool:
        """Whether it is this machine and not a recorded one."""
        return self.root == Path("/")

    @cached_property
    def catalogue(self) -> Catalogue:
        """The catalogue of token families."""
        return Catalogue.of(self.settings)

    @cached_property
    def choice(self) -> KeyChoice:
        """The requested key; an invalid selector is reported elsewhere and selects none."""
        try:
            asked = TokenUri.parse(self.selector) if self.selector and TokenUri.names(self.selector) else TokenUri()
        except InputError:
            asked = TokenUri()
        return KeyChoice(self.key_id or asked.id, asked.object, self.certificate)

    @cached_property
    def usb(self) -> tuple[UsbDevice, ...] | None:
        """The devices on the USB bus; None: there is no USB support."""
        return usb_devices(self.path("/sys/bus/usb/devices"), self.path("/dev"))

    @cached_property
    def reader_list(self) -> pcsc.ReaderList:
        """The readers and cards that PC/SC shows, or why it is not available."""
        with pcsc.Monitor() as monitor:
            return monitor.wait(None, pcsc.DEADLINE_S)

    @property
    def pcscd_socket(self) -> str:
        """The path at which programs look for pcscd's socket."""
        return self.environ.get(pcscd.VARIABLE) or pcscd.SOCKET

    @cached_property
    def hail(self) -> str:
        """The result of contacting pcscd's socket: its protocol version, or why there is no answer."""
        return pcscd.hail(self.path(self.pcscd_socket))

    @cached_property
    def logs(self) -> str:
        """The last log lines about pcscd, polkit and USB; empty if no log can be read."""
        return self.log if self.log is not None else _journal() if self.is_local else ""

    @cached_property
    def architecture(self) -> str:
        """The processor of this interpreter, for example ``x86_64``; ``-32`` is appended on a 64-bit machine."""
        machine = platform.machine()
        narrow = struct.calcsize("P") < _WIDE and not machine.startswith(("i", "arm"))
        return f"{machine}-32" if narrow else machine

    @cached_property
    def kind(self) -> str:
        """The kind of machine: ``wsl``, ``vm``, ``container``, ``snap``, ``flatpak`` or ``plain``."""
        if "SNAP" in self.environ:
            return "snap"
        if "FLATPAK_ID" in self.environ or self.path("/.flatpak-info").exists():
            return "flatpak"
        if "microsoft" in (self.text("/proc/version") or "").lower():
            return "wsl"
        if self.path("/.dockerenv").exists() or self.path("/run/.containerenv").exists():
            return "container"
        vendors = ("qemu", "vmware", "virtualbox", "innotek", "xen", "microsoft", "kvm", "parallels")
        product = f"{self.text('/sys/class/dmi/id/sys_vendor')} {self.text('/sys/class/dmi/id/product_name')}".lower()
        return "vm" if any(vendor in product for vendor in vendors) else "plain"


def _journal() -> str:
    tool = shutil.which("journalctl")
    if tool is None:
        return ""
    units = ["-t", "pcscd", "-t", "polkitd", "-t", "kernel"]
    try:
        done = subprocess.run(  # noqa: S603 - the system's own program
            [tool, "--no-pager", "--quiet", "--lines", str(_JOURNAL_LINES), *units],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_JOURNAL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
