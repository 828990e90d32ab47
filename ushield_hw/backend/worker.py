"""The worker process: it holds one vendor module, and dies alone.

Started by ``transport`` with one control socket. The first message names the module; each further one brings a new
channel, served by a thread of its own, so that as many calls run at once as the owner has threads. When the owner's end
closes, the worker goes, whatever the module is doing.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from ushield_hw.backend import protocol
from ushield_hw.backend.pkcs11.ckr import CkrError, LoadFailed, StaleLogin
from ushield_hw.system.hardening import harden

# How long a module may take to finalise once its owner is gone.
_FAREWELL_S = 2.0


def serve(control: socket.socket, shared: int) -> None:
    """Load the module named by the first message, answer, then serve channels until the owner closes its end.

    Args:
        control: the owner's other end.
        shared: a file of ``wire.SHARED`` bytes that the owner maps too. For each channel the worker says there when
            C_Sign is entered, and the owner that the call is to be stopped. It outlives this process and costs no
            message.
    """
    harden()
    flags = mmap.mmap(shared, protocol.SHARED)
    talk = protocol.Channel(control)
    while (first := talk.receive())[0] == "held":
        talk.send({"ok": _held(*first[1])})
    path, options, variables = first
    os.environ.update(variables)
    with _ending_with_the_owner(control):
        engine, answer = _load(path, options)
    talk.send(answer)
    if engine is not None:
        _serve_channels(control, _Shared(engine, flags, threading.Lock() if options.one_at_a_time else nullcontext()))
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


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the threads share. ``turn``: held during each call of a module that takes one at a time."""

    engine: Any
    flags: mmap.mmap
    turn: AbstractContextManager[object]
    fence: threading.Lock = field(default_factory=threading.Lock)


class _Stopped(Exception):
    """The owner does not want this call any more."""


def dispatch(engine: Any, operation: str, arguments: tuple[Any, ...], began: Any) -> Any:
    """Run one operation of an engine; ``began`` is called when a signature may exist from now on."""
    if operation.startswith("_"):
        raise AttributeError(operation)
    method = getattr(engine, operation)
    return method(*arguments, began) if operation == "sign" else method(*arguments)


def _load(path: str, options: Any) -> tuple[Any, dict[str, object]]:
    from ushield_hw.backend.pkcs11.engine import Engine

    try:
        engine = Engine(path, options, alone=True)
        return engine, {"ok": engine.info()}
    except LoadFailed as error:
        return None, {"load": error.reason, "kind": error.kind}
    except MemoryError:
        return None, {"limit": errno.ENOMEM}


def _serve_channels(control: socket.socket, shared: _Shared) -> None:
    """Start a thread for each new channel until the owner closes its end."""
    while (new := _new_channel(control)) is not None:
        channel, number = new
        if channel is None:
            shared.flags[number] = protocol.NO_ROOM
            continue
        try:
            threading.Thread(target=_serve_channel, args=(channel, number, shared), daemon=True).start()
        except RuntimeError:  # can't start new thread
            with suppress(protocol.Closed):
                channel.send({"limit": errno.EAGAIN})
            channel.close()


def _new_channel(control: socket.socket) -> tuple[protocol.Channel | None, int] | None:
    """Return the next channel and its number; no channel where this process had no room for its descriptor."""
    try:
        said, descriptors, _, _ = socket.recv_fds(control, protocol.NUMBER.size, 1)
    except OSError:
        return None
    if len(said) != protocol.NUMBER.size:
        return None
    (number,) = protocol.NUMBER.unpack(said)
    return protocol.Channel(socket.socket(fileno=descriptors[0])) if descriptors else None, number


def _serve_channel(channel: protocol.Channel, number: int, shared: _Shared) -> None:
    def check() -> None:
        with shared.fence:  # between the write of our mark and the look at the owner's
            stopped = shared.flags[protocol.STOP + number]
        if stopped:
            shared.flags[number] = 0
            raise _Stopped

    def began() -> None:
        shared.flags[number] = protocol.BEGAN
        check()

    try:
        while True:
            operation, arguments = channel.receive()
            answer = _answer(shared, operation, arguments, (check, began))
            del operation, arguments  # a PIN may be among them, and the next message may be long in coming
            channel.send(answer)
    except protocol.Closed:
        channel.close()


def _answer(
    shared: _Shared, operation: str, arguments: tuple[Any, ...], marking: tuple[Callable[[], None], Callable[[], None]]
) -> dict[str, object]:
    check, began = marking
    try:
        if operation == "held":  # also while the module is in a call
            return {"ok": _held(*arguments)}
        with shared.turn:
            check()
            return {"ok": dispatch(shared.engine, operation, arguments, began)}
    except CkrError as error:
        return {"ckr": (error.function, error.rv)}
    except (StaleLogin, _Stopped) as error:
        return {"stale" if isinstance(error, StaleLogin) else "stopped": True}
    except MemoryError:
        return {"limit": errno.ENOMEM}
    except protocol.Closed:
        raise
    except Exception as error:
        return {"bug": f"{operation}: {type(error).__name__}"}


def _held(patience_ms: int, own: tuple[str, ...], anew: bool) -> tuple[str, ...]:
    """Return the readers whose card another program keeps, as PC/SC is seen with this process's environment."""
    from ushield_hw.system import pcsc

    return pcsc.held(patience_ms / 1000, own, anew=anew)


def _close(engine: Any) -> None:
    engine.close()
