"""The connection to one loaded module: loading, calls with timeouts, and a new worker after the old one has ended."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from ushield_hw import errors
from ushield_hw.backend.in_process import InProcess
from ushield_hw.backend.interface import DEFAULT_OPTIONS, Isolation, SignOptions
from ushield_hw.backend.model import ModuleInfo, ModuleOptions
from ushield_hw.backend.pkcs11.ckr import CkrError, Doing, LoadFailed, StaleLogin, to_error
from ushield_hw.backend.sharing import HANGS_S, SHORT_S, Sharing, descriptions, reader_busy, service_hangs
from ushield_hw.backend.transport import Lost, Stopped, Transport, Worker
from ushield_hw.system.limits import of_loader
from ushield_hw.system.log import LOG
from ushield_hw.system.trust import trusted_module

_ASKED_S: Final = 10.0  # for the PC/SC calls, in addition to the wait for other programs

# Real path of each file loaded in this process -> its connection, because C_Initialize is per process. A fork inherits
# it; then the value is None.
_in_this_process: Final[dict[Path, Connection | None]] = {}
_in_this_process_lock = threading.Lock()


class Connection:
    """Loads a module at the first call and makes its calls, in a worker process or in this one. Thread-safe.

    Args:
        path: absolute path of the module file.
        isolation: in a worker process or in this process.
        options: how the module must be handled.
        deadline_s: timeout of loading and default timeout of a call, in seconds.
        environment: environment variables of the worker process only.
        sharing: the card readers it shares with other programs, if it would wait for them.
    """

    def __init__(
        self,
        path: Path,
        isolation: Isolation,
        options: ModuleOptions,
        deadline_s: float,
        environment: Mapping[str, str],
        sharing: Sharing | None,
    ) -> None:
        self.path = path
        self.isolation = isolation
        self.options = options
        self.deadline_s = deadline_s
        self.environment = environment
        self.sharing = sharing
        self.pid = os.getpid()
        self.transport: Transport | None = None
        self._blocking: tuple[str, ...] = ()
        self._hung: errors.UShieldError | None = None
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether the module is loaded now."""
        return self.transport is not None and self.transport.alive()

    @property
    def has_abandoned_call(self) -> bool:
        """Whether the module is still executing an abandoned call; other calls may have to wait for it."""
        return self.transport is not None and self.transport.has_abandoned_call

    def info(self) -> ModuleInfo:
        """Return the module's information (CK_INFO)."""
        return self._ready().info

    def close(self) -> None:
        """End every login and unload the module; the next call loads it again."""
        if self.pid != os.getpid():
            return
        with self._lock:  # until it is closed: otherwise a module that was loaded again meanwhile would be unloaded
            transport, self.transport = self.transport, None
            if transport is not None:
                transport.close()
                _release_this_process(self)
                if self.sharing is not None:
                    self.sharing.logged_out()

    def call(
        self,
        doing: Doing,
        operation: str,
        *arguments: Any,
        deadline_s: float | None = None,
        options: SignOptions = DEFAULT_OPTIONS,
        slot: int | None = None,
    ) -> Any:
        """Call an operation of the engine.

        Args:
            doing: the purpose, which decides how a return code is interpreted.
            operation: name of the engine's method.
            *arguments: its arguments.
            deadline_s: timeout in seconds; None: that of the options, else the module's default.
            options: timeout, cancellation and return codes of a signature.
            slot: the slot whose card the call accesses; then it is refused while another program holds that card.

        Returns:
            The method's result.

        Raises:
            UShieldError: as for :class:`~ushield_hw.backend.module.Module`.
        """
        transport = self._ready()
        limit = deadline_s or options.deadline_s or self.deadline_s
        started, said = time.monotonic(), "ok"
        try:
            if slot is not None and self.sharing is not None:
                self._check_free(self.sharing, slot)
            return transport.call(operation, arguments, limit, options.watch)
        except CkrError as error:
            said = str(error)
            waited_s, in_files = time.monotonic() - started, self.options.relist
            codes, asks = options.codes, options.asks
            raise to_error(error, doing, codes=codes, waited_s=waited_s, asks=asks, in_files=in_files) from error
        except StaleLogin as error:
            said = "login ended"
            raise errors.LoginEnded(ckr=None, function=operation) from error
        except Stopped as error:
            said = "cancelled"
            raise errors.ConfirmationCancelled from error
        except Lost as error:
            said = f"{error.kind}, {error.detail}"
            raise self._lost(error, operation) from error
        finally:
            if LOG.isEnabledFor(logging.DEBUG):  # arguments are not logged: they may contain a PIN
                took_ms = (time.monotonic() - started) * 1000
                LOG.debug("%s %s: %s, %.1f ms", self.path.name, operation, said, took_ms)

    def _lost(self, error: Lost, operation: str) -> errors.UShieldError:
        if error.began:
            return errors.OutcomeUnknown(tx_id=None, reason=error.kind, detail=error.detail)
        if error.kind == "waiting":
            return errors.TokenBusy(holder="this process", function=operation)
        if error.kind == "cancelled":
            return errors.ConfirmationCancelled()
        kind = errors.ModuleHung if error.kind == "hung" else errors.ModuleLost
        return kind(path=str(self.path), function=operation, detail=error.detail)

    def _ready(self) -> Transport:
        if self.pid != os.getpid():
            raise errors.DriverError("USED_AFTER_FORK", path=str(self.path))
        transport = self.transport
        if transport is not None and transport.alive():  # the usual case needs no lock
            return transport
        with self._lock:
            if self.transport is not None and not self.transport.alive():
                self.transport.close()
                self.transport = None
            self.transport = self.transport or self._load()
            return self.transport

    def _load(self) -> Transport:
        real = trusted_module(self.path)
        try:
            if self.isolation is Isolation.IN_PROCESS and _reserve_this_process(self, real):
                return InProcess(real, self.options)
            prepare = None if self.sharing is None else partial(self._prepare, self.sharing)
            return Worker(real, self.options, self.deadline_s, self.environment, prepare)
        except LoadFailed as error:
            _release_this_process(self)
            if (reached := of_loader(error.reason)) is not None:
                raise reached from error
            hung = self._hung or (service_hangs() if error.kind == "hung" and self.sharing is not None else None)
            if error.kind == "hung" and (hung or self._blocking):
                raise (hung or reader_busy(self._blocking)) from error
            raise errors.DriverLoadError(
                path=str(self.path), reason=error.reason, problem=errors.LoadOutcome(f"load_{error.kind}").value
            ) from error

    def _prepare(
        self, sharing: Sharing, ask: Callable[..., tuple[str, ...]], deadline_s: float
    ) -> tuple[Mapping[str, str], float]:
        """Return the environment variables with which a worker loads the module, and the timeout for loading.

        Raises:
            TokenBusy: another program holds a card, and the module would wait for it.
        """
        self._hung, self._blocking = service_hangs(), ()
        if self._hung:
            return {}, min(deadline_s, HANGS_S)
        held = ask(*sharing.question())
        self._blocking = sharing.blocking(held)
        variables = sharing.leave_out(held)
        if variables is None:
            raise reader_busy(held)
        return variables, min(deadline_s, SHORT_S) if self._blocking else deadline_s

    def held(self, sharing: Sharing, *, from_now: bool = False) -> tuple[str, ...]:
        """Return the readers whose card another program holds, as seen through PC/SC in the worker."""
        limit_s = sharing.timeout_s + _ASKED_S
        return self.call(Doing.READING, "held", *sharing.question(from_now=from_now), deadline_s=limit_s)  # type: ignore[no-any-return]

    def _check_free(self, sharing: Sharing, slot_id: int) -> None:
        """Refuse a call that would wait for a card that another program holds.

        Raises:
            TokenBusy: another program holds the slot's card.
        """
        reader = sharing.reader(slot_id)
        if reader is not None and reader in descriptions(self.held(sharing, from_now=True)):
            raise reader_busy((reader,))

    def after_fork(self) -> None:
        """Discard the state in a forked child. Takes no lock: another thread may have held it at the fork."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.disown()


def _reserve_this_process(connection: Connection, real: Path) -> bool:
    """Return whether a module may be loaded in this process, and reserve its file if so."""
    if any(os.environ.get(name) != value for name, value in connection.environment.items()):
        return False
    with _in_this_process_lock:
        return _in_this_process.setdefault(real, connection) is connection


def _release_this_process(connection: Connection) -> None:
    with _in_this_process_lock:
        for real, owner in list(_in_this_process.items()):
            if owner is connection:
                del _in_this_process[real]


def after_fork() -> None:
    """Discard the connections of this process in a forked child; their modules get a worker there."""
    global _in_this_process_lock  # noqa: PLW0603 - another thread may have held it
    _in_this_process_lock = threading.Lock()
    for connection in filter(None, list(_in_this_process.values())):
        connection.after_fork()
    _in_this_process.update(dict.fromkeys(_in_this_process))
