"""The worker process: it holds one vendor module, and dies alone.

Started by ``transport`` with one control socket. The first message names the module; each further one brings a new
channel, served by a thread of its own, so that as many calls run at once as the owner has threads. When the owner's end
closes, the worker goes, whatever the module is doing.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from ushield_hw.cryptoki import wire
from ushield_hw.cryptoki.ckr import CkrError, LoadFailed, StaleLogin

# How long a module may take to finalise once its owner is gone.
_FAREWELL_S = 2.0


def serve(control: socket.socket) -> None:
    """Load the module named by the first message, answer, then serve channels until the owner closes its end."""
    _no_core_files()
    path, options = wire.receive(control)
    engine, answer = _load(path, options)
    wire.send(control, answer)
    while engine is not None and (channels := _new_channels(control)):
        for descriptor in channels:
            thread = threading.Thread(
                target=_serve_channel, args=(socket.socket(fileno=descriptor), engine), daemon=True
            )
            thread.start()
    if engine is not None:
        farewell = threading.Thread(target=_close, args=(engine,), daemon=True)
        farewell.start()
        farewell.join(_FAREWELL_S)
    os._exit(0)  # a module's thread or exit handler must not keep this process


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
        return None, {"load": error.reason}


def _new_channels(control: socket.socket) -> list[int]:
    try:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 4)
    except OSError:
        return []
    return descriptors


def _serve_channel(channel: socket.socket, engine: Any) -> None:
    try:
        while True:
            operation, arguments = wire.receive(channel)
            wire.send(channel, _answer(channel, engine, operation, arguments))
    except wire.Closed:
        channel.close()


def _answer(channel: socket.socket, engine: Any, operation: str, arguments: tuple[Any, ...]) -> dict[str, object]:
    try:
        return {"ok": dispatch(engine, operation, arguments, lambda: wire.send(channel, {"began": True}))}
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
