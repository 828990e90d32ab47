"""One loaded PKCS#11 module: sessions, login and the calls this library needs, by python-pkcs11 and ``abi``.

An engine runs in this process or in a worker (see ``transport``); its public methods are exactly what can be asked of a
module. They take and return plain data and raise :class:`CkrError`, :class:`LoadFailed` or :class:`StaleLogin`.

Two threads may call at once. Each operation leases a PKCS#11 session of its own; the login belongs to the token and is
kept by one anchor session, so that it lasts exactly as long as its owner wants.
"""

from __future__ import annotations

import ctypes
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from pkcs11 import _pkcs11

from ushield_hw.cryptoki import abi, objects, slots
from ushield_hw.cryptoki.ckr import GONE, NUMBERS, CkrError, LoadFailed, StaleLogin
from ushield_hw.cryptoki.gate import Gate
from ushield_hw.cryptoki.model import (
    CertificateRecord,
    KeyRecord,
    ModuleInfo,
    ModuleOptions,
    PublicKey,
    SignCall,
    SlotInfo,
    TokenInfo,
    User,
)
from ushield_hw.suites import KeyKind

_CONTEXT_SPECIFIC: Final = 2
_USER_TYPES: Final = {User.SO: 0, User.USER: 1}
# A module that must be re-initialised to see the world is, unless it was initialised this recently.
_FRESH_S: Final = 0.5


class _Lib(_pkcs11.lib):
    """python-pkcs11's module, without its C_Initialize(NULL): that one forbids the module to use locks."""

    def initialize(self) -> None:
        """Do nothing: the engine has initialised the module with CKF_OS_LOCKING_OK."""


@dataclass(slots=True)
class _SlotState:
    """What the engine holds for one slot."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    login_lock: threading.Lock = field(default_factory=threading.Lock)
    idle: dict[bool, list[Any]] = field(default_factory=lambda: {False: [], True: []})  # by read-write
    anchor: Any = None
    login_id: int | None = None
    era: int = 0  # how often all its sessions were closed at once: a session of an earlier era is dead


class Engine:
    """One PKCS#11 module in this process.

    Raises:
        LoadFailed: the file cannot be loaded, exports no C_GetFunctionList, or C_Initialize failed.
    """

    def __init__(self, path: str, options: ModuleOptions) -> None:
        self._options = options
        try:
            self._functions = abi.Functions(path)
            self._initialize()
            self._lib = self._opened(path)
        except (OSError, AttributeError) as error:
            raise LoadFailed(str(error)) from error
        except CkrError as error:
            # Initialised by one door and not by the other: p11-kit's proxy gives each caller another function list.
            two_lists = error.function == "C_GetInfo" and error.among("CRYPTOKI_NOT_INITIALIZED")
            raise LoadFailed(error.name, "proxy" if two_lists else "refused") from error
        self._path = path
        self._gate = Gate(self._initialize)
        self._signer = abi.Signer(self._functions)
        self._states: dict[int, _SlotState] = {}
        self._states_lock = threading.Lock()
        self._tokens: dict[int, Any] = {}

    # -- the module and its tokens ------------------------------------------------------------------------------

    def info(self) -> ModuleInfo:
        """Return CK_INFO."""
        lib = self._lib
        return ModuleInfo(
            self._path,
            lib.manufacturer_id.strip(),
            lib.library_description.strip(),
            tuple(lib.cryptoki_version),
            tuple(lib.library_version),
        )

    def slots(self) -> tuple[SlotInfo, ...]:
        """Return every slot with its token; a slot that cannot be read keeps the CKR name as its problem."""
        self._relist()
        with self._gate, self._serial:
            found = tuple(slots.slot(self._functions, slot_id) for slot_id in slots.slot_ids(self._functions))
            for slot in found:
                state = self._states.get(slot.slot_id)
                gone = slot.token is None and (slot.problem or "").removeprefix("CKR_") in {"", *GONE}
                if state and state.login_id and (gone or not slots.logged_in(self._functions, state.anchor.handle)):
                    self._forget(slot.slot_id, state)
        return found

    def token(self, slot_id: int) -> TokenInfo:
        """Return CK_TOKEN_INFO as it is now: flags change with every try of a PIN."""
        with self._gate, self._serial, self._noticing(slot_id):
            return slots.token(self._functions, slot_id)

    def mechanisms(self, slot_id: int) -> tuple[str, ...]:
        """Return the names (without CKM_) of the mechanisms the token offers; those unknown here as numbers."""
        with self._gate, self._serial:
            self._pkcs11_token(slot_id)  # NSS lists mechanisms for slots that do not exist, too
            return slots.mechanisms(self._functions, slot_id)

    # -- login --------------------------------------------------------------------------------------------------

    def login(self, slot_id: int, user: User, pin: str | None) -> int:
        """Log in and return the login's id; ``pin`` None uses the token's own PIN entry.

        The session of a login that failed is closed: one that is left open makes every later SO login fail.
        """
        state = self._state(slot_id)
        with state.login_lock:
            if state.login_id is not None:
                with self._gate, self._serial:
                    if slots.logged_in(self._functions, state.anchor.handle):
                        raise CkrError("C_Login", NUMBERS["USER_ALREADY_LOGGED_IN"])
                    self._forget(slot_id, state)
            self._relist()
            try:
                session = self._logged_in_session(slot_id, state, user, pin)
            except CkrError:
                if self._options.renew_when_refused:
                    self._renew()
                raise
            state.anchor, state.login_id = session, secrets.randbits(62)
            return state.login_id

    def _logged_in_session(self, slot_id: int, state: _SlotState, user: User, pin: str | None) -> Any:
        with self._gate, self._serial:
            self._close_idle(state)  # the SO cannot log in beside read-only sessions
            session = self._open(slot_id, rw=user is User.SO)
            try:
                self._c_login(session.handle, _USER_TYPES[user], pin)
            except BaseException:
                self._close_quietly(session)
                raise
            return session

    def logout(self, login_id: int) -> None:
        """End a login: C_Logout, then every session of the slot. The first error is raised after both were done."""
        slot_id, state = self._find_login(login_id)
        with state.login_lock, self._gate, self._serial:
            if state.login_id != login_id:
                return
            try:
                self._functions.call("C_Logout", state.anchor.handle)
            finally:
                self._forget(slot_id, state)

    def logged_in(self, login_id: int) -> bool:
        """Tell whether a login still stands, as far as this side knows."""
        return any(state.login_id == login_id for state in list(self._states.values()))

    # -- objects ------------------------------------------------------------------------------------------------

    def certificates(self, slot_id: int) -> tuple[CertificateRecord, ...]:
        """Return the certificate objects; needs no login."""
        with self._session(slot_id) as session:
            return objects.certificates(self._functions, session.handle)

    def keys(self, slot_id: int) -> tuple[KeyRecord, ...]:
        """Return private and public key objects; private ones show only while logged in."""
        with self._session(slot_id) as session:
            return objects.keys(self._functions, session.handle)

    def generate(
        self, login_id: int, kind: KeyKind, bits: int, key_id: bytes, label: str, always_authenticate: bool
    ) -> PublicKey:
        """Make a key pair on the token that can sign and never leaves it."""
        with self._login_session(login_id, rw=True) as session:
            return objects.generate(session, kind, bits, key_id, label, always_authenticate=always_authenticate)

    def write_certificate(
        self, login_id: int, der: bytes, key_id: bytes, label: str, subject: bytes, issuer: bytes, serial: bytes
    ) -> int:
        """Write a certificate object and return its handle."""
        with self._login_session(login_id, rw=True) as session:
            return objects.write_certificate(session, der, key_id, label, subject, issuer, serial)

    def relabel(self, login_id: int, handle: int, label: str) -> None:
        """Give an object another label."""
        with self._login_session(login_id, rw=True) as session:
            objects.relabel(self._functions, session.handle, handle, label)

    def destroy(self, login_id: int, handle: int) -> None:
        """Remove one object."""
        with self._login_session(login_id, rw=True) as session:
            self._functions.call("C_DestroyObject", session.handle, handle)

    # -- signing ------------------------------------------------------------------------------------------------

    def sign(self, login_id: int, call: SignCall, began: Callable[[], None] = lambda: None) -> bytes:
        """Sign with one C_SignInit, at most one C_Login and one C_Sign.

        ``began`` is called just before C_Sign: from then on the token may have signed.
        """
        slot_id, state = self._find_login(login_id)
        with self._gate, self._serial:  # as _login_session, without the cost of generators
            session, era = self._lease(slot_id, state)
            try:
                if state.login_id != login_id:
                    raise StaleLogin
                self._signer.begin(session.handle, call.handle, objects.mechanism(call.mechanism, call.digest))
                if call.context:
                    self._c_login(session.handle, _CONTEXT_SPECIFIC, call.pin)
                began()
                signature = self._signer.finish(session.handle, call.data)
            except BaseException as error:
                self._failed(slot_id, state, era, error, session)
                raise
            self._give_back(state, era, session)
            return signature

    # -- PINs ---------------------------------------------------------------------------------------------------

    def set_pin(self, slot_id: int, old: str | None, new: str | None) -> None:
        """Change the user PIN, not logged in; both None uses the token's own PIN entry."""
        self._relist()
        with self._session(slot_id, rw=True) as session:
            self._functions.call("C_SetPIN", session.handle, *_pin(old), *_pin(new))

    def init_pin(self, login_id: int, new: str | None) -> None:
        """Set the user PIN as the SO."""
        with self._login_session(login_id, rw=True) as session:
            self._functions.call("C_InitPIN", session.handle, *_pin(new))

    def init_token(self, slot_id: int, so_pin: str, label: str) -> None:
        """Set up a token. Everything on it is lost."""
        state = self._state(slot_id)
        with self._gate, self._serial:
            self._close_idle(state)
            padded = label.encode()[:32].ljust(32)
            self._functions.call("C_InitToken", slot_id, *_pin(so_pin), padded)
            self._tokens.clear()

    def close(self) -> None:
        """End all logins and finalise the module, unless a call is under way or the module is somebody else's too."""
        with self._gate.alone(wait_s=1.0) as nobody, self._serial:
            self._gate.shut()
            for slot_id, state in list(self._states.items()):
                self._forget(slot_id, state)
            if nobody and self._ours:
                self._functions.call("C_Finalize", None)

    # -- inside -------------------------------------------------------------------------------------------------

    def _initialize(self) -> None:
        """C_Initialize with OS locks; ``_serial`` is what every call must hold, a real lock if the module has none."""
        apart = self._options.one_at_a_time
        reserved = self._options.init_reserved or ""
        arguments = abi.InitializeArgs(flags=abi.OS_LOCKING_OK, pReserved=reserved.encode() or None)
        self._ours = True
        try:
            self._functions.call("C_Initialize", None if apart else ctypes.byref(arguments))
            self._serial: AbstractContextManager[object] = threading.RLock() if apart else nullcontext()
        except CkrError as error:
            if error.among("CRYPTOKI_ALREADY_INITIALIZED"):  # by somebody else in this process: its locking is unknown
                self._ours = False
                self._serial = threading.RLock()
            elif error.among("CANT_LOCK", "NEED_TO_CREATE_THREADS"):
                self._functions.call("C_Initialize", None)
                self._serial = threading.RLock()
            else:
                raise
        self._initialized_at = time.monotonic()

    def _opened(self, path: str) -> _Lib:
        try:
            with objects.translated("C_GetInfo"):
                lib = _Lib(path)
                # It would unload the file when it goes, under a call's feet or, at exit, with a message on stderr.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(lib))
                return lib
        except CkrError:
            with suppress(CkrError):
                self._functions.call("C_Finalize", None)
            raise

    def _relist(self) -> None:
        """Make a module see what other processes changed, if it needs that and nobody is logged in."""
        if self._options.relist and time.monotonic() - self._initialized_at >= _FRESH_S:
            self._renew()

    def _renew(self) -> None:
        """C_Finalize and C_Initialize, unless somebody is logged in or the module is in other hands."""
        if not self._ours or not self._gate.open:
            return
        with self._gate.alone() as nobody:
            if nobody and all(state.login_id is None for state in self._states.values()):
                for state in self._states.values():
                    self._close_idle(state)
                self._functions.call("C_Finalize", None)
                self._tokens.clear()
                self._gate.lay()

    def _pkcs11_token(self, slot_id: int) -> Any:
        """Return python-pkcs11's token. After a re-insertion many modules answer only once the slots were listed."""
        token = self._tokens.get(slot_id)
        if token is None:
            with objects.translated("C_GetSlotList"):
                found = {slot.slot_id: slot for slot in self._lib.get_slots()}
            if slot_id not in found:
                raise CkrError("C_GetSlotList", NUMBERS["SLOT_ID_INVALID"])
            with objects.translated("C_GetTokenInfo"):
                token = self._tokens[slot_id] = found[slot_id].get_token()
        return token

    def _open(self, slot_id: int, *, rw: bool) -> Any:
        try:
            with objects.translated("C_OpenSession"):
                return self._pkcs11_token(slot_id).open(rw=rw, attribute_mapper=objects.MAPPER)
        except CkrError as error:
            if not error.among(*GONE, "DEVICE_ERROR"):
                raise
        self._tokens.clear()
        slots.slot_ids(self._functions)
        with objects.translated("C_OpenSession"):
            return self._pkcs11_token(slot_id).open(rw=rw, attribute_mapper=objects.MAPPER)

    def _state(self, slot_id: int) -> _SlotState:
        with self._states_lock:
            return self._states.setdefault(slot_id, _SlotState())

    def _find_login(self, login_id: int) -> tuple[int, _SlotState]:
        for slot_id, state in list(self._states.items()):
            if state.login_id == login_id:
                return slot_id, state
        raise StaleLogin

    @contextmanager
    def _login_session(self, login_id: int, *, rw: bool = False) -> Iterator[Any]:
        slot_id, state = self._find_login(login_id)
        with self._session(slot_id, rw=rw) as session:
            if state.login_id != login_id:
                raise StaleLogin
            yield session

    @contextmanager
    def _session(self, slot_id: int, *, rw: bool = False) -> Iterator[Any]:
        """Lease a session for one operation. One that saw an error is closed, so no half-done operation stays."""
        state = self._state(slot_id)
        with self._gate, self._serial:
            session, era = self._lease(slot_id, state, rw=rw)
            try:
                yield session
            except BaseException as error:
                self._failed(slot_id, state, era, error, session)
                raise
            self._give_back(state, era, session, rw=rw)

    def _lease(self, slot_id: int, state: _SlotState, *, rw: bool = False) -> tuple[Any, int]:
        """Return a session for one operation, and the era it is of."""
        era = state.era
        try:
            with state.lock:
                session = state.idle[rw].pop() if state.idle[rw] else self._open(slot_id, rw=rw)
                return session, state.era
        except CkrError as error:
            self._failed(slot_id, state, era, error)
            raise

    def _give_back(self, state: _SlotState, era: int, session: Any, *, rw: bool = False) -> None:
        with state.lock:
            if era == state.era:
                state.idle[rw].append(session)

    @contextmanager
    def _noticing(self, slot_id: int) -> Iterator[None]:
        """End the login if a call that needs no session says that the token is gone."""
        state = self._state(slot_id)
        era = state.era
        try:
            yield
        except CkrError as error:
            self._failed(slot_id, state, era, error)
            raise

    def _failed(
        self, slot_id: int, state: _SlotState, era: int, error: BaseException, session: Any | None = None
    ) -> None:
        """Drop what an error has spoilt: the session, or the login too. What is of a later era is left alone."""
        with state.lock:
            if session is not None and era == state.era:
                self._close_quietly(session)
        if era == state.era and isinstance(error, CkrError) and _ends_login(error):
            self._forget(slot_id, state)

    def _close_idle(self, state: _SlotState) -> None:
        with state.lock:
            sessions = state.idle[False] + state.idle[True]
            state.idle[False].clear()
            state.idle[True].clear()
        for session in sessions:
            self._close_quietly(session)

    def _forget(self, slot_id: int, state: _SlotState) -> None:
        """Drop the login and every session of a slot; the token may be gone, so errors say nothing new."""
        with state.lock:
            state.login_id, state.anchor, state.era = None, None, state.era + 1
            state.idle[False].clear()
            state.idle[True].clear()
            with suppress(CkrError):
                self._functions.call("C_CloseAllSessions", slot_id)
        self._tokens.pop(slot_id, None)

    def _close_quietly(self, session: Any) -> None:
        with suppress(CkrError):
            self._functions.call("C_CloseSession", session.handle)

    def _c_login(self, session: int, user_type: int, pin: str | None) -> None:
        self._functions.call("C_Login", session, user_type, *_pin(pin))


def _ends_login(error: CkrError) -> bool:
    """A token that is gone, and any sign that the token no longer holds us logged in, end the login here too."""
    # Of logins only those for one signature pass here: a wrong PIN there ends the login.
    return error.function == "C_Login" or error.among(*GONE, "USER_NOT_LOGGED_IN")


def _pin(pin: str | None) -> tuple[bytes | None, int]:
    data = None if pin is None else pin.encode()
    return data, len(data or b"")
