"""Slots and tokens as a module describes them. Its data is bounded and not trusted."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from ushield_hw.backend.model import BUSY, LEFT_OUT, ModuleInfo, SlotInfo, TokenInfo
from ushield_hw.backend.pkcs11 import function_list, text
from ushield_hw.backend.pkcs11.ckr import GONE, CkrError
from ushield_hw.backend.pkcs11.numbers import mechanism_names

_MOST_SLOTS: Final = 1 << 14
_READS: Final = 3
_BETWEEN_READS_S: Final = 0.025
_ALL_PAUSES: Final = 40  # retries in one enumeration of all slots, so that many broken slots do not take minutes
_TOKEN_PRESENT: Final = 1
_REMOVABLE_DEVICE: Final = 2
_LOGGED_IN: Final = (1, 3, 4)  # CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS, CKS_RW_SO_FUNCTIONS


@dataclass
class _Pauses:
    """Remaining number of retries after an unspecific error, in one enumeration."""

    left: int


def module_info(functions: function_list.Functions, path: str) -> ModuleInfo:
    """Return CK_INFO."""
    about = function_list.InfoStruct()
    functions.call("C_GetInfo", ctypes.byref(about))
    return ModuleInfo(
        path,
        text.label(bytes(about.manufacturerID)),
        text.label(bytes(about.libraryDescription)),
        tuple(about.cryptokiVersion),
        tuple(about.libraryVersion),
    )


def slot_ids(functions: function_list.Functions) -> list[int]:
    """Return the ids of all slots; many modules detect inserted and removed tokens only in this call."""

    def listed(buffer: Any, count: Any) -> None:
        functions.call("C_GetSlotList", 0, buffer, count)

    return list(dict.fromkeys(function_list.numbers("C_GetSlotList", listed)))


def every(functions: function_list.Functions, busy: Collection[str] = ()) -> tuple[SlotInfo, ...]:
    """Return all slots. If there are more than the limit, the last entry gives the number of omitted slots.

    Args:
        functions: the module's functions.
        busy: descriptions of slots whose token must not be read, because the module would wait for another program.
    """
    ids, pauses = slot_ids(functions), _Pauses(_ALL_PAUSES)
    found = tuple(slot(functions, slot_id, pauses, busy) for slot_id in ids[:_MOST_SLOTS])
    if len(ids) <= _MOST_SLOTS:
        return found
    return (*found, SlotInfo(function_list.UNAVAILABLE, f"+{len(ids) - _MOST_SLOTS}", False, None, LEFT_OUT))


def slot(
    functions: function_list.Functions, slot_id: int, pauses: _Pauses | None = None, busy: Collection[str] = ()
) -> SlotInfo:
    """Return a slot with its token; if it cannot be read, its problem is the CKR name or ``TOKEN_BUSY``."""
    about = function_list.SlotInfoStruct()
    present, problem, absent = None, None, False
    try:
        functions.call("C_GetSlotInfo", slot_id, ctypes.byref(about))
        if text.label(bytes(about.slotDescription)) in busy:
            problem = BUSY
        elif about.flags & _TOKEN_PRESENT:
            present = token(functions, slot_id, pauses)
    except CkrError as error:
        problem, absent = error.name, error.among(*GONE, "TOKEN_NOT_RECOGNIZED")
    return SlotInfo(
        slot_id,
        text.label(bytes(about.slotDescription)),
        bool(about.flags & _REMOVABLE_DEVICE),
        present,
        problem,
        text.label(bytes(about.manufacturerID)),
        absent,
    )


def token(functions: function_list.Functions, slot_id: int, pauses: _Pauses | None = None) -> TokenInfo:
    """Return CK_TOKEN_INFO.

    The call is retried after CKR_GENERAL_ERROR, which SoftHSM2 returns while another process rewrites the token's file,
    and OpenSC immediately after a card was removed, before it reports the removal.
    """
    about, pauses = function_list.TokenInfoStruct(), pauses or _Pauses(_READS)
    for left in reversed(range(_READS)):
        try:
            functions.call("C_GetTokenInfo", slot_id, ctypes.byref(about))
            break
        except CkrError as error:
            if not left or not pauses.left or not error.among("GENERAL_ERROR"):
                raise
        pauses.left -= 1
        time.sleep(_BETWEEN_READS_S)
    return TokenInfo(
        slot_id,
        text.label(bytes(about.label)),
        text.label(bytes(about.manufacturerID)),
        text.label(bytes(about.model)),
        text.serial(bytes(about.serialNumber)),
        about.flags,
        _length(about.ulMinPinLen),
        _length(about.ulMaxPinLen),
        tuple(about.firmwareVersion),
    )


def mechanisms(functions: function_list.Functions, slot_id: int) -> tuple[str, ...]:
    """Return the names (without CKM_) of a token's mechanisms; unknown ones as numbers.

    A module may return fewer than it announced (p11-kit's client does).
    """

    def listed(buffer: Any, count: Any) -> None:
        functions.call("C_GetMechanismList", slot_id, buffer, count)

    return mechanism_names(function_list.numbers("C_GetMechanismList", listed))


def logged_in(functions: function_list.Functions, session: int) -> bool:
    """Return whether a session's login still exists: a module may drop it after another program resets the card."""
    about = function_list.SessionInfoStruct()
    try:
        functions.call("C_GetSessionInfo", session, ctypes.byref(about))
    except CkrError as error:
        return not error.among(*GONE)
    return about.state in _LOGGED_IN


def _length(value: int) -> int:
    return 0 if value == function_list.UNAVAILABLE else min(value, 1 << 16)
