"""Slots and tokens as a module describes them. What it says is bounded and never trusted."""

from __future__ import annotations

import ctypes
import time
from typing import Any, Final

import pkcs11

from ushield_hw.cryptoki import abi
from ushield_hw.cryptoki.ckr import GONE, CkrError
from ushield_hw.cryptoki.model import SlotInfo, TokenInfo

_MOST_SLOTS: Final = 256
_MOST_MECHANISMS: Final = 1024
_READS: Final = 3
_BETWEEN_READS_S: Final = 0.025
_TOKEN_PRESENT: Final = 1
_REMOVABLE_DEVICE: Final = 2
_LOGGED_IN: Final = (1, 3, 4)  # CKS_RO_USER_FUNCTIONS, CKS_RW_USER_FUNCTIONS, CKS_RW_SO_FUNCTIONS


def slot_ids(functions: abi.Functions) -> list[int]:
    """Return the ids of all slots; listing them makes many modules see what was plugged in or pulled out."""
    count = ctypes.c_ulong(0)
    functions.call("C_GetSlotList", 0, None, ctypes.byref(count))
    found = (ctypes.c_ulong * min(count.value, _MOST_SLOTS))()
    count.value = len(found)
    if found:
        functions.call("C_GetSlotList", 0, found, ctypes.byref(count))
    return list(found[: count.value])


def slot(functions: abi.Functions, slot_id: int) -> SlotInfo:
    """Return a slot with its token; one that cannot be read keeps the CKR name as its problem."""
    about = abi.SlotInfoStruct()
    present, problem = None, None
    try:
        functions.call("C_GetSlotInfo", slot_id, ctypes.byref(about))
        if about.flags & _TOKEN_PRESENT:
            present = token(functions, slot_id)
    except CkrError as error:
        problem = error.name
    return SlotInfo(slot_id, _text(about.slotDescription), bool(about.flags & _REMOVABLE_DEVICE), present, problem)


def token(functions: abi.Functions, slot_id: int) -> TokenInfo:
    """Return CK_TOKEN_INFO.

    A module that only says CKR_GENERAL_ERROR is asked again: SoftHSM2 does while another process rewrites the token's
    file, and OpenSC just after a card was pulled out, before it says so.
    """
    about = abi.TokenInfoStruct()
    for left in reversed(range(_READS)):
        try:
            functions.call("C_GetTokenInfo", slot_id, ctypes.byref(about))
            break
        except CkrError as error:
            if not left or not error.among("GENERAL_ERROR"):
                raise
        time.sleep(_BETWEEN_READS_S)
    return TokenInfo(
        slot_id,
        _text(about.label),
        _text(about.manufacturerID),
        _text(about.model),
        _text(about.serialNumber),
        about.flags,
        _length(about.ulMinPinLen),
        _length(about.ulMaxPinLen),
        tuple(about.firmwareVersion),
    )


def mechanisms(functions: abi.Functions, slot_id: int) -> tuple[str, ...]:
    """Return the names (without CKM_) of a token's mechanisms; those unknown here as numbers.

    A module may fill in fewer than it announced (p11-kit's client does); python-pkcs11 then lists what was in memory.
    """
    count = ctypes.c_ulong(0)
    functions.call("C_GetMechanismList", slot_id, None, ctypes.byref(count))
    found = (ctypes.c_ulong * min(count.value, _MOST_MECHANISMS))()
    count.value = len(found)
    if found:
        functions.call("C_GetMechanismList", slot_id, found, ctypes.byref(count))
    names = {int(known): known.name for known in pkcs11.Mechanism}
    return tuple(sorted({names.get(number, hex(number)) for number in found[: count.value]}))


def logged_in(functions: abi.Functions, session: int) -> bool:
    """Tell whether a module still holds a session's login: it may have dropped it when others reset the card."""
    about = abi.SessionInfoStruct()
    try:
        functions.call("C_GetSessionInfo", session, ctypes.byref(about))
    except CkrError as error:
        return not error.among(*GONE)
    return about.state in _LOGGED_IN


def _text(padded: Any) -> str:
    return bytes(padded).decode("utf-8", "replace").rstrip(" \0")


def _length(value: int) -> int:
    return 0 if value == abi.UNAVAILABLE else min(value, 1 << 16)
