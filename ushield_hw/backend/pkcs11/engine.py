"""One loaded PKCS#11 module: sessions, login and the calls that the library needs.

An engine runs in this process or in a worker process (see ``transport``). Its public methods are the operations that a
transport can call. They take and return plain data and raise :class:`CkrError`, :class:`LoadFailed` or
:class:`StaleLogin`.

Thread-safe. Each operation leases its own PKCS#11 session. The login belongs to the token and is kept alive by one
anchor session until it is logged out.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Final

from ushield_hw.backend.model import (
    Contents,
    ModuleInfo,
    ModuleOptions,
    ObjectClass,
    SignCall,
    SlotInfo,
    TokenInfo,
    User,
)
from ushield_hw.backend.pkcs11 import function_list, objects, slots
from ushield_hw.backend.pkcs11.ckr import GONE, NUMBERS, CkrError, LoadFailed, StaleLogin
from ushield_hw.backend.pkcs11.object_reader import Reader
from ushield_hw.backend.pkcs11.reinit_lock import ReinitLock
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.public_key import PublicKey

_CONTEXT_SPECIFIC: Final = 2
_LOGGED_IN: Final = ("USER_ALREADY_LOGGED_IN", "USER_ANOTHER_ALREADY_LOGGED_IN")
_USER_TYPES: Final = {User.SO: 0, User.USER: 1}
# A module with the option ``relist`` is not re-initialised again within this time.
_FRESH_S: Final = 0.5
_SERIAL_SESSION: Final = 4  # CKF_SERIAL_SESSION
_RW_SESSION: Final = 2  # CKF_RW_SESSION
_LABEL_OCTETS: Final = 32  # length of label in CK_TOKEN_INFO


@dataclass(slots=True)
class _SlotState:
    """The engine's state of one slot."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    login_lock: threading.Lock = field(default_factory=threading.Lock)
    idle: dict[bool, list[int]] = field(default_factory=lambda: {False: [], True: []})  # read-write -> sessions
    anchor: int = 0
    login_id: int | None = None
    bare: bool = False  # the anchor session has no login, because the token needs none
    era: int = 0  # incremented when all sessions are closed; a session of an earlier era is invalid


class Engine:
    """One PKCS#11 module in this process.

    Args:
        path: path of the module file.
        options: how the module must be handled.
        alone: nothing else in this process uses the module, so a login that the engine does not know can be ended.

    Raises:
        LoadFailed: the file cannot be loaded, exports no C_GetFunctionList, or C_Initialize failed.
    """

    def __init__(self, path: str, options: ModuleOptions, *, alone: bool = False) -> None:
        self._options, self._alone = options, alone
        try:
            self._functions = function_list.Functions(path)
            self._initialize()
            self._info = self._introduced(path)
        except (OSError, AttributeError) as error:
            raise LoadFailed(str(error)) from error
        except CkrError as error:
            # p11-kit's proxy returns a different function list to each caller; only one of them was initialised.
            two_lists = error.function == "C_GetInfo" and error.among("CRYPTOKI_NOT_INITIALIZED")
            raise LoadFailed(error.name, "proxy" if two_lists else "refused") from error
        self._reinit = ReinitLock(self._initialize)
        self._signer = function_list.Signer(self._functions)
        self._states: dict[int, _SlotState] = {}
        self._states_lock = threading.Lock()
        self._known: set[int] = set()  # slots that were listed since their token last changed

    # -- the module and its tokens ------------------------------------------------------------------------------

    def info(self) -> ModuleInfo:
        """Return CK_INFO."""
        return self._info

    def slots(self, busy: tuple[str, ...] = ()) -> tuple[SlotInfo, ...]:
        """Return every slot with its token; a slot that cannot be read has the CKR name as its problem.

        Args:
            busy: descriptions of the slots to skip, because another program holds their card exclusively.
        """
        self._relist()
        with self._reinit, self._serial:
            found = slots.every(self._functions, busy)
            self._known.update(slot.slot_id for slot in found if slot.problem is None)
            for slot in found:
                state = self._states.get(slot.slot_id)
                gone = slot.token is None and (slot.problem or "").removeprefix("CKR_") in {"", *GONE}
                if state and state.login_id and (gone or not self._stands(state)):
                    self._forget(slot.slot_id, state)
        return found

    def token(self, slot_id: int) -> TokenInfo:
        """Return the current CK_TOKEN_INFO; not cached, because the flags change with every PIN attempt."""
        with self._reinit, self._serial, self._noticing(slot_id):
            return slots.token(self._functions, slot_id)

    def mechanisms(self, slot_id: int) -> tuple[str, ...]:
        """Return the names (without CKM_) of the token's mechanisms; unknown ones as numbers."""
        with self._reinit, self._serial:
            self._listed(slot_id)  # NSS also lists mechanisms for slots that do not exist
            return slots.mechanisms(self._functions, slot_id)

    # -- login --------------------------------------------------------------------------------------------------

    def login(self, slot_id: int, user: User, pin: str | None) -> int:
        """Log in and return the login id.

        The session of a failed login is closed: an open session makes every later SO login fail. A login that exists in
        the module but not in the engine is ended.

        Args:
            slot_id: the token's slot.
            user: the role that logs in.
            pin: the PIN; None: it is entered on the token or reader.
        """
        state = self._state(slot_id)
        with state.login_lock:
            if state.login_id is not None:
                with self._reinit, self._serial:
                    if slots.logged_in(self._functions, state.anchor):
                        raise CkrError("C_Login", NUMBERS["USER_ALREADY_LOGGED_IN"])
                    self._forget(slot_id, state)
            self._relist()
            try:
                session = self._logged_in_session(slot_id, state, user, pin)
            except CkrError as error:
                self._doubt(error)
                if self._options.renew_when_refused:
                    self._renew()
                raise
            state.anchor, state.login_id = session, _new_id()
            return state.login_id

    def open_without_login(self, slot_id: int) -> int:
        """Open a token that needs no login, without C_Login; return an id that is used as a login id."""
        state = self._state(slot_id)
        with state.login_lock:
            if state.login_id is None:
                with self._reinit, self._serial:
                    state.anchor, state.bare = self._open(slot_id, rw=False), True
                    state.login_id = _new_id()
            return state.login_id

    def _stands(self, state: _SlotState) -> bool:
        return state.bare or slots.logged_in(self._functions, state.anchor)

    def _logged_in_session(self, slot_id: int, state: _SlotState, user: User, pin: str | None) -> int:
        with self._reinit, self._serial:
            self._close_idle(state)  # the SO cannot log in while read-only sessions exist
            try:
                return self._new_login(slot_id, user, pin)
            except CkrError as error:
                if not self._alone or not error.among(*_LOGGED_IN):
                    raise
            # A login that the engine does not know: OpenSC keeps one if it has not noticed that the token was removed
            # and inserted again. The module has not checked the PIN, so the second C_Login is the only attempt used.
            self._forget(slot_id, state)
            return self._new_login(slot_id, user, pin, left_over=True)

    def _new_login(self, slot_id: int, user: User, pin: str | None, *, left_over: bool = False) -> int:
        """Return a session that is logged in.

        Args:
            slot_id: the token's slot.
            user: the role that logs in.
            pin: the PIN; None: it is entered on the token or reader.
            left_over: log out first, to end a login that the engine does not know.
        """
        session = self._open(slot_id, rw=user is User.SO)
        try:
            if left_over:
                with suppress(CkrError):
                    self._functions.call("C_Logout", session)
            self._c_login(session, _USER_TYPES[user], pin)
        except BaseException:
            self._close_quietly(session)
            raise
        return session

    def logout(self, login_id: int) -> None:
        """Log out, then close every session of the slot, even if C_Logout fails; its error is raised afterwards."""
        slot_id, state = self._find_login(login_id)
        with state.login_lock, self._reinit, self._serial:
            if state.login_id != login_id:
                return
            try:
                if not state.bare:
                    self._functions.call("C_Logout", state.anchor)
            finally:
                self._forget(slot_id, state)

    def logged_in(self, login_id: int) -> bool:
        """Return whether a login is still valid, as far as the engine knows; does not call the module."""
        return any(state.login_id == login_id for state in list(self._states.values()))

    # -- objects ------------------------------------------------------------------------------------------------

    def contents(self, slot_id: int, wanted: tuple[ObjectClass, ...], key_id: bytes | None = None) -> Contents:
        """Return objects, and the problems with those that could not be read. Private ones are visible after login.

        Args:
            slot_id: the token's slot.
            wanted: the object classes to read.
            key_id: read only the objects that the module finds by this CKA_ID.
        """
        state = self._state(slot_id)
        with self._session(slot_id) as session:
            return objects.contents(self._reader(session, slot_id, state, key_id), wanted)

    def generate(
        self, login_id: int, kind: KeyKind, bits: int, key_id: bytes, label: str, always_authenticate: bool
    ) -> PublicKey:
        """Generate a signature key pair on the token; the private key is not extractable."""
        slot_id, state = self._find_login(login_id)
        with self._login_session(login_id, rw=True) as session:
            wanted = (kind, bits, key_id, label)
            template = objects.KeyTemplate(always_authenticate, says_false=not self._options.no_false_usage)
            public, _ = objects.generate(self._functions, session, *wanted, template)
            return objects.public_half(self._reader(session, slot_id, state), public, kind)

    def write_certificate(
        self, login_id: int, der: bytes, key_id: bytes, label: str, subject: bytes, issuer: bytes, serial: bytes
    ) -> int:
        """Write a certificate object and return its handle."""
        names = (subject, issuer, serial)
        with self._login_session(login_id, rw=True) as session:
            return objects.write_certificate(self._functions, session, der, key_id, label, names)

    def relabel(self, login_id: int, handle: int, label: str) -> None:
        """Change the label of an object."""
        with self._login_session(login_id, rw=True) as session:
            objects.relabel(self._functions, session, handle, label)

    def destroy(self, login_id: int, handle: int) -> None:
        """Delete one object."""
        with self._login_session(login_id, rw=True) as session:
            self._functions.call("C_DestroyObject", session, handle)

    # -- signing ------------------------------------------------------------------------------------------------

    def sign(self, login_id: int, call: SignCall, began: Callable[[], None] = lambda: None) -> bytes:
        """Sign with one C_SignInit, at most one C_Login and one C_Sign.

        Args:
            login_id: the login to use.
            call: key, mechanism and data.
            began: called immediately before C_Sign, from when on the token may have signed.
        """
        slot_id, state = self._find_login(login_id)
        with self._reinit, self._serial:  # same as _login_session, without the cost of generators
            session, era = self._lease(slot_id, state)
            try:
                if state.login_id != login_id:
                    raise StaleLogin
                self._signer.begin(session, call.handle, objects.mechanism(call.mechanism, call.digest))
                if call.context:
                    self._c_login(session, _CONTEXT_SPECIFIC, call.pin)
                began()
                signature = self._signer.finish(session, call.data)
            except BaseException as error:
                self._failed(slot_id, state, era, error, session)
                raise
            self._give_back(state, era, session)
            return signature

    # -- PINs ---------------------------------------------------------------------------------------------------

    def set_pin(self, slot_id: int, old: str | None, new: str | None) -> None:
        """Change the user PIN without login; None: both PINs are entered on the token or reader."""
        self._relist()
        with self._session(slot_id, rw=True) as session:
            self._functions.call("C_SetPIN", session, *_pin(old), *_pin(new))

    def init_pin(self, login_id: int, new: str | None) -> None:
        """Set the user PIN, logged in as the SO."""
        with self._login_session(login_id, rw=True) as session:
            self._functions.call("C_InitPIN", session, *_pin(new))

    def init_token(self, slot_id: int, so_pin: str, label: str) -> None:
        """Initialise a token. This deletes all objects on it."""
        state = self._state(slot_id)
        with self._reinit, self._serial:
            self._close_idle(state)
            padded = label.encode()[:_LABEL_OCTETS].decode("utf-8", "ignore").encode().ljust(_LABEL_OCTETS)
            self._functions.call("C_InitToken", slot_id, *_pin(so_pin), padded)
            self._known.clear()

    def close(self) -> None:
        """End all logins and finalise the module, unless a call is in progress or other code in the process uses it."""
        with self._reinit.alone(wait_s=1.0) as nobody, self._serial:
            self._reinit.close()
            for slot_id, state in list(self._states.items()):
                self._forget(slot_id, state)
            if nobody and self._ours:
                self._functions.call("C_Finalize", None)

    # -- internal -----------------------------------------------------------------------------------------------

    def _initialize(self) -> None:
        """Call C_Initialize with OS locking; set ``_serial``, a real lock if the module does no locking itself."""
        serial_only = self._options.one_at_a_time
        reserved = self._options.init_reserved or ""
        arguments = function_list.InitializeArgs(flags=function_list.OS_LOCKING_OK, pReserved=reserved.encode() or None)
        self._ours = True
        try:
            self._functions.call("C_Initialize", None if serial_only else ctypes.byref(arguments))
            self._serial: AbstractContextManager[object] = threading.RLock() if serial_only else nullcontext()
        except CkrError as error:
            if error.among("CRYPTOKI_ALREADY_INITIALIZED"):  # by other code in this process, with unknown locking
                self._ours = False
                self._serial = threading.RLock()
            elif error.among("CANT_LOCK", "NEED_TO_CREATE_THREADS"):
                self._functions.call("C_Initialize", None)
                self._serial = threading.RLock()
            else:
                raise
        self._initialized_at = time.monotonic()

    def _introduced(self, path: str) -> ModuleInfo:
        """Return CK_INFO through a second function list, which differs from the first one in p11-kit's proxy."""
        try:
            return slots.module_info(function_list.Functions(path), path)
        except CkrError:
            with suppress(CkrError):
                self._functions.call("C_Finalize", None)
            raise

    def _relist(self) -> None:
        """Re-initialise a module that otherwise does not see changes by other processes, unless a login exists."""
        if self._options.relist and time.monotonic() - self._initialized_at >= _FRESH_S:
            self._renew()

    def _doubt(self, error: CkrError) -> None:
        """After a general error, make the next login re-initialise a module that stores its tokens in files.

        SoftHSM2 loses the state of a token that it could not write, and then refuses logins for it.
        """
        if error.among("GENERAL_ERROR"):
            self._initialized_at = -_FRESH_S

    def _renew(self) -> None:
        """Call C_Finalize and C_Initialize, unless a login exists or other code in the process uses the module."""
        if not self._ours or not self._reinit.usable:
            return
        with self._reinit.alone() as nobody:
            if nobody and all(state.login_id is None for state in self._states.values()):
                for state in self._states.values():
                    self._close_idle(state)
                self._functions.call("C_Finalize", None)
                self._known.clear()
                self._reinit.initialise()

    def _listed(self, slot_id: int) -> None:
        """Check that a slot exists. After a re-insertion many modules need C_GetSlotList before other calls work."""
        if slot_id not in self._known:
            if slot_id not in slots.slot_ids(self._functions):
                raise CkrError("C_GetSlotList", NUMBERS["SLOT_ID_INVALID"])
            self._known.add(slot_id)

    def _open(self, slot_id: int, *, rw: bool) -> int:
        try:
            return self._c_open(slot_id, rw=rw)
        except CkrError as error:
            if not error.among(*GONE, "DEVICE_ERROR"):
                raise
        self._known.clear()
        return self._c_open(slot_id, rw=rw)

    def _c_open(self, slot_id: int, *, rw: bool) -> int:
        self._listed(slot_id)
        session = ctypes.c_ulong()
        flags = _SERIAL_SESSION | (_RW_SESSION if rw else 0)
        self._functions.call("C_OpenSession", slot_id, flags, None, None, ctypes.byref(session))
        return session.value

    def _reader(self, session: int, slot_id: int, state: _SlotState, key_id: bytes | None = None) -> Reader:
        return Reader(self._functions, session, slot_id, state.login_id is not None, key_id)

    def _state(self, slot_id: int) -> _SlotState:
        with self._states_lock:
            return self._states.setdefault(slot_id, _SlotState())

    def _find_login(self, login_id: int) -> tuple[int, _SlotState]:
        for slot_id, state in list(self._states.items()):
            if state.login_id == login_id:
                return slot_id, state
        raise StaleLogin

    @contextmanager
    def _login_session(self, login_id: int, *, rw: bool = False) -> Iterator[int]:
        slot_id, state = self._find_login(login_id)
        with self._session(slot_id, rw=rw) as session:
            if state.login_id != login_id:
                raise StaleLogin
            yield session

    @contextmanager
    def _session(self, slot_id: int, *, rw: bool = False) -> Iterator[int]:
        """Lease a session for one operation. It is closed after an error, so that no operation stays active in it."""
        state = self._state(slot_id)
        with self._reinit, self._serial:
            session, era = self._lease(slot_id, state, rw=rw)
            try:
                yield session
            except BaseException as error:
                self._failed(slot_id, state, era, error, session)
                raise
            self._give_back(state, era, session, rw=rw)

    def _lease(self, slot_id: int, state: _SlotState, *, rw: bool = False) -> tuple[int, int]:
        """Return a session for one operation, and its era."""
        era = state.era
        try:
            with state.lock:
                session = state.idle[rw].pop() if state.idle[rw] else self._open(slot_id, rw=rw)
                return session, state.era
        except CkrError as error:
            self._failed(slot_id, state, era, error)
            raise

    def _give_back(self, state: _SlotState, era: int, session: int, *, rw: bool = False) -> None:
        with state.lock:
            if era == state.era:
                state.idle[rw].append(session)

    @contextmanager
    def _noticing(self, slot_id: int) -> Iterator[None]:
        """End the login if a call that needs no session reports that the token was removed."""
        state = self._state(slot_id)
        era = state.era
        try:
            yield
        except CkrError as error:
            self._failed(slot_id, state, era, error)
            raise

    def _failed(
        self, slot_id: int, state: _SlotState, era: int, error: BaseException, session: int | None = None
    ) -> None:
        """Close the session after an error, and drop the login if the error ends it; not if the era has changed."""
        with state.lock:
            if session is not None and era == state.era:
                self._close_quietly(session)
        if isinstance(error, CkrError):
            self._doubt(error)
            if era == state.era and _ends_login(error):
                self._forget(slot_id, state)

    def _close_idle(self, state: _SlotState) -> None:
        with state.lock:
            sessions = state.idle[False] + state.idle[True]
            state.idle[False].clear()
            state.idle[True].clear()
        for session in sessions:
            self._close_quietly(session)

    def _forget(self, slot_id: int, state: _SlotState) -> None:
        """Drop the login and all sessions of a slot; errors are ignored, because the token may have been removed."""
        with state.lock:
            state.login_id, state.anchor, state.bare, state.era = None, 0, False, state.era + 1
            state.idle[False].clear()
            state.idle[True].clear()
            with suppress(CkrError):
                self._functions.call("C_CloseAllSessions", slot_id)
        self._known.discard(slot_id)

    def _close_quietly(self, session: int) -> None:
        with suppress(CkrError):
            self._functions.call("C_CloseSession", session)

    def _c_login(self, session: int, user_type: int, pin: str | None) -> None:
        self._functions.call("C_Login", session, user_type, *_pin(pin))


def _ends_login(error: CkrError) -> bool:
    """Return whether an error means that the token was removed or that the login has ended."""
    # C_Login reaches this only as a context-specific login, and a wrong PIN there ends the user's login.
    return error.function == "C_Login" or error.among(*GONE, "USER_NOT_LOGGED_IN")


def _new_id() -> int:
    """Return a random login id of 62 bits. ``secrets`` is not used: it takes longer to import than a module to load."""
    return int.from_bytes(os.urandom(8)) >> 2


def _pin(pin: str | None) -> tuple[bytes | None, int]:
    data = None if pin is None else pin.encode()
    return data, len(data or b"")
