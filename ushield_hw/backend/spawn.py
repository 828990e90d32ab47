"""Start worker processes, through a fork server that is started once for a program and its user.

To start an interpreter and import takes longer than most modules take to load, and a program that looks at five of
them would pay for it five times. What the fork server does: :mod:`ushield_hw.backend.forkserver`.
"""

from __future__ import annotations

import atexit
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
from typing import TYPE_CHECKING, Any, Final

from ushield_hw.backend import interpreter
from ushield_hw.backend.forkserver import END, FORK, LOST

if TYPE_CHECKING:
    from ushield_hw.backend import protocol
    from ushield_hw.errors import DriverError

_ANSWER_S: Final = 20.0  # to start and import on a busy machine
_REAPED_S: Final = 1.0


class Child:
    """A worker process. Like ``subprocess.Popen``, though it is another process's child.

    Where the kernel gives no pidfd (before Linux 5.3, or a sandbox that forbids it), its end is seen on its control
    socket instead, whose other end only it holds.

    Args:
        server: its parent.
        pid: its process id.
        control: the owner's end of its control socket.
    """

    def __init__(self, server: _ForkServer, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self._server = server
        self._control = control
        self._code: int | None = None
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._descriptor = _pidfd(pid)

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def poll(self) -> int | None:
        """Return how it ended (a signal as a negative number), or None."""
        if self._owner != os.getpid():  # in a fork of the owner: not ours
            return LOST
        if self._code is None and self._is_over(0):
            with self._lock:
                if self._code is None:
                    self._code = self._server.ended(self.pid)
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

    def wait_over(self, wait_s: float) -> bool:
        """Tell whether it has ended, after waiting for that at most so long."""
        return self._code is not None or self._is_over(wait_s)

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
        watch = select.poll()  # one for each call: two threads cannot share it
        if self._descriptor is not None:
            watch.register(self._descriptor, select.POLLIN)
        elif self._control.fileno() >= 0:
            watch.register(self._control, select.POLLRDHUP)
        else:  # the owner has let go of it, so it is ending
            time.sleep(min(0.01, 0.01 if wait_s is None else wait_s))
            self._code = self._server.ended(self.pid, wait_s=0)
            return self._code is not None
        return bool(watch.poll(None if wait_s is None else wait_s * 1000))


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # another system, an older kernel, a sandbox, no descriptor left
        return None


class _ForkServer:
    """The owner's side.

    Raises:
        DriverError: ``WORKER_NEEDS_ENTRY``, ``WORKER_NO_PYTHON``: there is no Python to start; ``SYSTEM_LIMIT``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _started(theirs)
        except BaseException:
            ours.close()
            raise
        self._control = ours
        self._channel: protocol.Channel | None = None

    @property
    def _talk(self) -> protocol.Channel:
        from ushield_hw.backend import protocol  # not while the command is starting

        if self._channel is None:
            self._channel = protocol.Channel(self._control)
        return self._channel

    def fork(self, control: tuple[socket.socket, socket.socket], shared: int, environment: Mapping[str, str]) -> Child:
        """Start a worker.

        Raises:
            protocol.Closed, protocol.TimedOut: the fork server is gone, or hangs.
            DriverError: ``SYSTEM_LIMIT``.
        """
        ours, theirs = control
        with self._lock:
            self._ask(FORK, (_folder(), dict(environment)), [theirs.fileno(), shared])
            answer = self._talk.receive(_ANSWER_S)
        if not isinstance(answer, int):
            from ushield_hw.backend import protocol

            raise protocol.Closed("not an answer")
        if answer < 0:
            raise _refused(-answer)
        return Child(self, answer, ours)

    def ended(self, pid: int, wait_s: float = _REAPED_S) -> int | None:
        """Return how a worker ended; with ``wait_s`` 0, None: it has not."""
        from ushield_hw.backend import protocol

        try:
            with self._lock:
                self._ask(END, (pid, int(wait_s * 1000)))
                code: int | None = self._talk.receive(_ANSWER_S)
        except (protocol.Closed, protocol.TimedOut):
            return LOST
        return code if code is not None or wait_s == 0 else LOST

    def disown(self) -> None:
        """In a forked child: let go of what would keep the parent's fork server alive after the parent."""
        self._control.close()
        self._process.returncode = 0  # it is no child of ours: nothing to wait for, nothing to warn of

    def close(self) -> None:
        """End it, and wait for that; workers that are still there stay."""
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAPED_S)
            return
        self._process.kill()
        self._process.wait()

    def _ask(self, what: bytes, message: object, descriptors: list[int] | None = None) -> None:
        from ushield_hw.backend import protocol

        try:
            socket.send_fds(self._control, [what], descriptors or [])
        except OSError as error:
            raise protocol.Closed(str(error)) from error
        self._talk.send(message)


def _started(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start the process that serves ``theirs``."""
    command, marked = interpreter.command(theirs.fileno())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        return subprocess.Popen(  # noqa: S603 - a Python, or a bundle that has said that it can do this
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a vendor module's own output goes nowhere
            stderr=subprocess.DEVNULL,
            env=environment | marked,
            start_new_session=True,  # Ctrl-C is for the person's program; it decides what becomes of a signature
        )
    except OSError as error:
        raise _refused(error.errno or 0) from error


def _refused(number: int) -> DriverError:
    """Return the error for an errno with which no process could be started."""
    from ushield_hw.errors import DriverError
    from ushield_hw.system.limits import of_errno

    return of_errno(number) or DriverError("WORKER_NOT_STARTED", reason=os.strerror(number))


def _folder() -> str:
    """Return the working directory, or the root where it was removed or may not be looked at."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


_servers: Final[dict[object, _ForkServer]] = {}
_lock = threading.Lock()


def fork(control: tuple[socket.socket, socket.socket], shared: int, environment: Mapping[str, str]) -> Child:
    """Start a worker process.

    Args:
        control: the owner's and the worker's end of its control socket.
        shared: the descriptor of the file that both map.
        environment: all its variables.

    Raises:
        DriverError: no process can be started; says why.
    """
    from ushield_hw.backend import protocol
    from ushield_hw.errors import DriverError

    for _ in range(2):  # the one there was may have been killed
        server = warm()
        try:
            return server.fork(control, shared, environment)
        except (protocol.Closed, protocol.TimedOut):
            _forget(server)
    raise DriverError("WORKER_NOT_STARTED", reason="the fork server ended")


def warm() -> _ForkServer:
    """Start the fork server if there is none, and return at once.

    Raises:
        DriverError: it cannot be started; says why.
    """
    place = _place()
    with _lock:
        if place not in _servers:
            _servers[place] = _ForkServer()
            _ending_with_multiprocessing()
        return _servers[place]


@atexit.register
def close_all() -> None:
    """End every fork server and wait for it, so that no process of ours is left when the program ends."""
    with _lock:
        found = list(_servers.values())
        _servers.clear()
    for server in found:
        server.close()


def _ending_with_multiprocessing() -> None:
    """Have it closed by a child of multiprocessing too, which ends without running what atexit has."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _close_with_modules, exitpriority=0)


def _close_with_modules() -> None:
    """Let the modules go, and then end what their workers came from."""
    if modules := sys.modules.get("ushield_hw.backend.module"):
        modules.close_modules()
    close_all()


def _place() -> object:
    """Return who we are and where: a program may fork, drop its rights or enter a namespace."""
    user = (os.getresuid(), os.getresgid()) if hasattr(os, "getresuid") else (os.getuid(), os.getgid())
    namespaces = (f"/proc/thread-self/ns/{name}" for name in ("mnt", "net", "ipc", "pid"))
    seen = (os.stat(path).st_ino for path in namespaces if os.path.exists(path))
    return os.getpid(), sys.executable, user, *seen


def _forget(server: _ForkServer) -> None:
    with _lock:
        for place, known in list(_servers.items()):
            if known is server:
                del _servers[place]
    server.close()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = threading.Lock()
    for server in _servers.values():
        server.disown()
    _servers.clear()


os.register_at_fork(after_in_child=_after_fork)
