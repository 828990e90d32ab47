"""The worker process: it holds one vendor module, and can crash without affecting the main process.

``transport`` starts it with one control socket. The first message names the module. Each following message carries a
new channel, which gets its own thread, so that calls of several threads of the main process run concurrently. When the
main process closes its end, the worker exits, whatever the module is doing.
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

# Timeout of C_Finalize after the main process has closed its end.
_FAREWELL_S = 2.0


def serve(control: socket.socket, shared: int) -> None:
    """Load the module named by the first message, respond, then serve channels until the main process closes its end.

    Args:
        control: the worker's end of the control socket.
        shared: a file of ``protocol.SHARED`` bytes that the main process maps too. For each channel the worker records
            there that C_Sign was entered, and the main process that the call must not start. It remains readable after
            this process has ended, and needs no message.
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
    os._exit(0)  # a thread or exit handler of the module must not keep this process running


@contextmanager
def _ending_with_the_owner(control: socket.socket) -> Iterator[None]:
    """Let the kernel terminate this process when the main process closes its end, even if a hung module holds the GIL.

    The main process sends nothing while the module loads, so the only event on the socket is its end, which raises
    SIGIO; its default action terminates the process.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([control], [], [], 0)[0]:  # it was closed before SIGIO was enabled
        os._exit(0)
    yield
    fcntl.fcntl(control, fcntl.F_SETFL, flags)


@dataclass(frozen=True, slots=True)
class _Shared:
    """State shared by the threads. ``turn``: lock held during each call of a module that allows one call at a time."""

    engine: Any
    flags: mmap.mmap
    turn: AbstractContextManager[object]
    fence: threading.Lock = field(default_factory=threading.Lock)


class _Stopped(Exception):
    """The main process has cancelled this call."""


def dispatch(engine: Any, operation: str, arguments: tuple[Any, ...], began: Any) -> Any:
    """Run one operation of an engine.

    Args:
        engine: the engine.
        operation: name of one of its public methods.
        arguments: its arguments.
        began: called immediately before C_Sign, from when on a signature may exist.
    """
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
    """Start a thread for each new channel until the main process closes its end."""
    while (new := _new_channel(control)) is not None:
        channel, number = new
        if channel is None:
            shared.flags[number] = protocol.NO_DESCRIPTOR
            continue
        try:
            threading.Thread(target=_serve_channel, args=(channel, number, shared), daemon=True).start()
        except RuntimeError:  # can't start new thread
            with suppress(protocol.Closed):
                channel.send({"limit": errno.EAGAIN})
            channel.close()


def _new_channel(control: socket.socket) -> tuple[protocol.Channel | None, int] | None:
    """Return the next channel and its number; the channel is None if this process has no free descriptor for it."""
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
        with shared.fence:  # memory fence between writing the worker's flag and reading the stop flag
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
            del operation, arguments  # do not keep a PIN in memory while waiting for the next message
            channel.send(answer)
    except protocol.Closed:
        channel.close()


def _answer(
    shared: _Shared, operation: str, arguments: tuple[Any, ...], marking: tuple[Callable[[], None], Callable[[], None]]
) -> dict[str, object]:
    check, began = marking
    try:
        if operation == "held":  # without the lock: does not call the module
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


def _held(timeout_ms: int, own: tuple[str, ...], from_now: bool) -> tuple[str, ...]:
    """Return the readers whose card another program holds, seen through PC/SC with this process's environment."""
    from ushield_hw.system import pcsc

    return pcsc.held(timeout_ms / 1000, own, from_now=from_now)


def _close(engine: Any) -> None:
    engine.close()
