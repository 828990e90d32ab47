"""Start worker processes, through a fork server that is started once for each program and user.

Starting an interpreter and importing takes longer than loading most modules, and a program that uses five modules would
do it five times. The fork server process itself: :mod:`ushield_hw.backend.forkserver`.
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

_ANSWER_S: Final = 20.0  # timeout of a request, including start and imports on a busy machine
_REAPED_S: Final = 1.0


class Child:
    """A worker process, with an interface like ``subprocess.Popen``; its parent is the fork server.

    If pidfd_open is not available (before Linux 5.3, or forbidden by a sandbox), the end of the process is detected on
    the control socket, whose other end only the worker holds.

    Args:
        server: the fork server.
        pid: its process id.
        control: this process's end of its control socket.
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
        """Return its exit code (a signal as a negative number), or None if it is running."""
        if self._owner != os.getpid():  # in a forked child, which cannot ask the parent's fork server
            return LOST
        if self._code is None and self._is_over(0):
            with self._lock:
                if self._code is None:
                    self._code = self._server.ended(self.pid)
        return self._code

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until it has ended, and return its exit code.

        Args:
            timeout_s: timeout in seconds; None: no timeout.

        Raises:
            subprocess.TimeoutExpired: it is still running.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while (code := self.poll()) is None:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired("worker", timeout_s or 0)
            self._is_over(left)
        return code

    def wait_over(self, wait_s: float) -> bool:
        """Return whether it has ended, after waiting for at most ``wait_s`` seconds."""
        return self._code is not None or self._is_over(wait_s)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._owner != os.getpid():
            return
        with suppress(ProcessLookupError):
            if self._descriptor is not None:
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
            elif self._code is None:
                os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so the process id is not reused

    def _is_over(self, wait_s: float | None) -> bool:
        watch = select.poll()  # a new one for each call: poll objects cannot be shared by threads
        if self._descriptor is not None:
            watch.register(self._descriptor, select.POLLIN)
        elif self._control.fileno() >= 0:
            watch.register(self._control, select.POLLRDHUP)
        else:  # the control socket was closed, so the worker is exiting
            time.sleep(min(0.01, 0.01 if wait_s is None else wait_s))
            self._code = self._server.ended(self.pid, wait_s=0)
            return self._code is not None
        return bool(watch.poll(None if wait_s is None else wait_s * 1000))


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # another system, an older kernel, a sandbox, no free descriptor
        return None


class _ForkServer:
    """Client of the fork server process; starts it.

    Raises:
        DriverError: ``WORKER_NEEDS_ENTRY``, ``WORKER_NO_PYTHON``: there is no interpreter to start; ``SYSTEM_LIMIT``.
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
        from ushield_hw.backend import protocol  # imported late: the command starts the fork server first of all

        if self._channel is None:
            self._channel = protocol.Channel(self._control)
        return self._channel

    def fork(self, control: tuple[socket.socket, socket.socket], shared: int, environment: Mapping[str, str]) -> Child:
        """Start a worker.

        Raises:
            protocol.Closed, protocol.TimedOut: the fork server has ended, or hangs.
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
        """Return the exit code of a worker; None only if ``wait_s`` is 0 and it is still running."""
        from ushield_hw.backend import protocol

        try:
            with self._lock:
                self._ask(END, (pid, int(wait_s * 1000)))
                code: int | None = self._talk.receive(_ANSWER_S)
        except (protocol.Closed, protocol.TimedOut):
            return LOST
        return code if code is not None or wait_s == 0 else LOST

    def disown(self) -> None:
        """Close the socket in a forked child: it would keep the parent's fork server running after the parent."""
        self._control.close()
        self._process.returncode = 0  # not a child of this process; prevents a wait and a ResourceWarning

    def close(self) -> None:
        """Stop the fork server and wait until it has ended; workers that are still running are not killed."""
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
    """Start the fork server process on ``theirs``."""
    command, marked = interpreter.command(theirs.fileno())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        return subprocess.Popen(  # noqa: S603 - a Python interpreter, or a bundle that has called freeze_support
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # discard the output of vendor modules
            stderr=subprocess.DEVNULL,
            env=environment | marked,
            start_new_session=True,  # Ctrl-C must reach only the user's program, which handles a running signature
        )
    except OSError as error:
        raise _refused(error.errno or 0) from error


def _refused(number: int) -> DriverError:
    """Return the error for the errno with which starting a process failed."""
    from ushield_hw.errors import DriverError
    from ushield_hw.system.limits import of_errno

    return of_errno(number) or DriverError("WORKER_NOT_STARTED", reason=os.strerror(number))


def _folder() -> str:
    """Return the working directory, or the root if it was deleted or is not accessible."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


_servers: Final[dict[object, _ForkServer]] = {}
_lock = threading.Lock()


def fork(control: tuple[socket.socket, socket.socket], shared: int, environment: Mapping[str, str]) -> Child:
    """Start a worker process.

    Args:
        control: this process's and the worker's end of its control socket.
        shared: the file descriptor of the shared memory.
        environment: the worker's complete environment.

    Raises:
        DriverError: no process can be started; the error gives the reason.
    """
    from ushield_hw.backend import protocol
    from ushield_hw.errors import DriverError

    for _ in range(2):  # retry once: the existing fork server may have been killed
        server = warm()
        try:
            return server.fork(control, shared, environment)
        except (protocol.Closed, protocol.TimedOut):
            _forget(server)
    raise DriverError("WORKER_NOT_STARTED", reason="the fork server ended")


def warm() -> _ForkServer:
    """Start the fork server if it is not running, and return without waiting for it.

    Raises:
        DriverError: it cannot be started; the error gives the reason.
    """
    place = _place()
    with _lock:
        if place not in _servers:
            _servers[place] = _ForkServer()
            _ending_with_multiprocessing()
        return _servers[place]


@atexit.register
def close_all() -> None:
    """Stop every fork server and wait for it, so that no process is left when the program exits."""
    with _lock:
        found = list(_servers.values())
        _servers.clear()
    for server in found:
        server.close()


def _ending_with_multiprocessing() -> None:
    """Register the same cleanup with multiprocessing, whose child processes exit without running atexit handlers."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, _close_with_modules, exitpriority=0)


def _close_with_modules() -> None:
    """Close the modules, then the fork servers."""
    if modules := sys.modules.get("ushield_hw.backend.module"):
        modules.close_modules()
    close_all()


def _place() -> object:
    """Return process id, executable, user and namespaces: a fork server is valid only as long as none has changed."""
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
