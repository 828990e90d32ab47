"""The fork server process: it has imported everything except a vendor module, and forks worker processes.

It has one thread, never loads a module and never holds a secret. Each worker is forked from it, in its own POSIX
session and with the parent program's environment at that moment. The fork server exits when the parent program exits,
after its workers. :mod:`ushield_hw.backend.spawn` starts it and sends the requests.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from contextlib import suppress
from typing import Final

FORK: Final = b"F"
"""Request: start a worker."""

END: Final = b"E"
"""Request: return the exit code of a worker."""

LOST: Final = 255
"""Exit code of a process whose exit code cannot be determined."""

_LAST_WORKERS_S: Final = 4.0  # longer than a worker needs to exit after its parent program has exited


def serve(control: socket.socket) -> None:
    """Fork workers until the parent program closes its end of the socket; then reap the remaining workers.

    Args:
        control: the fork server's end of the socket.
    """
    from ushield_hw.backend import protocol, worker  # noqa: F401 - imported once here instead of in each worker
    from ushield_hw.backend.pkcs11 import engine  # noqa: F401

    talk = protocol.Channel(control)
    with suppress(OSError, protocol.Closed):
        while True:
            what, descriptors, _, _ = socket.recv_fds(control, 1, 2)
            if not what:
                break
            message = talk.receive()
            talk.send(_forked(control, descriptors, *message) if what == FORK else _ended(*message))
    control.close()
    _reap_all(_LAST_WORKERS_S)
    os._exit(0)


def _forked(control: socket.socket, descriptors: list[int], folder: str, environment: dict[str, str]) -> int:
    """Fork a worker.

    Returns:
        Its process id, or an errno as a negative number.
    """
    try:
        if len(descriptors) != 2:  # noqa: PLR2004 - over RLIMIT_NOFILE the kernel drops descriptors
            return -errno.EMFILE
        pid = os.fork()
    except OSError as error:
        pid = -(error.errno or errno.EAGAIN)
    if pid:
        for descriptor in descriptors:
            os.close(descriptor)
        return pid
    try:
        from ushield_hw.backend.worker import serve as work

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
            return LOST
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.001)


def _reap_all(wait_s: float) -> None:
    """Reap every child; a worker that its module keeps from exiting is left to init."""
    until = time.monotonic() + wait_s
    with suppress(ChildProcessError):
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
