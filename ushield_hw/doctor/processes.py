"""Who has what open: the programs that talk to pcscd, and those that have a USB device's node open.

Read from ``/proc``; of other users' programs only root sees what they have open. A machine may run thousands of
programs: the look ends after a while and says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ushield_hw.doctor.machine import Machine
from ushield_hw.doctor.sockets import lines

_LOOK_S: Final = 1.5
_DAEMON: Final = "pcscd"
_LIBRARY: Final = "libpcsclite"
_PARENT: Final = 1  # in /proc/PID/stat, after the name: the state, then the parent's id


@dataclass(frozen=True, slots=True)
class Process:
    """A program that runs. ``folder``: its folder in ``/proc``."""

    pid: int
    name: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})"


@dataclass(frozen=True, slots=True)
class Holders:
    """Who has something open.

    Attributes:
        programs: each as ``name (pid)``.
        hidden: how many programs would not show what they have open: another user's.
        complete: everything was looked at in time.
    """

    programs: tuple[str, ...] = ()
    hidden: int = 0
    complete: bool = True


def processes(machine: Machine) -> Iterator[Process]:
    """Yield every program that runs."""
    proc = machine.path("/proc")
    try:
        numbers = sorted(int(name) for name in os.listdir(proc) if name.isdecimal())
    except OSError:
        return
    for pid in numbers:
        name = machine.text(f"/proc/{pid}/comm")
        if name is not None:
            yield Process(pid, name.strip(), proc / str(pid))


def named(machine: Machine, *names: str) -> list[Process]:
    """Return the programs of these names."""
    return [process for process in processes(machine) if process.name in names]


def users_of_pcsc(machine: Machine, within_s: float = _LOOK_S) -> Holders:
    """Return the programs, but for pcscd and our own, that have a connection to pcscd.

    Where the kernel does not say whom a socket leads to: those that have PC/SC's library loaded and any connection.
    """
    connections = _connections(machine) if _live(machine) else set()

    def uses(process: Process) -> bool:
        sockets = {link for link in _open(process) if link.startswith("socket:")}
        if connections or not sockets:
            return not connections.isdisjoint(sockets)
        return _LIBRARY in (process.folder / "maps").read_text(encoding="utf-8", errors="replace")

    return _holders(machine, uses, within_s)


def _connections(machine: Machine) -> set[str]:
    """Return the clients' ends of the connections to pcscd, as ``/proc`` writes sockets.

    pcscd's own ends bear its socket's path; one in another network namespace is known by what pcscd has open.
    """
    known, place = lines(), str(machine.path(machine.pcscd_socket).resolve())
    ends = {link for daemon in named(machine, _DAEMON) for link in _open_or_nothing(daemon)}
    by_name = {line.peer for line in known if place.endswith(line.name) and line.name and line.peer}
    by_daemon = {line.inode for line in known if f"socket:[{line.peer}]" in ends}
    return {f"socket:[{inode}]" for inode in by_name | by_daemon}


def users_of_node(machine: Machine, node: Path, within_s: float = _LOOK_S) -> Holders:
    """Return the programs, but for pcscd and our own, that have a device's node open."""
    wanted = f"/{node.relative_to(machine.root)}"
    return _holders(machine, lambda process: wanted in _open(process), within_s)


def _holders(machine: Machine, holds: Callable[[Process], bool], within_s: float) -> Holders:
    found: list[str] = []
    until, hidden = time.monotonic() + within_s, 0
    live = _live(machine)
    for process in processes(machine):
        if time.monotonic() > until:
            return Holders(tuple(found), hidden, complete=False)
        if process.name == _DAEMON or (live and _ours(machine, process.pid)):
            continue
        try:
            if holds(process):
                found.append(str(process))
        except PermissionError:
            hidden += 1
        except OSError:
            continue  # it has ended
    return Holders(tuple(found), hidden)


def _open(process: Process) -> list[str]:
    """Return what its descriptors lead to."""
    found = []
    with os.scandir(process.folder / "fd") as entries:
        for entry in entries:
            try:
                found.append(os.readlink(entry.path))
            except FileNotFoundError:
                continue  # closed meanwhile
    return found


def _open_or_nothing(process: Process) -> list[str]:
    try:
        return _open(process)
    except OSError:
        return []


def _live(machine: Machine) -> bool:
    """Tell whether the programs are those that run here, and not recorded ones."""
    return machine.path("/proc").resolve() == Path("/proc")


def _ours(machine: Machine, pid: int) -> bool:
    """Tell whether a program is this one or was started by it: a worker."""
    while pid > 1:
        if pid == os.getpid():
            return True
        stat = (machine.text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
        pid = int(stat[_PARENT]) if len(stat) > _PARENT else 0
    return False
