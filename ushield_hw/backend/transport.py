"""The two ways to reach an engine: in this process, or in a worker process that may crash or hang instead of us."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol
from weakref import WeakSet

from ushield_hw.backend import protocol, spawn
from ushield_hw.backend.interface import Watch
from ushield_hw.backend.model import ModuleInfo, ModuleOptions
from ushield_hw.backend.pkcs11.ckr import CkrError, LoadFailed, StaleLogin
from ushield_hw.errors import DriverError, UShieldError
from ushield_hw.system.limits import limit_reached, of_errno

_LOOK_S: Final = 0.05  # how often a call that is watched is looked at
# Once cancelled, so long may the token take to say what it did: it may be answering already.
GRACE_S: Final = 2.0
# A worker that closed a channel has ended, or says within this time that it had no room; a busy machine takes its time.
_EXPLAINED_S: Final = 5.0
# Behind a signature that was given up and that the module is still in, a call waits no longer than this.
_BEHIND_S: Final = 5.0


class Lost(Exception):
    """The worker gave no answer.

    ``kind`` is "crashed", "hung" (it was ended), "waiting" (another call of this process, which may take longer, is
    still under way and was not disturbed) or "cancelled"; ``began``: C_Sign had been entered.
    """

    def __init__(self, kind: str, detail: str, *, began: bool) -> None:
        self.kind = kind
        self.detail = detail
        self.began = began
        super().__init__(detail)


class Stopped(Exception):
    """The call was cancelled before the module had begun with it; it never will."""


Prepare = Callable[[Callable[..., Any], float], tuple[Mapping[str, str], float]]
"""Gets a way to ask a new worker what PC/SC says, and the deadline for loading the module. Returns the variables with
which it is loaded, and the deadline that holds."""


class Transport(Protocol):
    """A way to call an engine's operations. Both ways raise the same exceptions."""

    info: ModuleInfo

    def call(self, operation: str, arguments: tuple[Any, ...], deadline_s: float, watch: Watch | None = None) -> Any:
        """Run one operation.

        Args:
            operation: the name of a public method of ``engine.Engine``.
            arguments: its arguments, as plain data.
            deadline_s: how long it may take.
            watch: of a signature that may wait for a person.

        Raises:
            CkrError: the module answered with an error.
            StaleLogin: the login has ended.
            Stopped: it was cancelled, and the module was not asked.
            Lost: the worker died, or the deadline passed and it was killed, or nobody waits any longer.
            DriverError: ``SYSTEM_LIMIT``.
        """
        ...

    def alive(self) -> bool:
        """Tell whether calls can be made."""
        ...

    def leave(self, operation: str, arguments: tuple[Any, ...]) -> None:
        """Run one operation when the module has time for it, and wait for no answer."""
        ...

    @property
    def engaged(self) -> bool:
        """Whether the module is still in a call that was given up."""
        ...

    def close(self) -> None:
        """End all logins and let the module go."""
        ...

    def disown(self) -> None:
        """In a forked child: let go of it, and leave it to the parent."""
        ...


class _Leased(NamedTuple):
    """A channel, and which of the shared flags its worker thread sets when it enters C_Sign."""

    channel: protocol.Channel
    number: int


class Worker:
    """The module in a process of its own.

    Raises:
        LoadFailed: the module could not be loaded, crashed or hung while loading.
        DriverError: no process could be started: says why.
    """

    def __init__(
        self,
        path: Path,
        options: ModuleOptions,
        deadline_s: float,
        environment: Mapping[str, str],
        prepare: Prepare | None = None,
    ) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with naming_limits(), ExitStack() as undo:
            self._control, theirs = socket.socketpair()
            undo.callback(self._control.close)
            with theirs, _shared_file() as shared:
                self._flags = mmap.mmap(shared.fileno(), protocol.SHARED)
                self._process = spawn.fork((self._control, theirs), shared.fileno(), own | {**environment})
            undo.pop_all()
        self._idle: list[_Leased] = []
        self._until: dict[int, float] = {}  # by channel: how long a call under way may take
        self._given_up: list[tuple[_Leased, float]] = []  # nobody waits for these, and the module is still in them
        self._made = 0
        self._open = True
        self._lock = threading.Lock()
        _workers.add(self)
        try:
            talk = protocol.Channel(self._control)
            variables: Mapping[str, str] = {}
            if prepare is not None:
                variables, deadline_s = self._prepared(talk, prepare, deadline_s)
            talk.send((str(path), options, dict(variables)))
            answer = _receive(talk, deadline_s)
        except protocol.TimedOut as error:
            self._kill()
            raise LoadFailed(f"no answer in {deadline_s:g} s", "hung") from error
        except protocol.Closed as error:
            raise LoadFailed(self._epitaph(), "crashed") from error
        if "load" in answer:
            self._kill()
            raise LoadFailed(answer["load"], "proxy" if answer.get("kind") == "proxy" else "refused")
        if "ok" not in answer:
            self._kill()
            _result(answer)
        self.info: ModuleInfo = answer["ok"]

    def _prepared(self, talk: protocol.Channel, prepare: Prepare, deadline_s: float) -> tuple[Mapping[str, str], float]:
        def ask(*question: Any) -> Any:
            talk.send(("held", question))
            return _result(_receive(talk, deadline_s))

        try:
            return prepare(ask, deadline_s)
        except UShieldError:
            self._kill()
            raise

    def call(self, operation: str, arguments: tuple[Any, ...], deadline_s: float, watch: Watch | None = None) -> Any:
        """See :class:`Transport`."""
        if self._given_up and self.engaged:
            deadline_s = min(deadline_s, _BEHIND_S)
        leased, until = self._lease(), time.monotonic() + deadline_s
        try:
            self._flags[leased.number] = self._flags[protocol.STOP + leased.number] = 0
            self._until[leased.number] = until
            leased.channel.send((operation, arguments))
            if watch is not None:
                self._wait(leased, until, watch)
            answer = _receive(leased.channel, until - time.monotonic())
        except protocol.Closed as error:
            del self._until[leased.number]
            leased.channel.close()
            raise self._broken(leased) from error
        except BaseException as error:
            began = self._told_to_stop(leased)
            del self._until[leased.number]
            self._give_up(leased, until)
            if isinstance(error, protocol.TimedOut):
                raise self._late(deadline_s, began=began) from error
            if isinstance(error, _Cancelled):
                raise Lost("cancelled", "cancelled", began=began) from error
            raise
        del self._until[leased.number]
        self._give_back(leased)
        return _result(answer)

    def _wait(self, leased: _Leased, until: float, watch: Watch) -> None:
        """Return when there is an answer; say when C_Sign has begun.

        Raises:
            _Cancelled: the wait was cancelled, and the module has not begun or does not answer.
            wire.TimedOut: there is no time left.
        """
        told = stopped = False
        while not leased.channel.readable(_LOOK_S):
            if not told and self._flags[leased.number] == protocol.BEGAN:
                told = True
                watch.began()
            if not stopped and watch.cancelled.is_set():
                stopped, until = True, min(until, time.monotonic() + GRACE_S)
                if not self._told_to_stop(leased):  # it has not begun, and never will
                    raise _Cancelled
            if time.monotonic() >= until:
                raise _Cancelled if stopped else protocol.TimedOut

    def _told_to_stop(self, leased: _Leased) -> bool:
        """Forbid the module to begin with a call; return whether it had entered C_Sign.

        The worker sets its mark before it looks at ours, so at least one of the two sees the other's. The lock is the
        fence between a write and the read that follows it.
        """
        self._flags[protocol.STOP + leased.number] = 1
        with self._lock:
            return self._flags[leased.number] == protocol.BEGAN

    def _late(self, deadline_s: float, *, began: bool) -> Lost:
        """End the worker, unless another call may still take its time: a signature that waits for its person."""
        now, detail = time.monotonic(), f"no answer in {deadline_s:g} s"
        others = [*list(self._until.values()), *(until for _, until in list(self._given_up))]
        if any(until > now for until in others):
            return Lost("waiting", detail, began=began)
        self._kill()
        return Lost("hung", detail, began=began)

    def _broken(self, leased: _Leased) -> Exception:
        """Return what became of a call whose channel was closed on the other side."""
        began = self._flags[leased.number] == protocol.BEGAN
        until = time.monotonic() + _EXPLAINED_S
        while not began and time.monotonic() < until and not self._process.wait_over(0.01):
            # The system closes a channel that the worker has no descriptor for before the worker can say so.
            if self._flags[leased.number] == protocol.NO_ROOM:
                return of_errno(errno.EMFILE) or Lost("crashed", "no descriptor", began=False)
        return Lost("crashed", self._epitaph(), began=began)

    def alive(self) -> bool:
        """See :class:`Transport`."""
        return self._process.poll() is None

    @property
    def engaged(self) -> bool:
        """See :class:`Transport`."""
        with self._lock:
            left = [(leased, until) for leased, until in self._given_up if not self._answered(leased)]
            self._given_up = left
            return bool(left)

    def leave(self, operation: str, arguments: tuple[Any, ...]) -> None:
        """See :class:`Transport`."""
        with suppress(protocol.Closed, DriverError):
            leased = self._lease()
            self._flags[leased.number] = self._flags[protocol.STOP + leased.number] = 0
            self._give_up(leased, 0.0)
            leased.channel.send((operation, arguments))

    def close(self) -> None:
        """See :class:`Transport`; a module that does not go by itself is killed."""
        self._close_sockets()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._kill()

    def disown(self) -> None:
        """See :class:`Transport`. No lock is taken: a thread that is not here may have held it."""
        self._control.close()
        for leased in [*self._idle, *(leased for leased, _ in self._given_up)]:
            leased.channel.close()

    def _give_up(self, leased: _Leased, until: float) -> None:
        """Leave a call to itself: its channel is used again once it has been answered."""
        with self._lock:
            if self._open:
                self._given_up.append((leased, until))
                return
        leased.channel.close()

    def _answered(self, leased: _Leased) -> bool:
        """Take the late answer of a call that was given up, if there is one."""
        if not leased.channel.readable(0):
            return False
        try:
            leased.channel.receive(1.0)
        except (protocol.Closed, protocol.TimedOut):
            leased.channel.close()
        else:
            self._idle.append(leased)
        return True

    def _give_back(self, leased: _Leased) -> None:
        with self._lock:
            if self._open:
                self._idle.append(leased)
                return
        leased.channel.close()

    def _lease(self) -> _Leased:
        """Return a channel for one call: an idle one, else a new one, which the worker serves by a new thread.

        Raises:
            Lost: the worker is gone.
            DriverError: ``SYSTEM_LIMIT``.
        """
        with self._lock:
            if self._idle:
                return self._idle.pop()
            number, self._made = self._made, self._made + 1
        with naming_limits():
            ours, theirs = socket.socketpair()
        with theirs:
            try:
                if number >= protocol.MOST_CHANNELS:
                    raise OSError("too many channels")
                socket.send_fds(self._control, [protocol.NUMBER.pack(number)], [theirs.fileno()])
            except OSError as error:
                ours.close()
                if error.errno == errno.ETOOMANYREFS:  # descriptors in flight count for RLIMIT_NOFILE
                    raise of_errno(errno.EMFILE) or error from error
                raise Lost("crashed", self._epitaph(), began=False) from error
        return _Leased(protocol.Channel(ours), number)

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._control.close()
        with self._lock:
            self._open = False
            for leased in [*self._idle, *(leased for leased, _ in self._given_up)]:
                leased.channel.close()
            self._idle.clear()
            self._given_up.clear()

    def _epitaph(self) -> str:
        """Say how the worker ended; one whose pipe broke but that still lives is ended first."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._close_sockets()
        return f"signal {-code}" if code < 0 else f"exit {code}"


class _Cancelled(Exception):
    """Nobody waits for a call any longer."""


_workers: Final[WeakSet[Worker]] = WeakSet()


def leave_workers() -> None:
    """Let go of every worker without waiting: each ends when nobody has its socket any more, and its parent waits."""
    for worker in list(_workers):
        worker.disown()


os.register_at_fork(after_in_child=leave_workers)


@contextmanager
def naming_limits() -> Iterator[None]:
    """Say which limit of this process was reached, where that is why something in the block has failed.

    Raises:
        DriverError: ``SYSTEM_LIMIT``; ``WORKER_NOT_STARTED`` where the system had another reason.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        raise limit_reached(error) or DriverError("WORKER_NOT_STARTED", reason=str(error)) from error


def _receive(channel: protocol.Channel, deadline_s: float) -> dict[str, Any]:
    """Return a worker's answer; the module in there could write to the channel too, so it may be anything."""
    answer: dict[str, Any] = channel.receive(deadline_s)
    match answer:
        case {"ok": _} | {"ckr": (str(), int())} | {"stale": True} | {"load": str()} | {"bug": str()}:
            return answer
        case {"stopped": True} | {"limit": int()}:
            return answer
    raise protocol.Closed("not an answer")


def _result(answer: dict[str, Any]) -> Any:
    if "ckr" in answer:
        raise CkrError(*answer["ckr"])
    if "stale" in answer:
        raise StaleLogin
    if "stopped" in answer:
        raise Stopped
    if "limit" in answer and (reached := of_errno(answer["limit"])):
        raise reached
    if "ok" not in answer:
        raise RuntimeError(answer.get("bug", "the worker sent no answer"))
    return answer["ok"]


def _shared_file() -> IO[bytes]:
    """Return a file without a name, of ``wire.SHARED`` zero bytes, for both processes to map."""
    try:
        file: IO[bytes] = os.fdopen(os.memfd_create("ushield-flags"), "w+b", buffering=0)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}:
            raise
        file = tempfile.TemporaryFile(buffering=0)  # another system, an older kernel, or a sandbox
    file.truncate(protocol.SHARED)
    return file
