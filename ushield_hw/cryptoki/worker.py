"""The worker process: it holds one vendor module, and dies alone.

Started by ``transport`` with one control socket. The first message names the module; each further one brings a new
channel, served by a thread of its own, so that as many calls run at once as the owner has threads. When the owner's end
closes, the worker goes, whatever the module is doing.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ushield_hw.cryptoki import wire
from ushield_hw.cryptoki.ckr import CkrError, LoadFailed, StaleLogin

# How long a module may take to finalise once its owner is gone.
_FAREWELL_S = 2.0


def serve(control: socket.socket, shared: int) -> None:
    """Load the module named by the first message, answer, then serve channels until the owner closes its end.

    Args:
        control: the owner's other end.
        shared: a file of ``wire.MARKS`` bytes that the owner maps too: a byte a channel, set when C_Sign is entered. It
            outlives this process and costs no message.
    """
    _no_core_files()
    marks = mmap.mmap(shared, wire.MARKS)
    talk = wire.Channel(control)
    path, options = talk.receive()
    with _ending_with_the_owner(control):
        engine, answer = _load(path, options)
    talk.send(answer)
    while engine is not None and (channel := _new_channel(control)):
        threading.Thread(target=_serve_channel, args=(*channel, engine, marks), daemon=True).start()
    if engine is not None:
        farewell = threading.Thread(target=_close, args=(engine,), daemon=True)
        farewell.start()
        farewell.join(_FAREWELL_S)
    os._exit(0)  # a module's thread or exit handler must not keep this process


@contextmanager
def _ending_with_the_owner(control: socket.socket) -> Iterator[None]:
    """Have the system end this process when the owner's end closes: a module that hangs while it loads may hold Python.

    The owner says nothing meanwhile, so the only news on the socket (SIGIO, whose default is to end) is its end.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([control], [], [], 0)[0]:  # it had closed before
        os._exit(0)
    yield
    fcntl.fcntl(control, fcntl.F_SETFL, flags)


def dispatch(engine: Any, operation: str, arguments: tuple[Any, ...], began: Any) -> Any:
    """Run one operation of an engine; ``began`` is called when a signature may exist from now on."""
    if operation.startswith("_"):
        raise AttributeError(operation)
    method = getattr(engine, operation)
    return method(*arguments, began) if operation == "sign" else method(*arguments)


def _load(path: str, options: Any) -> tuple[Any, dict[str, object]]:
    from ushield_hw.cryptoki.engine import Engine

    try:
        engine = Engine(path, options)
        return engine, {"ok": engine.info()}
    except LoadFailed as error:
        return None, {"load": error.reason, "kind": error.kind}


def _new_channel(control: socket.socket) -> tuple[wire.Channel, int] | None:
    """Return the next channel and the number of its mark."""
    try:
        number, descriptors, _, _ = socket.recv_fds(control, wire.NUMBER.size, 1)
    except OSError:
        return None
    if len(number) != wire.NUMBER.size or not descriptors:
        return None
    return wire.Channel(socket.socket(fileno=descriptors[0])), wire.NUMBER.unpack(number)[0]


def _serve_channel(channel: wire.Channel, number: int, engine: Any, marks: mmap.mmap) -> None:
    def began() -> None:
        marks[number] = 1

    try:
        while True:
            operation, arguments = channel.receive()
            channel.send(_answer(engine, operation, arguments, began))
    except wire.Closed:
        channel.close()


def _answer(engine: Any, operation: str, arguments: tuple[Any, ...], began: Callable[[], None]) -> dict[str, object]:
    try:
        return {"ok": dispatch(engine, operation, arguments, began)}
    except CkrError as error:
        return {"ckr": (error.function, error.rv)}
    except StaleLogin:
        return {"stale": True}
    except wire.Closed:
        raise
    except Exception as error:
        return {"bug": f"{operation}: {type(error).__name__}"}


def _close(engine: Any) -> None:
    engine.close()


def _no_core_files() -> None:
    """A core file would hold the PIN."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
