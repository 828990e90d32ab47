"""The C interface: structures, and the calls through the module's own CK_FUNCTION_LIST (PKCS#11 v2.40, section 4.6).

The calls of python-pkcs11 0.10, whose names of constants are used here, are not suitable for bank tokens: it
initialises without locking, leaks a session on a wrong PIN, calls C_Sign twice (once for the length, for which some
tokens ask the user to confirm), ends a failed per-signature login by signing the empty message, treats an error while
reading an attribute as a missing attribute, and fails permanently if a list grows between two calls.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from ctypes import byref, c_char_p, c_ubyte, c_ulong, c_void_p
from typing import Any, Final

from ushield_hw.backend.pkcs11.ckr import NUMBERS, CkrError

# The order of CK_FUNCTION_LIST up to C_GenerateKeyPair, the last function that is called.
_ORDER: Final = (
    "C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList "
    "C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession C_CloseAllSessions "
    "C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_Logout C_CreateObject C_CopyObject "
    "C_DestroyObject C_GetObjectSize C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects "
    "C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt "
    "C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign "
    "C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal "
    "C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate "
    "C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair"
).split()

OS_LOCKING_OK: Final = 2
UNAVAILABLE: Final = c_ulong(-1).value
_SIGNATURE_OCTETS: Final = 1024  # length of a signature with RSA-8192
_MOST_SIGNATURE: Final = 1 << 16
_BUFFER_TOO_SMALL: Final = NUMBERS["BUFFER_TOO_SMALL"]
_REPEATS: Final = 8  # retries of a two-call query whose result grows between the calls
_SPARE: Final = 16
_MOST_NUMBERS: Final = 1 << 20  # bounds the memory, whatever count a module returns


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", c_ubyte * 2), ("functions", c_void_p * len(_ORDER)))


class InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_ = (
        ("CreateMutex", c_void_p),
        ("DestroyMutex", c_void_p),
        ("LockMutex", c_void_p),
        ("UnlockMutex", c_void_p),
        ("flags", c_ulong),
        ("pReserved", c_char_p),
    )


class Mechanism(ctypes.Structure):
    """CK_MECHANISM."""

    _fields_ = (("mechanism", c_ulong), ("pParameter", c_void_p), ("ulParameterLen", c_ulong))


class PssParams(ctypes.Structure):
    """CK_RSA_PKCS_PSS_PARAMS."""

    _fields_ = (("hashAlg", c_ulong), ("mgf", c_ulong), ("sLen", c_ulong))


class Attribute(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (("type", c_ulong), ("pValue", c_void_p), ("ulValueLen", c_ulong))


class InfoStruct(ctypes.Structure):
    """CK_INFO."""

    _fields_ = (
        ("cryptokiVersion", c_ubyte * 2),
        ("manufacturerID", c_ubyte * 32),
        ("flags", c_ulong),
        ("libraryDescription", c_ubyte * 32),
        ("libraryVersion", c_ubyte * 2),
    )


class SlotInfoStruct(ctypes.Structure):
    """CK_SLOT_INFO."""

    _fields_ = (
        ("slotDescription", c_ubyte * 64),
        ("manufacturerID", c_ubyte * 32),
        ("flags", c_ulong),
        ("hardwareVersion", c_ubyte * 2),
        ("firmwareVersion", c_ubyte * 2),
    )


class TokenInfoStruct(ctypes.Structure):
    """CK_TOKEN_INFO."""

    _fields_ = (
        ("label", c_ubyte * 32),
        ("manufacturerID", c_ubyte * 32),
        ("model", c_ubyte * 16),
        ("serialNumber", c_ubyte * 16),
        ("flags", c_ulong),
        ("ulMaxSessionCount", c_ulong),
        ("ulSessionCount", c_ulong),
        ("ulMaxRwSessionCount", c_ulong),
        ("ulRwSessionCount", c_ulong),
        ("ulMaxPinLen", c_ulong),
        ("ulMinPinLen", c_ulong),
        ("ulTotalPublicMemory", c_ulong),
        ("ulFreePublicMemory", c_ulong),
        ("ulTotalPrivateMemory", c_ulong),
        ("ulFreePrivateMemory", c_ulong),
        ("hardwareVersion", c_ubyte * 2),
        ("firmwareVersion", c_ubyte * 2),
        ("utcTime", c_ubyte * 16),
    )


class SessionInfoStruct(ctypes.Structure):
    """CK_SESSION_INFO."""

    _fields_ = (("slotID", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("ulDeviceError", c_ulong))


_PROTOTYPES: Final[dict[str, tuple[Any, ...]]] = {
    "C_Initialize": (c_void_p,),
    "C_Finalize": (c_void_p,),
    "C_GetInfo": (c_void_p,),
    "C_GetSlotList": (c_ubyte, c_void_p, c_void_p),
    "C_GetSlotInfo": (c_ulong, c_void_p),
    "C_GetTokenInfo": (c_ulong, c_void_p),
    "C_GetMechanismList": (c_ulong, c_void_p, c_void_p),
    "C_InitToken": (c_ulong, c_char_p, c_ulong, c_char_p),
    "C_InitPIN": (c_ulong, c_char_p, c_ulong),
    "C_SetPIN": (c_ulong, c_char_p, c_ulong, c_char_p, c_ulong),
    "C_OpenSession": (c_ulong, c_ulong, c_void_p, c_void_p, c_void_p),
    "C_CloseSession": (c_ulong,),
    "C_CloseAllSessions": (c_ulong,),
    "C_GetSessionInfo": (c_ulong, c_void_p),
    "C_Login": (c_ulong, c_ulong, c_char_p, c_ulong),
    "C_Logout": (c_ulong,),
    "C_CreateObject": (c_ulong, c_void_p, c_ulong, c_void_p),
    "C_DestroyObject": (c_ulong, c_ulong),
    "C_GetAttributeValue": (c_ulong, c_ulong, c_void_p, c_ulong),
    "C_SetAttributeValue": (c_ulong, c_ulong, c_void_p, c_ulong),
    "C_FindObjectsInit": (c_ulong, c_void_p, c_ulong),
    "C_FindObjects": (c_ulong, c_void_p, c_ulong, c_void_p),
    "C_FindObjectsFinal": (c_ulong,),
    "C_GenerateKeyPair": (c_ulong, c_void_p, c_void_p, c_ulong, c_void_p, c_ulong, c_void_p, c_void_p),
    "C_SignInit": (c_ulong, c_void_p, c_ulong),
    "C_Sign": (c_ulong, c_char_p, c_ulong, c_void_p, c_void_p),
}


class Functions:
    """The functions of one module, each callable as ``functions.call("C_Login", …)``.

    Args:
        path: the module file; if it is already loaded in this process, the dynamic loader returns the same library.

    Raises:
        OSError: the file cannot be loaded.
        AttributeError: it exports no C_GetFunctionList.
        CkrError: from C_GetFunctionList and from every call that does not return CKR_OK.
    """

    def __init__(self, path: str) -> None:
        get_list = ctypes.CDLL(path).C_GetFunctionList
        get_list.restype = c_ulong
        found = c_void_p()
        rv = get_list(byref(found))
        if rv or not found.value:
            raise CkrError("C_GetFunctionList", rv)
        addresses = _FunctionList.from_address(found.value).functions
        # CFUNCTYPE releases the GIL during the call.
        self._functions = {
            name: ctypes.CFUNCTYPE(c_ulong, *types)(addresses[_ORDER.index(name)])
            for name, types in _PROTOTYPES.items()
            if addresses[_ORDER.index(name)]
        }

    def raw(self, name: str) -> Any:
        """Return the function itself, which returns the CK_RV; for the signing path, where call overhead matters."""
        try:
            return self._functions[name]
        except KeyError:
            raise CkrError(name, 0x54) from None  # CKR_FUNCTION_NOT_SUPPORTED

    def call(self, name: str, *arguments: object) -> None:
        """Call a function.

        Args:
            name: its name.
            *arguments: its arguments.

        Raises:
            CkrError: it did not return CKR_OK.
        """
        rv = self.raw(name)(*arguments)
        if rv:
            raise CkrError(name, rv)


def template(values: Mapping[int, bytes]) -> ctypes.Array[Attribute]:
    """Return an array of CK_ATTRIBUTE that keeps the buffers of its values alive."""
    buffers = [ctypes.create_string_buffer(value, len(value)) for value in values.values()]
    made = (Attribute * len(buffers))(
        *(Attribute(name, ctypes.addressof(buffer), len(buffer)) for name, buffer in zip(values, buffers, strict=True))
    )
    made.buffers = buffers  # type: ignore[attr-defined]  # the structures hold only the addresses
    return made


def values(answered: ctypes.Array[Attribute]) -> dict[int, bytes] | None:
    """Return the values that a module has written to a :func:`template`; None if a length exceeds its buffer."""
    found = {}
    for one, buffer in zip(answered, answered.buffers, strict=True):  # type: ignore[attr-defined]
        if one.ulValueLen == UNAVAILABLE:
            continue
        if one.ulValueLen > len(buffer):
            return None
        found[int(one.type)] = buffer.raw[: one.ulValueLen]
    return found


def numbers(name: str, call: Callable[[Any, Any], None]) -> list[int]:
    """Return a list of CK_ULONGs from a two-call query: first the count, then the values.

    The list may grow between the calls, or the module may return a wrong count: the buffer is larger than the count,
    and the query is retried with a larger buffer if that is not enough.

    Args:
        name: the function, for the error.
        call: calls it with a buffer (None: only count) and a pointer to the count.

    Raises:
        CkrError: from ``call``; CKR_BUFFER_TOO_SMALL if the buffer was too small in every attempt.
    """
    count, size = c_ulong(0), 0
    for _ in range(_REPEATS):
        call(None, byref(count))
        size = min(max(count.value + _SPARE, 2 * size), _MOST_NUMBERS)
        found, count.value = (c_ulong * size)(), size
        try:
            call(found, byref(count))
        except CkrError as error:
            if error.rv != _BUFFER_TOO_SMALL:
                raise
        else:
            return list(found[: min(count.value, size)])
    raise CkrError(name, _BUFFER_TOO_SMALL)


class Signer:
    """C_SignInit and C_Sign of one module, with as little overhead as possible.

    Args:
        functions: the module's functions.
    """

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._buffers = _Buffers()

    def begin(self, session: int, handle: int, mechanism: Mechanism) -> None:
        """Call C_SignInit."""
        self._functions.call("C_SignInit", session, byref(mechanism), handle)

    def finish(self, session: int, data: bytes) -> bytes:
        """Call C_Sign once; again only after CKR_BUFFER_TOO_SMALL, when nothing was signed, with a larger buffer."""
        out, length, sign = self._buffers.out, self._buffers.length, self._functions.raw("C_Sign")
        length.value = _SIGNATURE_OCTETS
        rv = sign(session, data, len(data), out, byref(length))
        size = _SIGNATURE_OCTETS
        while rv == _BUFFER_TOO_SMALL and size < _MOST_SIGNATURE:  # the operation is still active, nothing was signed
            size = min(max(2 * size, length.value), _MOST_SIGNATURE)
            out, length.value = ctypes.create_string_buffer(size), size
            rv = sign(session, data, len(data), out, byref(length))
        if rv:
            raise CkrError("C_Sign", rv)
        return out.raw[: length.value]


class _Buffers(threading.local):
    """The output buffer of C_Sign, one for each thread."""

    def __init__(self) -> None:
        self.out = ctypes.create_string_buffer(_SIGNATURE_OCTETS)
        self.length = c_ulong(_SIGNATURE_OCTETS)
