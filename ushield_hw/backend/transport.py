"""The call interface to an engine, and its implementation with a worker process that may crash or hang."""

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

_LOOK_S: Final = 0.05  # poll interval of a watched call
# How long to wait for the result after a cancellation: the token may be about to return it.
GRACE_S: Final = 2.0
# Within this time after a channel was closed the worker has ended or has set NO_DESCRIPTOR, even on a busy machine.
_EXPLAINED_S: Final = 5.0
# Timeout of a call while the module is still executing an abandoned signature.
_BEHIND_S: Final = 5.0


class Lost(Exception):
    """The worker returned no result.

    Args:
        kind: "crashed", "hung" (the worker was killed), "waiting" (the worker was not killed, because another call of
            this process with a longer timeout is in progress) or "cancelled".
        detail: how the worker ended, or which timeout expired.
        began: C_Sign had been entered.
    """

    def __init__(self, kind: str, detail: str, *, began: bool) -> None:
        self.kind = kind
        self.detail = detail
        self.began = began
        super().__init__(detail)


class Stopped(Exception):
    """The call was cancelled before it reached the module, and will not be made."""


Prepare = Callable[[Callable[..., Any], float], tuple[Mapping[str, str], float]]
"""Called before a new worker loads the module. Takes a function that calls ``pcsc.held`` in the worker, and the timeout
for loading. Returns additional environment variables and the timeout to use."""


class Transport(Protocol):
    """Calls an engine's operations. Both implementations raise the same exceptions."""

    info: ModuleInfo

    def call(self, operation: str, arguments: tuple[Any, ...], deadline_s: float, watch: Watch | None = None) -> Any:
        """Run one operation.

        Args:
            operation: name of a public method of ``engine.Engine``.
            arguments: its arguments, as plain data.
            deadline_s: timeout in seconds.
            watch: progress callback and cancellation, for a signature that the user may have to confirm.

        Raises:
            CkrError: the module returned an error.
            StaleLogin: the login has ended.
            Stopped: the call was cancelled before the module was called.
            Lost: the worker crashed, or the timeout expired, or the wait was cancelled.
            DriverError: ``SYSTEM_LIMIT``.
        """
        ...

    def alive(self) -> bool:
        """Return whether calls can be made."""
        ...

    def post(self, operation: str, arguments: tuple[Any, ...]) -> None:
        """Run one operation as soon as the module is free, without waiting for its result."""
        ...

    @property
    def has_abandoned_call(self) -> bool:
        """Whether the module is still executing an abandoned call."""
        ...

    def close(self) -> None:
        """End all logins and unload the module."""
        ...

    def disown(self) -> None:
        """Release the resources in a forked child, without affecting the parent's module."""
        ...


class _Leased(NamedTuple):
    """A channel, and the index of its shared flags."""

    channel: protocol.Channel
    number: int


class Worker:
    """A :class:`Transport` to a module in a worker process.

    Args:
        path: the module file.
        options: how the module must be handled.
        deadline_s: timeout of loading, in seconds.
        environment: environment variables added to those of this process.
        prepare: called before the module is loaded.

    Raises:
        LoadFailed: the module could not be loaded, or crashed or hung while loading.
        DriverError: no process could be started; the error gives the reason.
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
        self._until: dict[int, float] = {}  # channel number -> deadline of its call in progress
        self._given_up: list[tuple[_Leased, float]] = []  # abandoned calls that the module is still executing
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
            raise LoadFailed(self._how_it_ended(), "crashed") from error
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
        if self._given_up and self.has_abandoned_call:
            deadline_s = min(deadline_s, _BEHIND_S)
        leased, until = self._lease(), time.monotonic() + deadline_s
        try:
            self._until[leased.number] = until
            leased.channel.send((operation, arguments))
            if watch is not None:
                self._wait(leased, until, watch)
            answer = _receive(leased.channel, until - time.monotonic())
        except protocol.Closed as error:
            del self._until[leased.number]
            raise self._broken(leased) from error
        except BaseException as error:
            began = self._stop(leased)
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
        """Wait for the result, and call ``watch.began`` when C_Sign has begun.

        Raises:
            _Cancelled: the wait was cancelled, and the module has not begun or does not return in time.
            protocol.TimedOut: the timeout expired.
        """
        reported = stopped = False
        while not leased.channel.readable(_LOOK_S):
            if not reported and self._flags[leased.number] == protocol.BEGAN:
                reported = True
                watch.began()
            if not stopped and watch.cancelled.is_set():
                stopped, until = True, min(until, time.monotonic() + GRACE_S)
                if not self._stop(leased):  # C_Sign has not begun, and now cannot begin
                    raise _Cancelled
            if time.monotonic() >= until:
                raise _Cancelled if stopped else protocol.TimedOut

    def _stop(self, leased: _Leased) -> bool:
        """Request that a call is not started; return whether it had already entered C_Sign.

        Each side writes its own flag before it reads the other's, so at least one of them sees the other's flag. The
        lock is the memory fence between the write and the read.
        """
        self._flags[protocol.STOP + leased.number] = 1
        with self._lock:
            return self._flags[leased.number] == protocol.BEGAN

    def _late(self, deadline_s: float, *, began: bool) -> Lost:
        """Kill the worker, unless another call has time left, such as a signature that waits for the user."""
        now, detail = time.monotonic(), f"no answer in {deadline_s:g} s"
        others = [*list(self._until.values()), *(until for _, until in list(self._given_up))]
        if any(until > now for until in others):
            return Lost("waiting", detail, began=began)
        self._kill()
        return Lost("hung", detail, began=began)

    def _broken(self, leased: _Leased) -> Exception:
        """Return the error of a call whose channel was closed by the worker; close it on this side too."""
        refusal = _last_answer(leased.channel)
        leased.channel.close()
        if refusal is not None:
            return refusal
        began = self._flags[leased.number] == protocol.BEGAN
        until = time.monotonic() + _EXPLAINED_S
        while not began and time.monotonic() < until and not self._process.wait_over(0.01):
            # If the worker has no free descriptor, the system closes the channel before the worker can set the flag.
            if self._flags[leased.number] == protocol.NO_DESCRIPTOR:
                return of_errno(errno.EMFILE) or Lost("crashed", "no descriptor", began=False)
        return Lost("crashed", self._how_it_ended(), began=began)

    def alive(self) -> bool:
        """See :class:`Transport`."""
        return self._process.poll() is None

    @property
    def has_abandoned_call(self) -> bool:
        """See :class:`Transport`."""
        with self._lock:
            left = [(leased, until) for leased, until in self._given_up if not self._answered(leased)]
            self._given_up = left
            return bool(left)

    def post(self, operation: str, arguments: tuple[Any, ...]) -> None:
        """See :class:`Transport`."""
        with suppress(protocol.Closed, DriverError):
            leased = self._lease()
            self._give_up(leased, 0.0)
            leased.channel.send((operation, arguments))

    def close(self) -> None:
        """See :class:`Transport`. A worker that does not exit by itself is killed."""
        self._close_sockets()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._kill()

    def disown(self) -> None:
        """See :class:`Transport`. Takes no lock: another thread may have held it at the fork."""
        self._control.close()
        for leased in [*self._idle, *(leased for leased, _ in self._given_up)]:
            leased.channel.close()

    def _give_up(self, leased: _Leased, until: float) -> None:
        """Abandon a call; its channel is reused after its result has arrived."""
        with self._lock:
            if self._open:
                self._given_up.append((leased, until))
                return
        leased.channel.close()

    def _answered(self, leased: _Leased) -> bool:
        """Read and discard the late result of an abandoned call, if it has arrived."""
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
        """Return a channel for one call: an idle one, or a new one, for which the worker starts a thread.

        Raises:
            Lost: the worker has ended.
            DriverError: ``SYSTEM_LIMIT``.
        """
        with self._lock:
            if self._idle:
                leased = self._idle.pop()
                # Those of a new channel are 0, and the worker may set one as soon as it has received the channel.
                self._flags[leased.number] = self._flags[protocol.STOP + leased.number] = 0
                return leased
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
                if error.errno == errno.ETOOMANYREFS:  # descriptors in flight count against RLIMIT_NOFILE
                    raise of_errno(errno.EMFILE) or error from error
                raise Lost("crashed", self._how_it_ended(), began=False) from error
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

    def _how_it_ended(self) -> str:
        """Return how the worker ended; kill it first if it is still running with a broken channel."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._close_sockets()
        return f"signal {-code}" if code < 0 else f"exit {code}"


class _Cancelled(Exception):
    """The wait for a call was cancelled."""


_workers: Final[WeakSet[Worker]] = WeakSet()


def leave_workers() -> None:
    """Disown every worker without waiting: each exits when its socket is closed, and the fork server reaps it."""
    for worker in list(_workers):
        worker.disown()


os.register_at_fork(after_in_child=leave_workers)


@contextmanager
def naming_limits() -> Iterator[None]:
    """Convert a system error in the block to an error that names the limit that was reached.

    Raises:
        DriverError: ``SYSTEM_LIMIT``; ``WORKER_NOT_STARTED`` for any other reason.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        raise limit_reached(error) or DriverError("WORKER_NOT_STARTED", reason=str(error)) from error


def _receive(channel: protocol.Channel, deadline_s: float) -> dict[str, Any]:
    """Return a worker's response after checking its form: the module could also write to the channel."""
    answer: dict[str, Any] = channel.receive(deadline_s)
    match answer:
        case {"ok": _} | {"ckr": (str(), int())} | {"stale": True} | {"load": str()} | {"bug": str()}:
            return answer
        case {"stopped": True} | {"limit": int()}:
            return answer
    raise protocol.Closed("not an answer")


def _last_answer(channel: protocol.Channel) -> Exception | None:
    """Return the error that a worker reported before it closed a channel, although nothing could be sent any more."""
    with suppress(protocol.Closed, protocol.TimedOut):
        answer = _receive(channel, 0.1)
        if "limit" in answer:
            return of_errno(answer["limit"])
    return None


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
    """Return an unnamed file of ``protocol.SHARED`` zero bytes, which both processes map."""
    try:
        file: IO[bytes] = os.fdopen(os.memfd_create("ushield-flags"), "w+b", buffering=0)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EINVAL}:
            raise
        file = tempfile.TemporaryFile(buffering=0)  # another system, an older kernel, or a sandbox
    file.truncate(protocol.SHARED)
    return file
