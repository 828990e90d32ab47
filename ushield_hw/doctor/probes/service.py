"""B: the PC/SC service. Check that pcscd runs, answers, and accepts this user and program.

Without the service only cards are unavailable: as long as no reader is on the bus this is a warning.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from ushield_hw.doctor.finding import Priority, Rule, Said, Way, causes, fail, ok, probe, skip, warn
from ushield_hw.doctor.inspect import pcscd, pcsclite
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.bus import ccid_devices, permission_of
from ushield_hw.system import installation
from ushield_hw.system.pcsc import EXTRA, NO_PYSCARD, Failure
from ushield_hw.system.processes import named

_PCSC: Final = Rule(way=Way.PCSC)
_NO_LIBRARY: Final = "NO_LIBRARY"
_NO_ANSWER: Final = "NO_ANSWER"
_REFUSED: Final = {"SCARD_W_SECURITY_VIOLATION", "SCARD_E_NO_ACCESS"}
_NOT_AUTHORIZED: Final = re.compile(r"NOT authorized for action: (access_\w+)|Rejected unauthorized PC/SC client")
_CLIENT_PROTOCOL: Final = re.compile(r"Client protocol is (\d+:\d+)")
_DENIED_BY_POLICY: Final = re.compile(r"(?:avc:\s+denied|apparmor=\"DENIED\").*pcsc")
_HIDEPID: Final = re.compile(r"\bhidepid=(\w+)")
_SANDBOXES: Final = {"snap", "flatpak"}
_OTHER_DAEMONS: Final = ("pcscd_wd", "ifdhandler")  # of Watchdata and of OpenCT
_POLKIT_RULES: Final = ("/etc/polkit-1/rules.d", "/usr/share/polkit-1/rules.d", "/usr/local/share/polkit-1/rules.d")


def _said(failure: Failure, **more: Any) -> dict[str, Any]:
    """Return the PC/SC error as evidence."""
    return {"function": failure.function, "name": failure.name, "number": f"0x{failure.number:08X}", **more}


def _missing(machine: Machine, **evidence: Any) -> Said:
    """Return a failure if a CCID device is on the bus, else a warning: the service may not be needed then."""
    devices = [device.id for device in ccid_devices(machine)]
    return fail(**evidence, devices=devices) if devices else warn(**evidence, devices=["-"])


def _isolation(machine: Machine) -> str:
    """Return what separates this program from the host's /run: ``container`` or ``chroot``; empty: nothing."""
    if machine.kind == "container":
        return "container"
    first, own = machine.path("/proc/1/root/."), machine.path("/.")
    try:
        return "" if os.path.samestat(os.stat(first), os.stat(own)) else "chroot"
    except OSError:  # only root may compare, and only root can create a chroot
        return ""


def _out_of_reach(machine: Machine) -> bool:
    """Return whether only the host can provide the service."""
    kind = _isolation(machine)
    own = bool(pcsclite.program(machine)) and pcscd.dangling(machine.path(machine.pcscd_socket)) is None
    return kind == "chroot" or (kind == "container" and not own)


def _socket(machine: Machine) -> str:
    """Return the path of pcscd's socket and, if set, the variable that defines it."""
    named = machine.environ.get(pcscd.VARIABLE)
    return f"{machine.pcscd_socket} ({pcscd.VARIABLE})" if named else machine.pcscd_socket


# --- no answer --------------------------------------------------------------------------------------------------------


@probe("B11", "service.running", Rule(warned=Priority.ABSENT, way=Way.PCSC))
def not_running(machine: Machine) -> Said:
    """Check that pcscd is installed and was started."""
    failure = machine.reader_list.failure
    if failure is None:
        return ok(socket=machine.pcscd_socket)
    if machine.system != "linux":
        return skip("not_on_this_system")
    if failure.name == NO_PYSCARD:
        evidence = {"kind": "package", "install": installation.command_for(EXTRA)}
        return _missing(machine, program=pcsclite.program(machine) or "-", **evidence)
    program, library = pcsclite.program(machine), failure.name != _NO_LIBRARY
    if library and machine.hail != pcscd.ABSENT:
        return skip("somebody_is_there", **_said(failure))
    if machine.kind in _SANDBOXES or _out_of_reach(machine):
        return skip("other_namespace", **_said(failure))  # reported as B18 or B22
    evidence = _said(failure, socket=_socket(machine), program=program or "-", library=library)
    evidence.update(_why_absent(machine, installed=bool(program), library=library))
    return _missing(machine, **evidence)


def _why_absent(machine: Machine, *, installed: bool, library: bool) -> dict[str, str]:
    """Return why the socket is missing, as far as this can be determined."""
    if not library:
        return {"kind": "library"}
    link = pcscd.dangling(machine.path(machine.pcscd_socket))
    if link is not None:
        return {"kind": "link", "target": os.readlink(link)}
    there = next((place for place in pcscd.PLACES if place != machine.pcscd_socket and _listens(machine, place)), None)
    if there is not None:
        return {"kind": "elsewhere", "there": there, "variable": pcscd.VARIABLE}
    if not installed:
        return {"kind": "missing"}
    return {"kind": "variable" if pcscd.VARIABLE in machine.environ else "stopped", "variable": pcscd.VARIABLE}


def _listens(machine: Machine, place: str) -> bool:
    return ":" in pcscd.hail(machine.path(place))


@probe("B12", "service.answers", _PCSC)
def no_answer(machine: Machine) -> Said:
    """Check that pcscd answers: it may have exited and left its socket, or hang."""
    failure = machine.reader_list.failure
    if failure is None:
        return ok(socket=machine.pcscd_socket)
    hail = machine.hail
    # it sends its version and then nothing
    hangs = hail == pcscd.SILENT or (failure.name == _NO_ANSWER and ":" in hail)
    if hail != pcscd.DEAF and not hangs:
        return skip("other_cause", **_said(failure))
    kind = "hangs" if hangs else "gone"
    return fail(kind=kind, **_said(failure, socket=_socket(machine), hail=hail))


# --- Windows; tested with recorded data only --------------------------------------------------------------------------


@probe("B13", "service.windows", _PCSC)
def windows_service_stopped(machine: Machine) -> Said:
    """Check the Windows service, which stops when the last reader is removed."""
    if machine.system != "win32":
        return skip("not_on_this_system")
    failure = machine.reader_list.failure
    stopped = failure is not None and failure.name in {"SCARD_E_NO_SERVICE", "SCARD_E_SERVICE_STOPPED"}
    return warn(**_said(failure, service="SCardSvr")) if failure and stopped else ok(service="SCardSvr")


@probe("B14", "service.remote_desktop", _PCSC)
def remote_desktop(machine: Machine) -> Said:
    """Check for a remote desktop session, which only shows readers of the client machine."""
    if machine.system != "win32":
        return skip("not_on_this_system")
    session = machine.environ.get("SESSIONNAME", "")
    remote = session.upper().startswith("RDP-")
    return fail(session=session) if remote and not machine.reader_list.readers else ok(session=session)


@probe("B15", "service.service_account", _PCSC)
def service_account(machine: Machine) -> Said:
    """Check for a Windows service account: session 0 has no readers of the user."""
    if machine.system != "win32":
        return skip("not_on_this_system")
    account, failure = machine.environ.get("USERNAME", ""), machine.reader_list.failure
    alone = "SESSIONNAME" not in machine.environ and (account.endswith("$") or account.upper() == "SYSTEM")
    if not alone or failure is None:
        return ok(account=account)
    return fail(**_said(failure, account=account))


# --- access denied ----------------------------------------------------------------------------------------------------


def _turned_away(machine: Machine) -> bool:
    """Return whether pcscd or the permissions of its socket deny access to this user."""
    failure = machine.reader_list.failure
    if failure is None:
        return False
    return failure.name in _REFUSED or machine.hail in {pcscd.BARRED, pcscd.CLOSED}


@probe("B16", "service.authorized", Rule(way=Way.PCSC, after=causes("B17 B21")))
def not_authorized(machine: Machine) -> Said:
    """Check that polkit, the socket's mode and security profiles allow this session to use PC/SC."""
    failure = machine.reader_list.failure
    if failure is None:
        return ok()
    if machine.system != "linux" or not _turned_away(machine):
        return skip("other_cause", **_said(failure))
    said = [found.strip() for found in machine.logs.splitlines() if _NOT_AUTHORIZED.search(found)]
    # the last line is reported: prefer one that names the process and the action
    said.sort(key=lambda line: "Process" in line)
    evidence = {"hail": machine.hail, "session": _session(machine), "rules": _rules(machine) or ["-"]}
    evidence.update(socket=_socket(machine), log=said[-1] if said else "-")
    return fail(**_said(failure, **evidence, **_barrier(machine)))


def _barrier(machine: Machine) -> dict[str, str]:
    """Return what prevents this user from opening the socket; empty if it opens and pcscd refuses."""
    place = Path(os.path.realpath(machine.path(machine.pcscd_socket)))
    if machine.hail != pcscd.BARRED:
        return {}
    closed = next((up for up in reversed(place.parents) if os.path.isdir(up) and not os.access(up, os.X_OK)), None)
    if closed is not None:
        return {"kind": "folder", **permission_of(machine, closed)}
    if not place.exists():
        return {}
    if not os.access(place, os.R_OK | os.W_OK):
        return {"kind": "mode", **permission_of(machine, place)}
    profile = (machine.text("/proc/self/attr/current") or "").strip("\0\n ")
    return {"kind": "policy", "profile": profile or "-"}


def _session(machine: Machine) -> str:
    if "SSH_CONNECTION" in machine.environ:
        return "ssh"
    return machine.environ.get("XDG_SESSION_TYPE") or "-"


def _rules(machine: Machine) -> list[str]:
    """Return the polkit rule files that mention PC/SC."""
    files = (file for folder in _POLKIT_RULES for file in sorted(machine.path(folder).glob("*.rules")))
    paths = (f"/{file.relative_to(machine.root)}" for file in files)
    return [path for path in paths if "pcsc-lite" in (machine.text(path) or "")]


@probe("B17", "service.hidepid", Rule(way=Way.PCSC, after=causes("B21")))
def hidden_processes(machine: Machine) -> Said:
    """Check hidepid of /proc, which prevents polkit from determining the session of a program."""
    mounts = (
        line for line in (machine.text("/proc/mounts") or "").splitlines() if line.split()[1:3] == ["/proc", "proc"]
    )
    options = [found.group(1) for line in mounts if (found := _HIDEPID.search(line))]
    hidepid = options[-1] if options else "0"
    if hidepid in {"0", "off"} or not _turned_away(machine):
        return ok(hidepid=hidepid)
    return fail(hidepid=hidepid)


@probe("B18", "service.container", Rule(warned=Priority.ABSENT, way=Way.PCSC))
def out_of_reach(machine: Machine) -> Said:
    """Check whether a container or a chroot lacks pcscd's socket."""
    failure, kind = machine.reader_list.failure, _isolation(machine)
    if not kind:
        return skip("not_apart")
    if failure is None:
        return ok(kind=kind)
    if machine.hail != pcscd.ABSENT or not _out_of_reach(machine):
        return skip("other_cause", **_said(failure))
    link = pcscd.dangling(machine.path(machine.pcscd_socket))
    if link is not None:
        evidence = {"kind": "link", "where": kind, "target": os.readlink(link)}
        return _missing(machine, **_said(failure, socket=_socket(machine), **evidence))
    return _missing(machine, **_said(failure, kind=kind, socket=_socket(machine)))


@probe("B19", "service.protocol", Rule(way=Way.PCSC, after=causes("B21")))
def protocol_differs(machine: Machine) -> Said:
    """Check whether pcscd rejected this program's PC/SC library because of a different version."""
    failure = machine.reader_list.failure
    if failure is None:
        return ok()
    hail = machine.hail
    if ":" not in hail or _turned_away(machine) or failure.name in {_NO_LIBRARY, _NO_ANSWER}:
        return skip("other_cause", **_said(failure))
    logged = _CLIENT_PROTOCOL.findall(machine.logs)
    files = [library.path for library in pcsclite.libraries(machine)]
    return fail(**_said(failure, server=hail, client=logged[-1] if logged else "?", libraries=files or ["-"]))


@probe(
    "B20",
    "service.one_library",
    Rule(way=Way.PCSC, after=causes("B11 B12 B16 B18 B19 B21 B22")),
)
def two_libraries(machine: Machine) -> Said:
    """Check for two installations of pcsc-lite: a program may use the socket of the one that is not running."""
    found = pcsclite.libraries(machine)
    evidence = {"libraries": [str(library) for library in found]}
    if len(found) < 2:  # noqa: PLR2004
        return ok(**evidence)
    if machine.reader_list.failure:
        return fail(**evidence)
    return warn(**evidence) if len({library.looks_in for library in found}) > 1 else ok(**evidence)


@probe("B21", "service.security_module", _PCSC)
def denied_by_policy(machine: Machine) -> Said:
    """Check whether SELinux or AppArmor denies access to pcscd, or pcscd's access to the reader."""
    lines = [line.strip() for line in machine.logs.splitlines() if _DENIED_BY_POLICY.search(line)]
    enforcing = (machine.text("/sys/fs/selinux/enforce") or "").strip() == "1"
    if not lines:
        return ok(enforcing=enforcing)
    evidence = {"module": "AppArmor" if "apparmor" in lines[-1] else "SELinux", "denials": len(lines), "log": lines[-1]}
    return fail(**evidence) if machine.reader_list.failure else warn(**evidence)


@probe("B22", "service.sandbox", Rule(warned=Priority.ABSENT, way=Way.PCSC))
def sandboxed(machine: Machine) -> Said:
    """Check whether a snap or a flatpak lacks access to pcscd's socket."""
    failure = machine.reader_list.failure
    if machine.kind not in _SANDBOXES:
        return skip("not_sandboxed")
    if failure is None:
        return ok(kind=machine.kind)
    if machine.hail not in {pcscd.ABSENT, pcscd.BARRED}:
        return skip("other_cause", **_said(failure))
    name = machine.environ.get("SNAP_NAME") or machine.environ.get("FLATPAK_ID") or "-"
    return _missing(machine, **_said(failure, kind=machine.kind, app=name, socket=_socket(machine)))


@probe("B23", "service.one_driver", _PCSC)
def two_drivers(machine: Machine) -> Said:
    """Check for a vendor daemon beside pcscd, and for two drivers that claim the same reader."""
    daemons = [str(process) for process in named(machine, *_OTHER_DAEMONS)]
    rivals = sorted({bundle.path for one in ccid_devices(machine) for bundle in _claiming(machine, one.id)})
    if not daemons and not rivals:
        return ok()
    return warn(daemons=daemons or ["-"], bundles=rivals or ["-"])


def _claiming(machine: Machine, usb: str) -> list[pcsclite.Bundle]:
    """Return the drivers that claim a device, if there is more than one."""
    found = [bundle for bundle in pcsclite.bundles(machine) if usb in bundle.ids]
    return found if len(found) > 1 else []


PROBES: Final = (
    not_running,
    no_answer,
    windows_service_stopped,
    remote_desktop,
    service_account,
    not_authorized,
    hidden_processes,
    out_of_reach,
    protocol_differs,
    two_libraries,
    denied_by_policy,
    sandboxed,
    two_drivers,
)
