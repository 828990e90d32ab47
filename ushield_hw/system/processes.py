"""Find the processes that are connected to pcscd, and those that have the node of a USB device open.

Read from ``/proc``, where only root can see the open files of other users' processes. A machine may run thousands of
processes: each search has a timeout, and the result states whether it is complete.
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
PCSCD_VARIABLE: Final = "PCSCLITE_CSOCK_NAME"  # overrides the path in the PC/SC library
_LOOK_S: Final = 1.5
_DAEMON: Final = "pcscd"
_LIBRARY: Final = "libpcsclite"
_OUR_NAMES: Final = {"ushield"}  # the command and its workers are hardened, so their open files are not visible
_PATH: Final = 7  # the column of /proc/net/unix
_PARENT: Final = 1  # index in /proc/PID/stat, counted after the name: state, parent's process id


ANOTHER: Final = "another program"
"""Stands for a process that cannot be identified."""

_NAMED_S: Final = 0.3  # timeout for finding the names in an error message
_FRESH_S: Final = 1.0  # several errors about one busy card reuse the result
_MOST_NAMED: Final = 3


class Host(Protocol):
    """The machine that is examined: this one, or a recorded one."""

    @property
    def pcscd_socket(self) -> str:
        """Path of pcscd's socket on that machine."""

    def path(self, absolute: str | Path, /) -> Path:
        """Return the local path of a path on that machine."""

    def text(self, absolute: str | Path, /) -> str | None:
        """Return the content of a file; None: it does not exist or cannot be read."""


class Here:
    """This machine."""

    @property
    def pcscd_socket(self) -> str:
        """Path of pcscd's socket."""
        return os.environ.get(PCSCD_VARIABLE) or PCSCD_SOCKET

    def path(self, absolute: str | Path, /) -> Path:
        """Return the path itself."""
        return Path(absolute)

    def text(self, absolute: str | Path, /) -> str | None:
        """Return the content of a file; None: it does not exist or cannot be read."""
        try:
            return Path(absolute).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None


@dataclass(frozen=True, slots=True)
class Process:
    """A running process. ``folder``: its folder in ``/proc``."""

    pid: int
    name: str
    folder: Path

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})"


@dataclass(frozen=True, slots=True)
class Holders:
    """The processes that have something open.

    Attributes:
        programs: each as ``name (pid)``; includes ``ushield`` processes whose open files are not visible.
        hidden: number of processes whose open files are not visible, because they belong to another user.
        complete: all processes were examined before the timeout.
        foreign: those of ``programs`` that belong to another user, who must end them.
        ourselves: this process or one of its workers has it open, or may have.
        unexplained: further processes may have it open; False: the client of every connection was found.
    """

    programs: tuple[str, ...] = ()
    hidden: int = 0
    complete: bool = True
    foreign: tuple[str, ...] = ()
    ourselves: bool = False
    unexplained: bool = True


def processes(machine: Host) -> Iterator[Process]:
    """Yield every running process."""
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
    """Return the processes with one of these names."""
    return [process for process in processes(machine) if process.name in names]


def users_of_pcsc(machine: Host, within_s: float = _LOOK_S) -> Holders:
    """Return the processes that are connected to pcscd, without pcscd, this process and its workers.

    If the kernel does not report the peers of sockets: those that have the PC/SC library loaded and any socket open.

    Args:
        machine: the machine.
        within_s: timeout in seconds.
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


_named: Final[list[tuple[float, tuple[str, ...]]]] = []  # time and result of the last search of card_users()
_naming = threading.Lock()


def card_users(within_s: float = _NAMED_S) -> tuple[str, ...]:
    """Return the processes that use smart cards, each as ``name (pid)``; the holder of a busy card is one of them.

    Empty if none can be identified before the timeout.

    Args:
        within_s: timeout in seconds.
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
    """Return the holder of a card as text for an error: the candidates, or "another program" if there are none.

    Args:
        users: the result of :func:`card_users`.
    """
    more = "" if len(users) <= _MOST_NAMED else " / …"
    return " / ".join(users[:_MOST_NAMED]) + more if users else ANOTHER


def _looked_up(within_s: float) -> tuple[str, ...]:
    """Search in a thread, because reading the files of thousands of processes has no other timeout."""
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
    """Reset the lock in a forked child: another thread of the parent may have held it."""
    global _naming  # noqa: PLW0603
    _naming = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _connections(machine: Host) -> set[str]:
    """Return the client ends of the connections to the pcscd that this process uses, as named in ``/proc/PID/fd``.

    The server ends have the socket's path in pcscd's mount namespace, so a pcscd in a container may have the same path,
    and the right pcscd another one. If the open files of a pcscd are visible, its sockets are identified by them.
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
    """Return the paths, in a daemon's own view, of its socket at ``place``; it may also have sockets for readers."""
    return {path for path in _bound(daemon) if _is_there(daemon, path, place)}


def _is_there(daemon: Process, path: str, place: Path) -> bool:
    """Return whether the socket that a daemon has bound to ``path`` is the one at ``place``."""
    try:
        return os.path.samestat(os.stat(f"{daemon.folder}/root{path}"), place.stat())
    except FileNotFoundError:
        return False
    except OSError:  # another user's process: its mount namespace is not accessible
        return path == str(place)


def _bound(daemon: Process) -> set[str]:
    """Return the paths of the sockets in a daemon's network namespace, in its own view; empty if not accessible."""
    try:
        text = (daemon.folder / "net" / "unix").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    rows = (line.split(maxsplit=_PATH) for line in text.splitlines()[1:])
    return {row[_PATH] for row in rows if len(row) > _PATH and row[_PATH].startswith("/")}


def users_of_node(machine: Host, node: Path, within_s: float = _LOOK_S) -> Holders:
    """Return the processes that have a device node open, without pcscd, this process and its workers.

    Args:
        machine: the machine.
        node: local path of the node.
        within_s: timeout in seconds.
    """
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
            ourselves = ourselves or own  # its open files are not visible, so it may have this open
            found += [process] if process.name in _OUR_NAMES and not own else []
        except OSError:
            continue  # the process has ended
    return _made(machine, found, Holders(hidden=hidden, ourselves=ourselves))


def _made(machine: Host, found: Sequence[Process], about: Holders) -> Holders:
    foreign = tuple(str(process) for process in found if _is_foreign(machine, process))
    return replace(about, programs=tuple(map(str, found)), foreign=foreign)


def _is_foreign(machine: Host, process: Process) -> bool:
    """Return whether a process belongs to another user; False if it has ended."""
    words = (machine.text(f"/proc/{process.pid}/status") or "").partition("\nUid:")[2].split()
    return bool(words) and words[0] != str(os.getuid())


def _open(process: Process) -> list[str]:
    """Return the targets of its file descriptors."""
    found = []
    with os.scandir(process.folder / "fd") as entries:
        for entry in entries:
            try:
                found.append(os.readlink(entry.path))
            except FileNotFoundError:
                continue  # it was closed meanwhile
    return found


def _open_or_nothing(process: Process) -> list[str]:
    try:
        return _open(process)
    except OSError:
        return []


def _live(machine: Host) -> bool:
    """Return whether the processes are those of this machine, not recorded ones."""
    return machine.path("/proc").resolve() == Path("/proc")


def _ours(machine: Host, pid: int) -> bool:
    """Return whether a process is this one or a descendant, such as a worker."""
    while pid > 1:
        if pid == os.getpid():
            return True
        stat = (machine.text(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
        pid = int(stat[_PARENT]) if len(stat) > _PARENT else 0
    return False
