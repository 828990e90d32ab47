"""tpm2-pkcs11 on a software TPM, with the resource manager that it requires.

Three daemons for each test, each on sockets in the test's folder: swtpm (the TPM), a separate D-Bus daemon, and
tpm2-abrmd (the resource manager) on that bus. Without the resource manager the TPM runs out of sessions.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from tests.contract.subjects import Can, Kind, Place, Subject, driver, keys_of
from tests.contract.tokens.daemon import running
from tests.soft import generate_keys
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import User
from ushield_hw.backend.module import Module

DRIVER: Final = driver("tpm2-pkcs11")
CANNOT: Final[Mapping[Can, str]] = {
    Can.PLAIN_PROGRAM: "Its store and its resource manager are named in the environment.",
    Can.PIN_LENGTHS: "Says 0.",
    Can.COUNT_LOW: "Its flags never change, however many PINs were wrong.",
    Can.LOCK: "Locks with the TPM's dictionary attack lockout, which its flags do not announce and the SO cannot lift.",
    Can.SHOWS_OTHERS: "Reads its store when it is initialised, and not again.",
    Can.CHECK_OLD_PIN: "C_SetPIN without a login answers CKR_OK to a wrong old PIN, and changes nothing.",
    Can.PIN_UNSET: "Says that a user PIN is set (CKF_USER_PIN_INITIALIZED) when there is none.",
}
_PROGRAMS: Final = ("/usr/bin/swtpm", "/usr/bin/dbus-daemon", "/usr/sbin/tpm2-abrmd")
_MANAGER: Final = "com.intel.tss2.Tabrmd"
_PIN, _SO_PIN, _LABEL = "2468013", "87654321", "tpm"
_BUS: Final = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={folder}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
</busconfig>
"""


def _environment(folder: Path) -> dict[str, str]:
    return {
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={folder}/bus",
        "TPM2_PKCS11_TCTI": "tabrmd:bus_type=session",
        "TPM2_PKCS11_STORE": str(folder / "store"),
    }


@contextmanager
def _daemons(folder: Path) -> Iterator[None]:
    """Run the TPM and its resource manager on a folder that holds their state."""
    (folder / "bus.conf").write_text(_BUS.format(folder=folder))
    tpm = [
        *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}/state"),
        *("--server", f"type=unixio,path={folder}/tpm", "--ctrl", f"type=unixio,path={folder}/tpm.ctrl"),
        *("--flags", "not-need-init,startup-clear"),
    ]
    bus = ["dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork", "--nopidfile"]
    address = f"DBUS_SESSION_BUS_ADDRESS=unix:path={folder}/bus"
    manager = ["env", address, "tpm2-abrmd", "--session", "--allow-root", f"--tcti=swtpm:path={folder}/tpm"]
    with ExitStack() as stack:
        stack.enter_context(running(tpm, "tpm", folder / "swtpm.log"))
        stack.enter_context(running(bus, "bus", folder / "bus.log"))
        stack.enter_context(running(manager, lambda: _is_on(folder / "bus"), folder / "abrmd.log"))
        yield


def _is_on(bus: Path) -> bool:
    """Tell whether the resource manager has registered its name on a bus."""
    question = (
        "--dest=org.freedesktop.DBus",
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus.NameHasOwner",
        f"string:{_MANAGER}",
    )
    command = ["dbus-send", f"--bus=unix:path={bus}", "--print-reply=literal", *question]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return "true" in done.stdout


def _module(folder: Path) -> Module:
    path = DRIVER.module_files()[0].resolve()
    return Module(path, Isolation.PROCESS, DRIVER.module.options, 60, _environment(folder))


@cache
def _provisioned(folder: Path) -> tuple[Path, str]:
    """Initialise the token once per process; return its folder and its serial number."""
    for name in ("state", "store"):
        (folder / name).mkdir(parents=True)
    with _daemons(folder):
        module = _module(folder)
        slot = module.slots()[0].slot_id
        module.init_token(slot, _SO_PIN, _LABEL)
        so = module.login(slot, User.SO, _SO_PIN)
        module.init_pin(so, _PIN)
        module.logout(so)
        generate_keys(module, module.login(slot, User.USER, _PIN), keys_of(CANNOT))
        serial = module.token(slot).serial
        module.close()
    return folder, serial


@contextmanager
def make(place: Place, isolation: Isolation) -> Iterator[Subject]:
    """Run a TPM for one test on a copy of its state."""
    assert isolation is Isolation.PROCESS
    (kept, serial), folder = _provisioned(place.kept / "tpm2"), place.folder / "tpm2"
    for name in ("state", "store"):
        shutil.copytree(kept / name, folder / name)
    with _daemons(folder), ExitStack() as closing:
        module, elsewhere = _module(folder), _module(folder)
        for one in (elsewhere, module):
            closing.callback(one.close)
        yield Subject(module, elsewhere, serial, _PIN, _SO_PIN, keys_of(CANNOT), _LABEL)


def absent() -> str | None:
    """Return why it is not available."""
    missing = [program for program in _PROGRAMS if not Path(program).exists()]
    if not DRIVER.module_files():
        missing.append("libtpm2_pkcs11.so")
    return f"not installed: {', '.join(missing)} (packages swtpm dbus tpm2-abrmd libtpm2-pkcs11-1)" if missing else None


KIND: Final = Kind(
    "tpm2",
    "tpm2-pkcs11 1.9.0 on swtpm, with tpm2-abrmd",
    make,
    CANNOT,
    ways=(Isolation.PROCESS,),
    one_way="It leaves connections to its resource manager behind; only the end of a process closes them.",
    absent=absent,
)
