"""Where worker processes come from: a process that has imported everything but a vendor's module, and forks.

To start an interpreter and import takes longer than most modules take to load, and a program that looks at five of them
would pay for it five times. The nursery is started once for a program and its user. It has one thread, never loads a
module and never holds a secret; each worker is a fork of it in a session of its own, with the environment of the
program at that moment. It goes when the program does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ushield_hw.cryptoki import wire

_BOOT: Final = (
    "import sys,json,socket;sys.path[:0]=json.loads(sys.argv[1]);"
    "from ushield_hw.cryptoki.nursery import serve;serve(socket.socket(fileno=int(sys.argv[2])))"
)
_FORK, _END = b"F", b"E"
_ANSWER_S: Final = 20.0  # to start and import on a busy machine
_REAPED_S: Final = 1.0
_LOST: Final = 255  # how a process ended that nobody can tell of


class Child:
    """A worker process. Like ``subprocess.Popen``, though it is another process's child.

    Attributes:
        pid: its process id.
    """

    def __init__(self, nursery: _Nursery, pid: int) -> None:
        self.pid = pid
        self._nursery = nursery
        self._code: int | None = None
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._descriptor = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def poll(self) -> int | None:
        """Return how it ended (a signal as a negative number), or None."""
        if self._owner != os.getpid():  # in a fork of the owner: not ours
            return _LOST
        if self._code is None and self._is_over(0):
            with self._lock:
                if self._code is None:
                    self._code = self._nursery.ended(self.pid)
        return self._code

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until it has ended, and return how.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while (code := self.poll()) is None:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired("worker", timeout_s or 0)
            self._is_over(left)
        return code

    def kill(self) -> None:
        """End it."""
        if self._owner != os.getpid():
            return
        with suppress(ProcessLookupError):
            if self._descriptor is not None:
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            elif self._code is None:
                os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own

    def _is_over(self, wait_s: float | None) -> bool:
        if self._descriptor is not None:
            watch = select.poll()  # one for each call: two threads cannot share it
            watch.register(self._descriptor, select.POLLIN)
            return bool(watch.poll(None if wait_s is None else wait_s * 1000))
        if wait_s:  # where a process cannot be watched, its parent is asked now and then
            time.sleep(min(wait_s, 0.01))
        self._code = self._nursery.ended(self.pid, wait_s=0)
        return self._code is not None


class _Nursery:
    """The owner's side."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        search = [entry for entry in sys.path if entry] + [str(Path(__file__).parents[2])]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, without site or user settings
                [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(search), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # a vendor module's own output goes nowhere
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the person's program; it decides what becomes of a signature
            )
        self._control = ours

    @cached_property
    def _talk(self) -> wire.Channel:
        from ushield_hw.cryptoki import wire  # not while the command is starting

        return wire.Channel(self._control)

    def fork(self, end: socket.socket, shared: int, environment: Mapping[str, str]) -> Child:
        """Start a worker.

        Raises:
            wire.Closed, wire.TimedOut: the nursery is gone, or hangs.
        """
        message = (os.getcwd() if os.path.isdir(os.curdir) else "/", dict(environment))
        with self._lock:
            self._ask(_FORK, message, [end.fileno(), shared])
            pid = self._answer()
        return Child(self, pid)

    def ended(self, pid: int, wait_s: float = _REAPED_S) -> int | None:
        """Return how a worker ended; with ``wait_s`` 0, None: it has not."""
        from ushield_hw.cryptoki import wire

        try:
            with self._lock:
                self._ask(_END, (pid, int(wait_s * 1000)))
                code: int | None = self._talk.receive(_ANSWER_S)
        except (wire.Closed, wire.TimedOut):
            return _LOST
        return code if code is not None or wait_s == 0 else _LOST

    def disown(self) -> None:
        """In a forked child: let go of what would keep the parent's nursery alive after the parent."""
        self._control.close()

    def close(self) -> None:
        """End it; its workers stay."""
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAPED_S)
            return
        self._process.kill()
        self._process.wait()

    def _ask(self, what: bytes, message: object, descriptors: list[int] | None = None) -> None:
        from ushield_hw.cryptoki import wire

        try:
            socket.send_fds(self._control, [what], descriptors or [])
        except OSError as error:
            raise wire.Closed(str(error)) from error
        self._talk.send(message)

    def _answer(self) -> int:
        from ushield_hw.cryptoki import wire

        answer = self._talk.receive(_ANSWER_S)
        if not isinstance(answer, int):
            raise wire.Closed("not an answer")
        return answer


_nurseries: Final[dict[object, _Nursery]] = {}
_lock = threading.Lock()


def fork(end: socket.socket, shared: int, environment: Mapping[str, str]) -> Child:
    """Start a worker process, which talks through ``end``.

    Args:
        end: the worker's end of its control socket.
        shared: the descriptor of the file that both map.
        environment: all its variables.

    Raises:
        wire.Closed: no process can be started.
    """
    from ushield_hw.cryptoki import wire

    for _ in range(2):  # the one there was may have been killed
        nursery = warm()
        try:
            return nursery.fork(end, shared, environment)
        except (wire.Closed, wire.TimedOut):
            _forget(nursery)
    raise wire.Closed("no worker process can be started")


def warm() -> _Nursery:
    """Start the nursery if there is none, and return at once."""
    place = _place()
    with _lock:
        if place not in _nurseries:
            _nurseries[place] = _Nursery()
        return _nurseries[place]


def _place() -> object:
    """Return who we are and where: a program may drop its rights or enter a namespace."""
    user = (os.getresuid(), os.getresgid()) if hasattr(os, "getresuid") else (os.getuid(), os.getgid())
    namespaces = (f"/proc/thread-self/ns/{name}" for name in ("mnt", "net", "ipc", "pid"))
    return sys.executable, user, *(os.stat(path).st_ino for path in namespaces if os.path.exists(path))


def _forget(nursery: _Nursery) -> None:
    with _lock:
        for place, known in list(_nurseries.items()):
            if known is nursery:
                del _nurseries[place]
    nursery.close()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = threading.Lock()
    for nursery in _nurseries.values():
        nursery.disown()
    _nurseries.clear()


os.register_at_fork(after_in_child=_after_fork)


# --- the process itself -----------------------------------------------------------------------------------------------


def serve(control: socket.socket) -> None:
    """Fork workers until the owner closes its end."""
    from ushield_hw.cryptoki import engine, wire, worker  # noqa: F401 - so that no worker has to

    talk = wire.Channel(control)
    while True:
        what, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not what:
            os._exit(0)
        message = talk.receive()
        if what == _FORK:
            talk.send(_forked(control, descriptors, *message))
        else:
            talk.send(_ended(*message))


def _forked(control: socket.socket, descriptors: list[int], folder: str, environment: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        return pid
    try:
        from ushield_hw.cryptoki.worker import serve as work

        control.close()
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        with suppress(OSError):
            os.chdir(folder)
        work(socket.socket(fileno=descriptors[0]), descriptors[1])
    finally:
        os._exit(1)


def _ended(pid: int, wait_ms: int) -> int | None:
    until = time.monotonic() + wait_ms / 1000
    while True:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return _LOST
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.001)
