"""The two ways to reach an engine: in this process, or in a worker process that may crash or hang instead of us."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol
from weakref import WeakSet

from ushield_hw.cryptoki import wire
from ushield_hw.cryptoki.ckr import CkrError, LoadFailed, StaleLogin
from ushield_hw.cryptoki.model import ModuleInfo, ModuleOptions

_BOOT: Final = (
    "import sys,json,socket;sys.path[:0]=json.loads(sys.argv[1]);"
    "from ushield_hw.cryptoki.worker import serve;serve(socket.socket(fileno=int(sys.argv[2])))"
)


class Lost(Exception):
    """The worker died or was given up: ``kind`` is "crashed" or "hung"; ``began``: C_Sign had been entered."""

    def __init__(self, kind: str, detail: str, *, began: bool) -> None:
        self.kind = kind
        self.detail = detail
        self.began = began
        super().__init__(detail)


class Transport(Protocol):
    """A way to call an engine's operations. Both ways raise the same exceptions."""

    info: ModuleInfo

    def call(
        self, operation: str, arguments: tuple[Any, ...], deadline_s: float, began: Callable[[], None] | None = None
    ) -> Any:
        """Run one operation.

        Args:
            operation: the name of a public method of ``engine.Engine``.
            arguments: its arguments, as plain data.
            deadline_s: how long it may take; a signature gets this again once C_Sign has begun.
            began: called when C_Sign is about to be entered.

        Raises:
            CkrError: the module answered with an error.
            StaleLogin: the login has ended.
            Lost: the worker died, or the deadline passed and it was killed.
        """
        ...

    def alive(self) -> bool:
        """Tell whether calls can be made."""
        ...

    def give_up(self) -> None:
        """End every call under way, from any thread, if this way can; an in-process call cannot be ended."""
        ...

    def close(self) -> None:
        """End all logins and let the module go."""
        ...


class InProcess:
    """The module in this process. Deadlines cannot be kept here: only for modules proven not to hang."""

    def __init__(self, path: Path, options: ModuleOptions) -> None:
        from ushield_hw.cryptoki.engine import Engine

        self._engine = Engine(str(path), options)
        self.info = self._engine.info()

    def call(
        self, operation: str, arguments: tuple[Any, ...], deadline_s: float, began: Callable[[], None] | None = None
    ) -> Any:
        """See :class:`Transport`; ``deadline_s`` is not kept."""
        method = getattr(self._engine, operation)
        return method(*arguments, began) if began else method(*arguments)

    def alive(self) -> bool:
        """See :class:`Transport`."""
        return True

    def give_up(self) -> None:
        """See :class:`Transport`: does nothing."""

    def close(self) -> None:
        """See :class:`Transport`."""
        with suppress(CkrError):
            self._engine.close()


class Worker:
    """The module in a process of its own.

    Raises:
        LoadFailed: the module could not be loaded, crashed or hung while loading.
    """

    def __init__(self, path: Path, options: ModuleOptions, deadline_s: float, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = _start(theirs, environment)
        self._idle: list[socket.socket] = []
        self._open = True
        self._lock = threading.Lock()
        _workers.add(self)
        try:
            wire.send(self._control, (str(path), options))
            answer = _receive(self._control, deadline_s)
        except wire.TimedOut as error:
            self._kill()
            raise LoadFailed(f"no answer in {deadline_s:g} s", "hung") from error
        except wire.Closed as error:
            raise LoadFailed(self._epitaph(), "crashed") from error
        if "load" in answer:
            self._kill()
            raise LoadFailed(answer["load"])
        self.info: ModuleInfo = answer["ok"]

    def call(
        self, operation: str, arguments: tuple[Any, ...], deadline_s: float, began: Callable[[], None] | None = None
    ) -> Any:
        """See :class:`Transport`."""
        entered = False
        try:
            with self._channel() as channel:
                wire.send(channel, (operation, arguments))
                answer = _receive(channel, deadline_s)
                if "began" in answer:
                    entered = True
                    if began:
                        began()
                    answer = _receive(channel, deadline_s)
        except wire.TimedOut as error:
            self._kill()
            raise Lost("hung", f"no answer in {deadline_s:g} s", began=entered) from error
        except wire.Closed as error:
            raise Lost("crashed", self._epitaph(), began=entered) from error
        return _result(answer)

    def alive(self) -> bool:
        """See :class:`Transport`."""
        return self._process.poll() is None

    def give_up(self) -> None:
        """See :class:`Transport`: kills the worker."""
        self._process.kill()

    def close(self) -> None:
        """See :class:`Transport`; a module that does not go by itself is killed."""
        self._close_sockets()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._kill()

    def disown(self) -> None:
        """In a forked child: let go of what would keep the parent's worker alive after the parent."""
        self._control.close()

    @contextmanager
    def _channel(self) -> Iterator[socket.socket]:
        """Lease a channel for one call. One that saw an error is closed: a late answer may still come on it."""
        channel = self._lease()
        whole = False
        try:
            yield channel
            whole = True
        finally:
            with self._lock:
                if whole and self._open:
                    self._idle.append(channel)
                else:
                    channel.close()

    def _lease(self) -> socket.socket:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"c"], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise wire.Closed(str(error)) from error
        return ours

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._control.close()
        with self._lock:
            self._open = False
            for channel in self._idle:
                channel.close()
            self._idle.clear()

    def _epitaph(self) -> str:
        """Say how the worker ended; one whose pipe broke but that still lives is ended first."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._close_sockets()
        return f"signal {-code}" if code < 0 else f"exit {code}"


_workers: Final[WeakSet[Worker]] = WeakSet()


def _disown_all() -> None:
    for worker in list(_workers):
        worker.disown()


os.register_at_fork(after_in_child=_disown_all)


def _receive(channel: socket.socket, deadline_s: float) -> dict[str, Any]:
    """Return a worker's answer; the module in there could write to the channel too, so it may be anything."""
    answer: dict[str, Any] = wire.receive(channel, time.monotonic() + deadline_s)
    match answer:
        case {"ok": _} | {"ckr": (str(), int())} | {"stale": True} | {"began": True} | {"load": str()} | {"bug": str()}:
            return answer
    raise wire.Closed("not an answer")


def _result(answer: dict[str, Any]) -> Any:
    if "ckr" in answer:
        raise CkrError(*answer["ckr"])
    if "stale" in answer:
        raise StaleLogin
    if "ok" not in answer:
        raise RuntimeError(answer.get("bug", "the worker sent no answer"))
    return answer["ok"]


def _start(theirs: socket.socket, extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the interpreter without site or user settings; a vendor module's own output goes nowhere."""
    search = [entry for entry in sys.path if entry] + [str(Path(__file__).parents[2])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {**extra}
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(search), str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the person's program; it decides what becomes of a signature
    )
