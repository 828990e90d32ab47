"""A module as the rest of the library sees it: typed calls, domain errors, and a new worker when the old one died."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from ushield_hw import errors
from ushield_hw.backend.in_process import InProcess
from ushield_hw.backend.interface import PATIENCE, Isolation, Patience
from ushield_hw.backend.model import (
    CertificateRecord,
    Contents,
    KeyRecord,
    ModuleInfo,
    ModuleOptions,
    ObjectClass,
    PublicKey,
    SignCall,
    SlotInfo,
    TokenInfo,
    User,
)
from ushield_hw.backend.pkcs11.ckr import CkrError, Doing, LoadFailed, StaleLogin, to_error
from ushield_hw.backend.sharing import HANGS_S, SHORT_S, Sharing, descriptions
from ushield_hw.backend.signatures import SIGNATURES
from ushield_hw.backend.transport import Lost, Stopped, Transport, Worker, leave_workers
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.system import pcsc
from ushield_hw.system.limits import of_loader
from ushield_hw.system.log import LOG
from ushield_hw.system.processes import card_users, holder
from ushield_hw.system.trust import trusted_module

_ASKED_S: Final = 10.0  # for PC/SC's answer, beside the patience with other programs


class Module:
    """One PKCS#11 module, loaded at first use. Safe to use from several threads.

    Every method raises ``DriverUntrusted``, ``DriverNotFound`` or ``DriverLoadError`` when the module cannot be loaded,
    ``TokenError`` (``MODULE_CRASHED``, ``MODULE_HUNG``) when its worker is lost, and the errors of the CKR table.

    Args:
        path: absolute path of the module file.
        isolation: in a worker process or in this one.
        options: how the module must be handled.
        deadline_s: how long loading, and any call that does not say otherwise, may take.
        environment: variables that only the module's worker process gets.
        name: of one that is there for one token only, see :meth:`apart`.
        sharing: of one that shares card readers with other programs and would wait for them.
    """

    def __init__(
        self,
        path: Path,
        isolation: Isolation,
        options: ModuleOptions,
        deadline_s: float,
        environment: Mapping[str, str] | None = None,
        name: str = "",
        sharing: Sharing | None = None,
    ) -> None:
        self.path = path
        self.isolation = isolation
        self.deadline_s = deadline_s
        self.options = options
        self.environment = environment or {}
        self.name = name
        self.sharing = sharing
        self._blocking: tuple[str, ...] = ()
        self._hung: errors.UShieldError | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._transport: Transport | None = None

    @property
    def here(self) -> Module:
        """This module for the process that runs: itself, or in a forked child one that is loaded there."""
        return self if self._pid == os.getpid() else self.apart()

    def apart(self, name: str = "") -> Module:
        """Return this module loaded once more, in a worker of its own; the same one for the same name.

        Without a name: the one that :func:`open_module` gives for the same arguments.
        """
        isolation, limit_s = Isolation.PROCESS if name else self.isolation, self.deadline_s
        return open_module(
            self.path, isolation, self.options, deadline_s=limit_s, environment=self.environment, name=name
        )

    @property
    def needs_relist(self) -> bool:
        """Whether it sees what other processes have changed only after C_Finalize and C_Initialize."""
        return self.options.relist

    @property
    def loaded(self) -> bool:
        """Whether a call would find the module loaded."""
        return self._alive()

    @property
    def engaged(self) -> bool:
        """Whether the module is still in a call that was given up; another may have to wait for it."""
        return self._transport is not None and self._transport.engaged

    def info(self) -> ModuleInfo:
        """Return what the module says of itself."""
        return self._ready().info

    def slots(self, *, deadline_s: float | None = None) -> tuple[SlotInfo, ...]:
        """Return every slot, with its token where one is present.

        A slot whose card another program keeps to itself has the problem ``TOKEN_BUSY``; the others are read.
        """
        sharing = self.sharing
        if sharing is None:
            return self._call(Doing.READING, "slots", deadline_s=deadline_s)  # type: ignore[no-any-return]
        hung = _service_hangs()
        held = self._held(sharing) if self._alive() and not hung else ()  # else it is asked when the worker is started
        if set(sharing.skipped) - set(held) and not sharing.busy:
            self.close()  # one of those that it was started without is free again
        limit_s = deadline_s or self.deadline_s
        if blocking := sharing.blocking(held):
            limit_s = min(limit_s, SHORT_S)
        if hung:
            limit_s = min(limit_s, HANGS_S)
        try:
            return sharing.listed(self._call(Doing.READING, "slots", descriptions(held), deadline_s=limit_s))
        except errors.ModuleHung as error:
            if blocking or hung:
                raise (hung or busy(blocking)) from error
            raise

    def token(self, slot_id: int) -> TokenInfo:
        """Return the token's information and flags as they are now."""
        return self._call(Doing.READING, "token", slot_id, slot=slot_id)  # type: ignore[no-any-return]

    def mechanisms(self, slot_id: int) -> tuple[str, ...]:
        """Return the names of the mechanisms a token offers, without CKM_."""
        return self._call(Doing.READING, "mechanisms", slot_id, slot=slot_id)  # type: ignore[no-any-return]

    def contents(self, slot_id: int, *wanted: ObjectClass, key_id: bytes | None = None) -> Contents:
        """Return the objects on a token, and what could not be read; private keys show only while logged in.

        Args:
            slot_id: the token's slot.
            wanted: their classes; none given: all.
            key_id: only those that the module finds by this CKA_ID; that it finds none proves nothing.
        """
        classes = wanted or tuple(ObjectClass)
        found: Contents = self._call(Doing.READING, "contents", slot_id, classes, key_id, slot=slot_id)
        for problem in found.problems:
            LOG.warning("%s: %s %d: %s", self.path.name, problem.kind.value, problem.handle, problem.code)
        return found

    def certificates(self, slot_id: int, key_id: bytes | None = None) -> tuple[CertificateRecord, ...]:
        """Return the certificate objects that can be read.

        Args:
            slot_id: the token's slot.
            key_id: those that bear this CKA_ID are enough; all the same all are returned where none is found by it.

        Raises:
            TokenError: there are some, and none of them can be read.
        """
        if key_id and (named := self.contents(slot_id, ObjectClass.CERTIFICATE, key_id=key_id).certificates):
            return named
        found = self.contents(slot_id, ObjectClass.CERTIFICATE)
        self._refuse_nothing(found.certificates, found)
        return found.certificates

    def keys(self, slot_id: int, key_id: bytes | None = None) -> tuple[KeyRecord, ...]:
        """Return the key objects that can be read; private ones show only while logged in.

        Args:
            slot_id: the token's slot.
            key_id: those that bear this CKA_ID are enough, as for :meth:`certificates`; where no private one does, all.

        Raises:
            TokenError: there are private or public ones, and none of them can be read.
        """
        if key_id:
            named = self.contents(slot_id, ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY, key_id=key_id).keys
            if any(key.private for key in named):
                return named
        found = self.contents(slot_id, ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
        self._refuse_nothing(found.keys, found)
        return found.keys

    def _refuse_nothing(self, readable: Sequence[object], found: Contents) -> None:
        """Say that nothing could be read where that is why there is nothing."""
        failed = [problem for problem in found.problems if problem.code]
        if failed and not readable:
            raise to_error(CkrError(failed[0].function, failed[0].rv), Doing.READING)

    def login(self, slot_id: int, user: User, pin: str | None, *, deadline_s: float | None = None) -> int:
        """Log in; one C_Login. Return the login's id. ``pin`` None: the token asks for it itself."""
        login_id: int = self._call(Doing.LOGIN, "login", slot_id, user, pin, deadline_s=deadline_s, slot=slot_id)
        if self.sharing is not None:
            self.sharing.logged_in(login_id, slot_id)
        return login_id

    def attend(self, slot_id: int) -> int:
        """Hold a token that needs no login; return what stands for a login's id. No C_Login is made."""
        return self._call(Doing.READING, "attend", slot_id, slot=slot_id)  # type: ignore[no-any-return]

    def logout(self, login_id: int) -> None:
        """End a login and every session under it."""
        transport = self._transport
        if transport is None or not self._alive():  # it ended with its worker: no reason to start another
            raise errors.LoginEnded(ckr=None, function="logout")
        if self.sharing is not None:
            self.sharing.logged_out(login_id)
        if transport.engaged:  # the token may still be asking for a signature that nobody waits for
            transport.leave("logout", (login_id,))
        else:
            self._call(Doing.READING, "logout", login_id)

    def logged_in(self, login_id: int) -> bool:
        """Tell whether a login still stands."""
        return self._alive() and bool(self._call(Doing.READING, "logged_in", login_id))

    def generate(
        self, login_id: int, kind: KeyKind, bits: int, key_id: bytes, label: str, *, always_authenticate: bool
    ) -> PublicKey:
        """Make a signature key pair on the token."""
        arguments = (login_id, kind, bits, key_id, label, always_authenticate)
        return self._call(Doing.WRITING, "generate", *arguments, deadline_s=300.0)  # type: ignore[no-any-return]

    def write_certificate(
        self, login_id: int, der: bytes, *, key_id: bytes, label: str, subject: bytes, issuer: bytes, serial: bytes
    ) -> int:
        """Write a certificate; return its handle. ``subject``, ``issuer``, ``serial``: DER, from the certificate."""
        arguments = (login_id, der, key_id, label, subject, issuer, serial)
        return self._call(Doing.WRITING, "write_certificate", *arguments)  # type: ignore[no-any-return]

    def relabel(self, login_id: int, handle: int, label: str) -> None:
        """Give an object another label; many tokens refuse that."""
        self._call(Doing.WRITING, "relabel", login_id, handle, label)

    def destroy(self, login_id: int, handle: int) -> None:
        """Remove one object from the token."""
        self._call(Doing.WRITING, "destroy", login_id, handle)

    def set_pin(self, slot_id: int, old: str | None, new: str | None, *, deadline_s: float | None = None) -> None:
        """Change the user PIN; one C_SetPIN, nobody logged in. PINs None: the token asks for both itself."""
        self._call(Doing.LOGIN, "set_pin", slot_id, old, new, deadline_s=deadline_s, slot=slot_id)

    def init_pin(self, login_id: int, new: str | None, *, deadline_s: float | None = None) -> None:
        """Set the user PIN as the SO. ``new`` None: the token asks for it itself."""
        self._call(Doing.LOGIN, "init_pin", login_id, new, deadline_s=deadline_s)

    def init_token(self, slot_id: int, so_pin: str, label: str) -> None:
        """Set up a token; everything on it is lost."""
        self._call(Doing.WRITING, "init_token", slot_id, so_pin, label, slot=slot_id)

    def sign(self, login_id: int, call: SignCall, patience: Patience = PATIENCE) -> bytes:
        """Sign; at most one C_Sign, never repeated.

        Returns:
            The signature as the token gave it: ECDSA as r||s.

        Raises:
            OutcomeUnknown: the module hung or died after C_Sign had begun, or was still in it when the wait was
                cancelled.
            ConfirmationCancelled: the wait was cancelled before C_Sign; it will not be called.
            ConfirmationError: what ``patience.codes`` says.
            PinError, TokenError: as the CKR table says.
        """
        with SIGNATURES:
            return self._call(Doing.SIGNING, "sign", login_id, call, patience=patience)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End every login and let the module go; the next call loads it again."""
        if self._pid != os.getpid():
            return
        with self._lock:  # until it is closed: loaded again before that, it would be let go under the new user
            transport, self._transport = self._transport, None
            if transport is not None:
                transport.close()
                _leave_this_process(self)
                if self.sharing is not None:
                    self.sharing.logged_out()

    def _alive(self) -> bool:
        return self._transport is not None and self._transport.alive()

    def _ready(self) -> Transport:
        if self._pid != os.getpid():
            raise errors.DriverError("USED_AFTER_FORK", path=str(self.path))
        transport = self._transport
        if transport is not None and transport.alive():  # nearly always
            return transport
        with self._lock:
            if self._transport is not None and not self._transport.alive():
                self._transport.close()
                self._transport = None
            self._transport = self._transport or self._load()
            return self._transport

    def _load(self) -> Transport:
        real = trusted_module(self.path)
        try:
            if self.isolation is Isolation.IN_PROCESS and _has_this_process(self, real):
                return InProcess(real, self.options)
            prepare = None if self.sharing is None else partial(self._prepare, self.sharing)
            return Worker(real, self.options, self.deadline_s, self.environment, prepare)
        except LoadFailed as error:
            _leave_this_process(self)
            if (reached := of_loader(error.reason)) is not None:
                raise reached from error
            hung = self._hung or (_service_hangs() if error.kind == "hung" and self.sharing is not None else None)
            if error.kind == "hung" and (hung or self._blocking):
                raise (hung or busy(self._blocking)) from error
            raise errors.DriverLoadError(
                path=str(self.path), reason=error.reason, problem=errors.LoadOutcome(f"load_{error.kind}").value
            ) from error

    def _prepare(
        self, sharing: Sharing, ask: Callable[..., tuple[str, ...]], deadline_s: float
    ) -> tuple[Mapping[str, str], float]:
        """Return with which variables a worker loads the module, and how long that may take.

        Raises:
            TokenBusy: another program keeps a card, and the module would wait for it.
        """
        self._hung, self._blocking = _service_hangs(), ()
        if self._hung:
            return {}, min(deadline_s, HANGS_S)
        held = ask(*sharing.question())
        self._blocking = sharing.blocking(held)
        variables = sharing.leave_out(held)
        if variables is None:
            raise busy(held)
        return variables, min(deadline_s, SHORT_S) if self._blocking else deadline_s

    def _held(self, sharing: Sharing, *, anew: bool = False) -> tuple[str, ...]:
        """Return the readers whose card another program keeps, as the worker sees PC/SC."""
        limit_s = sharing.patience_s + _ASKED_S
        return self._call(Doing.READING, "held", *sharing.question(anew=anew), deadline_s=limit_s)  # type: ignore[no-any-return]

    def _check_free(self, sharing: Sharing, slot_id: int) -> None:
        """Refuse a call that would wait for a card that another program keeps.

        Raises:
            TokenBusy: that.
        """
        reader = sharing.reader(slot_id)
        if reader is not None and reader in descriptions(self._held(sharing, anew=True)):
            raise busy((reader,))

    def _after_fork(self) -> None:
        """In a forked child: nothing here may be used again, and no lock may be waited for."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.disown()

    def _call(
        self,
        doing: Doing,
        operation: str,
        *arguments: Any,
        deadline_s: float | None = None,
        patience: Patience = PATIENCE,
        slot: int | None = None,
    ) -> Any:
        transport = self._ready()
        limit = deadline_s or patience.deadline_s or self.deadline_s
        started, said = time.monotonic(), "ok"
        try:
            if slot is not None and self.sharing is not None:
                self._check_free(self.sharing, slot)
            return transport.call(operation, arguments, limit, patience.watch)
        except CkrError as error:
            said = str(error)
            waited_s, in_files = time.monotonic() - started, self.options.relist
            codes, asks = patience.codes, patience.asks
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
            if LOG.isEnabledFor(logging.DEBUG):  # the arguments stay out: a PIN may be among them
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


def _service_hangs() -> errors.UShieldError | None:
    """Return the error of PC/SC where it does not answer: a module that asks it would wait without an end."""
    try:
        pcsc.answers()
    except errors.DriverError as error:
        return error
    return None


def busy(readers: Sequence[str]) -> errors.TokenBusy:
    """Return the error of cards that another program keeps to itself; it names that program where it can be told."""
    users = card_users()
    return errors.TokenBusy("READER_BUSY", holder=holder(users), holders=list(users), readers=list(readers))


_Key = tuple[Path, Isolation, ModuleOptions, float, frozenset[tuple[str, str]], str]

_modules: Final[dict[_Key, Module]] = {}
_modules_lock = threading.RLock()

# C_Initialize is once a process: whose each file is that was loaded here, by its real path. A fork inherits that.
_in_this_process: Final[dict[Path, Module | None]] = {}


def open_module(
    path: Path,
    isolation: Isolation,
    options: ModuleOptions | None = None,
    *,
    deadline_s: float = 30.0,
    environment: Mapping[str, str] | None = None,
    name: str = "",
    sharing: Callable[[], Sharing | None] = lambda: None,
) -> Module:
    """Return the module with these arguments: the same one each time in a process, since a login belongs to one.

    With other arguments it is another module, in a worker of its own. In a forked child it is loaded anew.

    Args:
        path: absolute path of the module file.
        isolation: whether it may run in this process.
        options: how the module must be handled.
        deadline_s: how long loading, and any call that does not say otherwise, may take.
        environment: variables that only the module's worker process gets.
        name: tells several modules with the same arguments apart.
        sharing: returns how it shares card readers with other programs; asked once for each module.
    """
    options = options or ModuleOptions()
    key = path, isolation, options, deadline_s, frozenset((environment or {}).items()), name
    with _modules_lock:
        module = _modules.get(key)
        if module is None or module._pid != os.getpid():
            module = _modules[key] = Module(path, isolation, options, deadline_s, environment, name, sharing())
        return module


atexit.register(leave_workers)  # also those of modules that were not opened by open_module; after close_modules


@atexit.register
def close_modules() -> None:
    """Let every module of this process go."""
    for module in list(_modules.values()):
        module.close()


def _has_this_process(module: Module, real: Path) -> bool:
    """Tell whether a module may be loaded here, and keep the place for it if it may."""
    if any(os.environ.get(name) != value for name, value in module.environment.items()):
        return False
    with _modules_lock:
        return _in_this_process.setdefault(real, module) is module


def _leave_this_process(module: Module) -> None:
    with _modules_lock:
        for real, owner in list(_in_this_process.items()):
            if owner is module:
                del _in_this_process[real]


def _after_fork() -> None:
    """In a forked child: every module is loaded anew, and those that the parent had loaded in-process in a worker."""
    global _modules_lock  # noqa: PLW0603 - another thread may have held it
    _modules_lock = threading.RLock()
    for module in {*_modules.values(), *filter(None, _in_this_process.values())}:
        module._after_fork()
    _modules.clear()
    _in_this_process.update(dict.fromkeys(_in_this_process))


os.register_at_fork(after_in_child=_after_fork)
