"""The fork server's process: it has imported everything but a vendor's module, and forks workers for its owner.

It has one thread, never loads a module and never holds a secret; each worker is a fork of it in a session of its own,
with the environment of the program at that moment. It ends when the program does, after its workers. How it is started
and asked: :mod:`ushield_hw.backend.spawn`.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from contextlib import suppress
from typing import Final

FORK: Final = b"F"
"""Ask for a worker."""

END: Final = b"E"
"""Ask how a worker ended."""

LOST: Final = 255
"""How a process ended that nobody can tell of."""

_LAST_WORKERS_S: Final = 4.0  # more than a worker takes to end once its owner is gone


def serve(control: socket.socket) -> None:
    """Fork workers until the owner closes its end; then wait for those that are left, as only their parent can."""
    from ushield_hw.backend import (
        protocol,
        worker,  # noqa: F401 - so that no worker has to
    )

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
    """Fork a worker; return its process id, or an errno as a negative number."""
    try:
        if len(descriptors) != 2:  # noqa: PLR2004 - the kernel dropped what this process has no room for
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
    """Wait for every child; one that a module keeps from ending is left to the system."""
    until = time.monotonic() + wait_s
    with suppress(ChildProcessError):
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
