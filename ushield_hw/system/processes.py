"""Who has what open: the programs that talk to pcscd, and those that have a USB device's node open.

Read from ``/proc``; of other users' programs only root sees what they have open. A machine may run thousands of
programs: the look ends after a while and says so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from ushield_hw.system.sockets import lines

PCSCD_SOCKET: Final = "/run/pcscd/pcscd.comm"
PCSCD_VARIABLE: Final = "PCSCLITE_CSOCK_NAME"  # tells PC/SC's library to look elsewhere
_LOOK_S: Final = 1.5
_DAEMON: Final = "pcscd"
_LIBRARY: Final = "libpcsclite"
_OUR_NAMES: Final = {"ushield"}  # the command and its workers keep to themselves what they have open
_PATH: Final = 7  # the column of /proc/net/unix
_PARENT: Final = 1  # in /proc/PID/stat, after the name: the state, then the parent's id


ANOTHER: Final = "another program"
"""What stands for a program that does not show that it has a card."""

_NAMED_S: Final = 0.3  # for the names in an error: nobody waits longer for them
_FRESH_S: Final = 1.0  # several errors of one card that is in use want the same names
_MOST_NAMED: Final = 3


class Host(Protocol):
    """The machine that is looked at: this one, or a recorded one."""

    @property
    def pcscd_socket(self) -> str:
        """Where its programs look for pcscd."""

    def path(self, absolute: str | Path, /) -> Path:
        """Return where a path of that machine is here."""

    def text(self, absolute: str | Path, /) -> str | None:
        """Return what a file says; None: it is not there or cannot be read."""


class Here:
    """This machine."""

    @property
    def pcscd_socket(self) -> str:
        """Where programs look for pcscd."""
        return os.environ.get(PCSCD_VARIABLE) or PCSCD_SOCKET

    def path(self, absolute: str | Path, /) -> Path:
        """Return a path."""
        return Path(absolute)

    def text(self, absolute: str | Path, /) -> str | None:
        """Return what a file says; None: it is not there or cannot be read."""
        try:
            return Path(absolute).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None


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


def processes(machine: Host) -> Iterator[Process]:
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


def named(machine: Host, *names: str) -> list[Process]:
    """Return the programs of these names."""
    return [process for process in processes(machine) if process.name in names]


def users_of_pcsc(machine: Host, within_s: float = _LOOK_S) -> Holders:
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


_named: Final[list[tuple[float, tuple[str, ...]]]] = []  # when card_users() looked last, and whom it found
_naming = threading.Lock()


def card_users(within_s: float = _NAMED_S) -> tuple[str, ...]:
    """Return the programs that use smart cards here, each as ``name (pid)``: who keeps a card is one of them.

    None where nobody shows it, or where that takes too long to find out.
    """
    if not _naming.acquire(timeout=within_s):
        return ()
    try:
        if not _named or time.monotonic() - _named[-1][0] > _FRESH_S:
            found = _looked_up(within_s)
            _named[:] = [(time.monotonic(), found)]
        return _named[-1][1]
    finally:
        _naming.release()


def holder(users: Sequence[str]) -> str:
    """Return who keeps a card, as an error names it: the only user of cards, or those that it is one of."""
    more = "" if len(users) <= _MOST_NAMED else " / …"
    return " / ".join(users[:_MOST_NAMED]) + more if users else ANOTHER


def _looked_up(within_s: float) -> tuple[str, ...]:
    """Look in a thread: reading the files of thousands of programs cannot be given a deadline otherwise."""
    answer: list[Holders] = []
    thread = threading.Thread(
        target=lambda: answer.append(users_of_pcsc(Here(), within_s)), name="who uses cards", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:  # can't start new thread
        return ()
    thread.join(within_s)
    return answer[0].programs if answer else ()


def _after_fork() -> None:
    """In a forked child: another thread of its parent may have been looking."""
    global _naming  # noqa: PLW0603
    _naming = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _connections(machine: Host) -> set[str]:
    """Return the clients' ends of the connections to the pcscd that this program asks, as ``/proc`` writes sockets.

    pcscd's own ends bear its socket's path as it is in its own view of the file system: a pcscd in a container may have
    one of the same path, and ours may call it otherwise. A daemon that shows what it has open is told by that.
    """
    known, place = lines(), machine.path(machine.pcscd_socket).resolve()
    peers, shown = set[int](), set[str]()
    for daemon in named(machine, _DAEMON):
        opened, here = set(_open_or_nothing(daemon)), _paths(daemon, place)
        peers |= {line.peer for line in known if line.name in here and f"socket:[{line.inode}]" in opened}
        shown |= opened
    hidden = (line for line in known if line.name == str(place) and f"socket:[{line.inode}]" not in shown)
    return {f"socket:[{peer}]" for peer in peers | {line.peer for line in hidden} if peer}


def _paths(daemon: Process, place: Path) -> set[str]:
    """Return what a daemon calls the socket at a place; it has others: a reader may be behind one."""
    return {path for path in _bound(daemon) if _is_there(daemon, path, place)}


def _is_there(daemon: Process, path: str, place: Path) -> bool:
    """Tell whether what a daemon has bound to a path is the socket at a place."""
    try:
        return os.path.samestat(os.stat(f"{daemon.folder}/root{path}"), place.stat())
    except FileNotFoundError:
        return False
    except OSError:  # another user's: its own view cannot be seen
        return path == str(place)


def _bound(daemon: Process) -> set[str]:
    """Return the paths of the sockets in a daemon's network namespace, as it sees them; none: not shown."""
    try:
        text = (daemon.folder / "net" / "unix").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    rows = (line.split(maxsplit=_PATH) for line in text.splitlines()[1:])
    return {row[_PATH] for row in rows if len(row) > _PATH and row[_PATH].startswith("/")}


def users_of_node(machine: Host, node: Path, within_s: float = _LOOK_S) -> Holders:
    """Return the programs, but for pcscd and our own, that have a device's node open."""
    wanted = f"/{node.relative_to(machine.path('/'))}"
    return _holders(machine, lambda process: wanted in _open(process), within_s)


def _holders(machine: Host, holds: Callable[[Process], bool], within_s: float) -> Holders:
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


def _made(machine: Host, found: Sequence[Process], about: Holders) -> Holders:
    foreign = tuple(str(process) for process in found if _is_foreign(machine, process))
    return replace(about, programs=tuple(map(str, found)), foreign=foreign)


def _is_foreign(machine: Host, process: Process) -> bool:
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


def _live(machine: Host) -> bool:
    """Tell whether the programs are those that run here, and not recorded ones."""
    return machine.path("/proc").resolve() == Path("/proc")


def _ours(machine: Host, pid: int) -> bool:
    """Tell whether a program is this one or was started by it: a worker."""
    while pid > 1:
        if pid == os.getpid():
            return True
        stat = (machine.text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
        pid = int(stat[_PARENT]) if len(stat) > _PARENT else 0
    return False
