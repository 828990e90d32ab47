"""The two ways to reach an engine: in this process, or in a worker process that may crash or hang instead of us."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol
from weakref import WeakSet

from ushield_hw.cryptoki import nursery, wire
from ushield_hw.cryptoki.ckr import CkrError, LoadFailed, StaleLogin
from ushield_hw.cryptoki.model import ModuleInfo, ModuleOptions


class Lost(Exception):
    """The worker gave no answer.

    ``kind`` is "crashed", "hung" (it was ended) or "waiting" (another call of this process, which may take longer, is
    still under way and was not disturbed); ``began``: C_Sign had been entered.
    """

    def __init__(self, kind: str, detail: str, *, began: bool) -> None:
        self.kind = kind
        self.detail = detail
        self.began = began
        super().__init__(detail)


class Transport(Protocol):
    """A way to call an engine's operations. Both ways raise the same exceptions."""

    info: ModuleInfo

    def call(self, operation: str, arguments: tuple[Any, ...], deadline_s: float) -> Any:
        """Run one operation.

        Args:
            operation: the name of a public method of ``engine.Engine``.
            arguments: its arguments, as plain data.
            deadline_s: how long it may take.

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

    def call(self, operation: str, arguments: tuple[Any, ...], deadline_s: float) -> Any:
        """See :class:`Transport`; ``deadline_s`` is not kept."""
        return getattr(self._engine, operation)(*arguments)

    def alive(self) -> bool:
        """See :class:`Transport`."""
        return True

    def give_up(self) -> None:
        """See :class:`Transport`: does nothing."""

    def close(self) -> None:
        """See :class:`Transport`."""
        with suppress(CkrError):
            self._engine.close()


class _Leased(NamedTuple):
    """A channel, and which of the shared marks its worker thread sets when it enters C_Sign."""

    channel: wire.Channel
    number: int


class Worker:
    """The module in a process of its own.

    Raises:
        LoadFailed: the module could not be loaded, crashed or hung while loading.
    """

    def __init__(self, path: Path, options: ModuleOptions, deadline_s: float, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair()
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with theirs, _shared_file() as shared:
            self._marks = mmap.mmap(shared.fileno(), wire.MARKS)
            self._process = _started(theirs, shared.fileno(), own | {**environment})
        self._idle: list[_Leased] = []
        self._until: dict[int, float] = {}  # by channel: how long a call under way may take
        self._made = 0
        self._open = True
        self._lock = threading.Lock()
        _workers.add(self)
        try:
            talk = wire.Channel(self._control)
            talk.send((str(path), options))
            answer = _receive(talk, deadline_s)
        except wire.TimedOut as error:
            self._kill()
            raise LoadFailed(f"no answer in {deadline_s:g} s", "hung") from error
        except wire.Closed as error:
            raise LoadFailed(self._epitaph(), "crashed") from error
        if "load" in answer:
            self._kill()
            raise LoadFailed(answer["load"], "proxy" if answer.get("kind") == "proxy" else "refused")
        self.info: ModuleInfo = answer["ok"]

    def call(self, operation: str, arguments: tuple[Any, ...], deadline_s: float) -> Any:
        """See :class:`Transport`."""
        leased = None
        try:
            leased = self._lease()
            self._marks[leased.number] = 0
            self._until[leased.number] = time.monotonic() + deadline_s
            leased.channel.send((operation, arguments))
            answer = _receive(leased.channel, deadline_s)
        except BaseException as error:
            began = leased is not None and bool(self._marks[leased.number])
            if leased is not None:  # a late answer may still come on it
                leased.channel.close()
                self._until.pop(leased.number, None)
            if isinstance(error, wire.TimedOut):
                raise self._late(deadline_s, began=began) from error
            if isinstance(error, wire.Closed):
                raise Lost("crashed", self._epitaph(), began=began) from error
            raise
        del self._until[leased.number]
        self._give_back(leased)
        return _result(answer)

    def _late(self, deadline_s: float, *, began: bool) -> Lost:
        """End the worker, unless another call may still take its time: a signature that waits for its person."""
        now, detail = time.monotonic(), f"no answer in {deadline_s:g} s"
        if any(until > now for until in list(self._until.values())):
            return Lost("waiting", detail, began=began)
        self._kill()
        return Lost("hung", detail, began=began)

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

    def _give_back(self, leased: _Leased) -> None:
        with self._lock:
            if self._open:
                self._idle.append(leased)
                return
        leased.channel.close()

    def _lease(self) -> _Leased:
        """Return a channel for one call: an idle one, else a new one, which the worker serves by a new thread."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            number, self._made = self._made, self._made + 1
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                if number >= wire.MARKS:
                    raise OSError("too many channels")
                socket.send_fds(self._control, [wire.NUMBER.pack(number)], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise wire.Closed(str(error)) from error
        return _Leased(wire.Channel(ours), number)

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._control.close()
        with self._lock:
            self._open = False
            for leased in self._idle:
                leased.channel.close()
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


def _receive(channel: wire.Channel, deadline_s: float) -> dict[str, Any]:
    """Return a worker's answer; the module in there could write to the channel too, so it may be anything."""
    answer: dict[str, Any] = channel.receive(deadline_s)
    match answer:
        case {"ok": _} | {"ckr": (str(), int())} | {"stale": True} | {"load": str()} | {"bug": str()}:
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


def _shared_file() -> IO[bytes]:
    """Return a file without a name, of ``wire.MARKS`` zero bytes, for both processes to map."""
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("ushield-marks"), "w+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)
    file.truncate(wire.MARKS)
    return file


def _started(theirs: socket.socket, shared: int, environment: Mapping[str, str]) -> nursery.Child:
    try:
        return nursery.fork(theirs, shared, environment)
    except (wire.Closed, OSError) as error:
        raise LoadFailed(str(error), "crashed") from error
