"""Who has what open: the programs that talk to pcscd, and those that have a USB device's node open.

Read from ``/proc``; of other users' programs only root sees what they have open. A machine may run thousands of
programs: the look ends after a while and says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.inspect.sockets import lines

_LOOK_S: Final = 1.5
_DAEMON: Final = "pcscd"
_LIBRARY: Final = "libpcsclite"
_OUR_NAMES: Final = {"ushield"}  # the command and its workers keep to themselves what they have open
_PATH: Final = 7  # the column of /proc/net/unix
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
        programs: each as ``name (pid)``; a program of ours that does not show what it has open is a possible one.
        hidden: how many programs would not show what they have open: another user's.
        complete: everything was looked at in time.
        foreign: those of another user, which this one cannot end.
        ourselves: this program, or a worker of its own, is among those that have it open.
        unexplained: there may be one that does not show it; False: every end of a connection has been found.
    """

    programs: tuple[str, ...] = ()
    hidden: int = 0
    complete: bool = True
    foreign: tuple[str, ...] = ()
    ourselves: bool = False
    unexplained: bool = True


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
    explained: set[str] = set()

    def uses(process: Process) -> bool:
        sockets = {link for link in _open(process) if link.startswith("socket:")}
        explained.update(sockets & connections)
        if connections or not sockets:
            return not connections.isdisjoint(sockets)
        return _LIBRARY in (process.folder / "maps").read_text(encoding="utf-8", errors="replace")

    found = _holders(machine, uses, within_s)
    return replace(found, unexplained=not connections or not found.complete or bool(connections - explained))


def _connections(machine: Machine) -> set[str]:
    """Return the clients' ends of the connections to the pcscd that this program asks, as ``/proc`` writes sockets.

    pcscd's own ends bear its socket's path, but a pcscd in a container may have one of the same path: where it shows
    what it has open, only the daemon counts whose file that socket is.
    """
    known, place = lines(), machine.path(machine.pcscd_socket).resolve()
    daemons = [daemon for daemon in named(machine, _DAEMON) if _serves(daemon, place)]
    ends = {link for daemon in daemons for link in _open_or_nothing(daemon)}
    by_name = {line for line in known if line.name == str(place) and line.peer}
    if ends:
        by_name = {line for line in by_name if f"socket:[{line.inode}]" in ends}
    by_daemon = {line.inode for line in known if f"socket:[{line.peer}]" in ends}
    return {f"socket:[{inode}]" for inode in {line.peer for line in by_name} | by_daemon}


def _serves(daemon: Process, place: Path) -> bool:
    """Tell whether a daemon listens at a place, which in its own view of the file system may be another file."""
    listening = _listening_at(daemon, str(place))
    if listening and listening.isdisjoint(_open_or_nothing(daemon)):
        return False
    if not listening and _readable(daemon):
        return False
    try:
        return os.path.samestat(os.stat(f"{daemon.folder}/root{place}"), place.stat())
    except FileNotFoundError:
        return False
    except OSError:  # another user's: its own view cannot be seen
        return True


def _readable(daemon: Process) -> bool:
    return os.access(daemon.folder / "net" / "unix", os.R_OK)


def _listening_at(daemon: Process, place: str) -> set[str]:
    """Return the sockets of a path in a daemon's network namespace; the path may be as its own view has it."""
    try:
        text = (daemon.folder / "net" / "unix").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    rows = (line.split(maxsplit=7) for line in text.splitlines()[1:])
    return {f"socket:[{row[6]}]" for row in rows if len(row) > _PATH and row[_PATH] == place}


def users_of_node(machine: Machine, node: Path, within_s: float = _LOOK_S) -> Holders:
    """Return the programs, but for pcscd and our own, that have a device's node open."""
    wanted = f"/{node.relative_to(machine.root)}"
    return _holders(machine, lambda process: wanted in _open(process), within_s)


def _holders(machine: Machine, holds: Callable[[Process], bool], within_s: float) -> Holders:
    found: list[Process] = []
    until, hidden, ourselves = time.monotonic() + within_s, 0, False
    live = _live(machine)
    for process in processes(machine):
        if time.monotonic() > until:
            return _made(machine, found, Holders(hidden=hidden, complete=False, ourselves=ourselves))
        if process.name == _DAEMON:
            continue
        own = live and _ours(machine, process.pid)
        try:
            if holds(process):
                ourselves = ourselves or own
                found += [] if own else [process]
        except PermissionError:
            hidden += 0 if own else 1
            ourselves = ourselves or own  # it keeps to itself what it has open, and may have this
            found += [process] if process.name in _OUR_NAMES and not own else []
        except OSError:
            continue  # it has ended
    return _made(machine, found, Holders(hidden=hidden, ourselves=ourselves))


def _made(machine: Machine, found: Sequence[Process], about: Holders) -> Holders:
    foreign = tuple(str(process) for process in found if _is_foreign(machine, process))
    return replace(about, programs=tuple(map(str, found)), foreign=foreign)


def _is_foreign(machine: Machine, process: Process) -> bool:
    """Tell whether a program is another user's; one that has ended is nobody's."""
    words = (machine.text(f"/proc/{process.pid}/status") or "").partition("\nUid:")[2].split()
    return bool(words) and words[0] != str(os.getuid())


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
