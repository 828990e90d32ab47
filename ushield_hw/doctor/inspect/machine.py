"""The machine that is looked at. All that is read from it goes through here, so that a test can put in another one.

``root`` is where its file system is: ``/sys``, ``/proc``, ``/dev``, ``/run``, ``/etc`` and libraries are looked up
below it. A recorded machine is a folder.
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

_WIDE: Final = 8  # bytes of a pointer
_JOURNAL_S: Final = 3.0
_JOURNAL_LINES: Final = 400


@dataclass
class Machine:
    """This machine, or a recorded one.

    Attributes:
        settings: the ones in force.
        root: where its file system is.
        environ: the environment of the program that has the trouble.
        system: ``linux``, ``darwin`` or ``win32``.
        log: what its logs say of pcscd, polkit and USB; None: ask journalctl.
        selector: the token that was asked for: a URI, a serial number or a label; None: any.
        now: what its clock says; None: ask this one's.
        key_id, certificate: the key that was asked for; None: the selector may name one.
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
        """Return where a path of that machine is here."""
        return self.root / str(absolute).lstrip("/")

    def text(self, absolute: str | Path) -> str | None:
        """Return what a file says; None: it is not there or cannot be read."""
        try:
            return self.path(absolute).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    @property
    def here(self) -> bool:
        """Whether it is this machine and not a recorded one."""
        return self.root == Path("/")

    @cached_property
    def catalogue(self) -> Catalogue:
        """The token families known."""
        return Catalogue.of(self.settings)

    @cached_property
    def choice(self) -> KeyChoice:
        """Which key was asked for; a selector that is no URI is judged elsewhere and asks for none."""
        try:
            asked = TokenUri.parse(self.selector) if self.selector and TokenUri.names(self.selector) else TokenUri()
        except InputError:
            asked = TokenUri()
        return KeyChoice(self.key_id or asked.id, asked.object, self.certificate)

    @cached_property
    def usb(self) -> tuple[UsbDevice, ...] | None:
        """What is on the USB bus; None: there is no USB here."""
        return usb_devices(self.path("/sys/bus/usb/devices"), self.path("/dev"))

    @cached_property
    def scene(self) -> pcsc.Scene:
        """What PC/SC shows: readers and cards, or why it cannot be asked."""
        with pcsc.Monitor() as monitor:
            return monitor.wait(None, pcsc.DEADLINE_S)

    @property
    def pcscd_socket(self) -> str:
        """Where its programs look for pcscd."""
        return self.environ.get(pcscd.VARIABLE) or pcscd.SOCKET

    @cached_property
    def hail(self) -> str:
        """What comes back from pcscd's own socket: the protocol that it speaks, or why nothing does."""
        return pcscd.hail(self.path(self.pcscd_socket))

    @cached_property
    def logs(self) -> str:
        """The last lines of the system's log about pcscd, polkit and USB; empty where there is none to be read."""
        return self.log if self.log is not None else _journal() if self.here else ""

    @cached_property
    def architecture(self) -> str:
        """The processor that this interpreter's libraries are for, such as ``x86_64``; 32-bit ones end in ``-32``."""
        machine = platform.machine()
        narrow = struct.calcsize("P") < _WIDE and not machine.startswith(("i", "arm"))
        return f"{machine}-32" if narrow else machine

    @cached_property
    def kind(self) -> str:
        """What it is: ``wsl``, ``vm``, ``container``, ``snap``, ``flatpak`` or ``plain``."""
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
