"""The PKCS#11 backend: typed calls, the library's errors, and a new worker process after the old one has ended."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ushield_hw import errors
from ushield_hw.backend import connection
from ushield_hw.backend.connection import Connection
from ushield_hw.backend.interface import DEFAULT_OPTIONS, Isolation, SignOptions
from ushield_hw.backend.model import (
    CertificateRecord,
    Contents,
    KeyRecord,
    ModuleInfo,
    ModuleOptions,
    ObjectClass,
    SignCall,
    SlotInfo,
    TokenInfo,
    User,
)
from ushield_hw.backend.pkcs11.ckr import CkrError, Doing, to_error
from ushield_hw.backend.sharing import HANGS_S, SHORT_S, Sharing, descriptions, reader_busy, service_hangs
from ushield_hw.backend.signatures import SIGNATURES
from ushield_hw.backend.transport import leave_workers
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.public_key import PublicKey
from ushield_hw.system.log import LOG


class Module:
    """One PKCS#11 module, loaded at first use. Thread-safe.

    Every method raises ``DriverUntrusted``, ``DriverNotFound`` or ``DriverLoadError`` if the module cannot be loaded,
    ``TokenError`` (``MODULE_CRASHED``, ``MODULE_HUNG``) if its worker process crashes or hangs, and the errors of the
    CKR table.

    Args:
        path: absolute path of the module file.
        isolation: in a worker process or in this process.
        options: how the module must be handled.
        deadline_s: timeout of loading and default timeout of a call, in seconds.
        environment: environment variables of the worker process only.
        name: name of an instance that serves one token only, see :meth:`separate`.
        sharing: the card readers it shares with other programs, if it would wait for them.
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
        self.options = options
        self.environment = environment or {}
        self.name = name
        self.sharing = sharing
        self._connection = Connection(path, isolation, options, deadline_s, self.environment, sharing)
        self._call = self._connection.call

    @property
    def deadline_s(self) -> float:
        """Default timeout of a call, in seconds."""
        return self._connection.deadline_s

    @deadline_s.setter
    def deadline_s(self, value: float) -> None:
        self._connection.deadline_s = value

    @property
    def in_this_process(self) -> Module:
        """This module in the current process; in a forked child, an instance that is loaded there."""
        return self if self._connection.pid == os.getpid() else self.separate()

    def separate(self, name: str = "") -> Module:
        """Return another instance of this module, in its own worker process; the same one for the same name.

        Args:
            name: the name; empty: the instance that :func:`open_module` returns for the same arguments.
        """
        isolation, limit_s = Isolation.PROCESS if name else self.isolation, self.deadline_s
        return open_module(
            self.path, isolation, self.options, deadline_s=limit_s, environment=self.environment, name=name
        )

    @property
    def needs_relist(self) -> bool:
        """Whether it sees changes made by other processes only after C_Finalize and C_Initialize."""
        return self.options.relist

    @property
    def loaded(self) -> bool:
        """Whether the module is loaded now."""
        return self._connection.alive

    @property
    def has_abandoned_call(self) -> bool:
        """Whether the module is still executing an abandoned call; other calls may have to wait for it."""
        return self._connection.has_abandoned_call

    def info(self) -> ModuleInfo:
        """Return the module's information (CK_INFO)."""
        return self._connection.info()

    def slots(self, *, deadline_s: float | None = None) -> tuple[SlotInfo, ...]:
        """Return every slot, with its token if one is present.

        A slot whose card another program holds exclusively has the problem ``TOKEN_BUSY``; the other slots are read.

        Args:
            deadline_s: timeout in seconds; None: the module's default.

        Raises:
            TokenBusy: another program holds a card, and the module waits for it.
        """
        sharing = self.sharing
        if sharing is None:
            return self._call(Doing.READING, "slots", deadline_s=deadline_s)  # type: ignore[no-any-return]
        hung = service_hangs()
        ask = self._connection.alive and not hung  # a new worker is asked when it is started
        held = self._connection.held(sharing) if ask else ()
        if set(sharing.skipped) - set(held) and not sharing.busy:
            self.close()  # a reader that the worker was started without is free again
        limit_s = deadline_s or self.deadline_s
        if blocking := sharing.blocking(held):
            limit_s = min(limit_s, SHORT_S)
        if hung:
            limit_s = min(limit_s, HANGS_S)
        try:
            return sharing.listed(self._call(Doing.READING, "slots", descriptions(held), deadline_s=limit_s))
        except errors.ModuleHung as error:
            if blocking or hung:
                raise (hung or reader_busy(blocking)) from error
            raise

    def token(self, slot_id: int) -> TokenInfo:
        """Return the current information and flags of a token.

        Args:
            slot_id: the token's slot.
        """
        return self._call(Doing.READING, "token", slot_id, slot=slot_id)  # type: ignore[no-any-return]

    def mechanisms(self, slot_id: int) -> tuple[str, ...]:
        """Return the names of the mechanisms that a token supports, without CKM_.

        Args:
            slot_id: the token's slot.
        """
        return self._call(Doing.READING, "mechanisms", slot_id, slot=slot_id)  # type: ignore[no-any-return]

    def contents(self, slot_id: int, *wanted: ObjectClass, key_id: bytes | None = None) -> Contents:
        """Return the objects on a token, and the problems with those that could not be read.

        Private keys are visible only after login.

        Args:
            slot_id: the token's slot.
            wanted: the object classes to read; none: all of them.
            key_id: read only the objects that the module finds by this CKA_ID. An empty result does not prove that
                there are none.
        """
        classes = wanted or tuple(ObjectClass)
        found: Contents = self._call(Doing.READING, "contents", slot_id, classes, key_id, slot=slot_id)
        for problem in found.problems:
            LOG.warning("%s: %s %d: %s", self.path.name, problem.kind.value, problem.handle, problem.code)
        return found

    def certificates(self, slot_id: int, key_id: bytes | None = None) -> tuple[CertificateRecord, ...]:
        """Return the readable certificate objects.

        Args:
            slot_id: the token's slot.
            key_id: return only the objects with this CKA_ID; if there are none, return all.

        Raises:
            TokenError: the token has certificates, and none of them can be read.
        """
        if key_id and (named := self.contents(slot_id, ObjectClass.CERTIFICATE, key_id=key_id).certificates):
            return named
        found = self.contents(slot_id, ObjectClass.CERTIFICATE)
        self._refuse_nothing(found.certificates, found)
        return found.certificates

    def keys(self, slot_id: int, key_id: bytes | None = None) -> tuple[KeyRecord, ...]:
        """Return the readable key objects; private keys are visible only after login.

        Args:
            slot_id: the token's slot.
            key_id: return only the objects with this CKA_ID; if no private key has it, return all.

        Raises:
            TokenError: the token has keys, and none of them can be read.
        """
        if key_id:
            named = self.contents(slot_id, ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY, key_id=key_id).keys
            if any(key.private for key in named):
                return named
        found = self.contents(slot_id, ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
        self._refuse_nothing(found.keys, found)
        return found.keys

    def _refuse_nothing(self, readable: Sequence[object], found: Contents) -> None:
        """Raise the first read error if nothing was readable because of errors."""
        failed = [problem for problem in found.problems if problem.code]
        if failed and not readable:
            raise to_error(CkrError(failed[0].function, failed[0].rv), Doing.READING)

    def login(self, slot_id: int, user: User, pin: str | None, *, deadline_s: float | None = None) -> int:
        """Log in, with exactly one C_Login. See :meth:`TokenBackend.login`."""
        login_id: int = self._call(Doing.LOGIN, "login", slot_id, user, pin, deadline_s=deadline_s, slot=slot_id)
        if self.sharing is not None:
            self.sharing.logged_in(login_id, slot_id)
        return login_id

    def open_without_login(self, slot_id: int) -> int:
        """Open a token that needs no login; return an id that is used as a login id. C_Login is not called."""
        return self._call(Doing.READING, "open_without_login", slot_id, slot=slot_id)  # type: ignore[no-any-return]

    def logout(self, login_id: int) -> None:
        """Log out and close the sessions of the login.

        Raises:
            LoginEnded: the module is not loaded any more.
        """
        transport = self._connection.transport
        if transport is None or not self._connection.alive:  # the login ended with its worker: do not start another one
            raise errors.LoginEnded(ckr=None, function="logout")
        if self.sharing is not None:
            self.sharing.logged_out(login_id)
        if transport.has_abandoned_call:  # the token may still be executing an abandoned signature: do not wait for it
            transport.post("logout", (login_id,))
        else:
            self._call(Doing.READING, "logout", login_id)

    def logged_in(self, login_id: int) -> bool:
        """Return whether a login is still valid."""
        return self._connection.alive and bool(self._call(Doing.READING, "logged_in", login_id))

    def generate(
        self, login_id: int, kind: KeyKind, bits: int, key_id: bytes, label: str, *, always_authenticate: bool
    ) -> PublicKey:
        """Generate a signature key pair on the token. See :meth:`TokenBackend.generate`."""
        arguments = (login_id, kind, bits, key_id, label, always_authenticate)
        return self._call(Doing.WRITING, "generate", *arguments, deadline_s=300.0)  # type: ignore[no-any-return]

    def write_certificate(
        self, login_id: int, der: bytes, *, key_id: bytes, label: str, subject: bytes, issuer: bytes, serial: bytes
    ) -> int:
        """Write a certificate object. See :meth:`TokenBackend.write_certificate`."""
        arguments = (login_id, der, key_id, label, subject, issuer, serial)
        return self._call(Doing.WRITING, "write_certificate", *arguments)  # type: ignore[no-any-return]

    def relabel(self, login_id: int, handle: int, label: str) -> None:
        """Change the label of an object; many tokens refuse this."""
        self._call(Doing.WRITING, "relabel", login_id, handle, label)

    def destroy(self, login_id: int, handle: int) -> None:
        """Delete one object from the token."""
        self._call(Doing.WRITING, "destroy", login_id, handle)

    def set_pin(self, slot_id: int, old: str | None, new: str | None, *, deadline_s: float | None = None) -> None:
        """Change the user PIN, with one C_SetPIN and without login. See :meth:`TokenBackend.set_pin`."""
        self._call(Doing.LOGIN, "set_pin", slot_id, old, new, deadline_s=deadline_s, slot=slot_id)

    def init_pin(self, login_id: int, new: str | None, *, deadline_s: float | None = None) -> None:
        """Set the user PIN, logged in as the SO. See :meth:`TokenBackend.init_pin`."""
        self._call(Doing.LOGIN, "init_pin", login_id, new, deadline_s=deadline_s)

    def init_token(self, slot_id: int, so_pin: str, label: str) -> None:
        """Initialise a token; this deletes all objects on it.

        Args:
            slot_id: the token's slot.
            so_pin: the SO PIN.
            label: the token's new label.
        """
        self._call(Doing.WRITING, "init_token", slot_id, so_pin, label, slot=slot_id)

    def sign(self, login_id: int, call: SignCall, options: SignOptions = DEFAULT_OPTIONS) -> bytes:
        """Sign, with at most one C_Sign; never retried.

        Args:
            login_id: the id that :meth:`login` or :meth:`open_without_login` returned.
            call: key, mechanism and data.
            options: timeout, cancellation and the meaning of return codes.

        Returns:
            The signature as the token returned it: ECDSA as r||s.

        Raises:
            OutcomeUnknown: the module crashed or hung after C_Sign had begun, or C_Sign had not returned when the wait
                was cancelled.
            ConfirmationCancelled: the wait was cancelled before C_Sign, which will not be called.
            ConfirmationError: according to ``options.codes``.
            PinError, TokenError: according to the CKR table.
        """
        with SIGNATURES:
            return self._call(Doing.SIGNING, "sign", login_id, call, options=options)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End every login and unload the module; the next call loads it again."""
        self._connection.close()


_Key = tuple[Path, Isolation, ModuleOptions, float, frozenset[tuple[str, str]], str]

_modules: Final[dict[_Key, Module]] = {}
_modules_lock = threading.RLock()


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
    """Return the module with these arguments; the same instance each time in a process, because logins belong to it.

    With other arguments it is another instance, in its own worker process. A forked child loads it again.

    Args:
        path: absolute path of the module file.
        isolation: whether it may run in this process.
        options: how the module must be handled.
        deadline_s: timeout of loading and default timeout of a call, in seconds.
        environment: environment variables of the worker process only.
        name: distinguishes several instances with the same arguments.
        sharing: returns the card readers it shares with other programs; called once for each instance.

    Returns:
        The module; it is loaded at the first call.
    """
    options = options or ModuleOptions()
    key = path, isolation, options, deadline_s, frozenset((environment or {}).items()), name
    with _modules_lock:
        module = _modules.get(key)
        if module is None or module._connection.pid != os.getpid():
            module = _modules[key] = Module(path, isolation, options, deadline_s, environment, name, sharing())
        return module


atexit.register(leave_workers)  # runs after close_modules; covers modules that open_module did not open


@atexit.register
def close_modules() -> None:
    """Close every module of this process."""
    for module in list(_modules.values()):
        module.close()


def _after_fork() -> None:
    """Discard all modules in a forked child; those that the parent had loaded in-process get a worker there."""
    global _modules_lock  # noqa: PLW0603 - another thread may have held it
    _modules_lock = threading.RLock()
    for module in _modules.values():
        module._connection.after_fork()
    _modules.clear()
    connection.after_fork()


os.register_at_fork(after_in_child=_after_fork)
