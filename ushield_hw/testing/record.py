"""The record of the faulty module: the calls to a PKCS#11 module in the order in which they were entered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ushield_hw.backend.pkcs11.ckr import name_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A recorded call. Attributes that do not apply to the function, or were not passed, are None.

    Attributes:
        function: its name, for example ``C_Login``.
        call: its number among the calls of this function, from 1, across all processes.
        rv: the value returned to the caller; None while the call has not returned, and if it hung or crashed.
        target_rv: the value returned by the wrapped module; None if it was not called or has not returned.
        pid: process id.
        thread: thread id, as ``threading.get_ident()``.
        t_ms: when it was entered, in milliseconds of ``time.monotonic()``.
        took_ms: its duration in milliseconds.
        slot: slot id.
        session: session handle; for C_OpenSession the new one.
        user_type: 0 SO, 1 user, 2 context specific.
        pin_null: whether the PIN was NULL (for C_SetPIN the old PIN).
        pin_length: its length in bytes. The PIN itself is never recorded.
        new_pin_null: whether C_SetPIN's new PIN was NULL.
        new_pin_length: its length in bytes.
        mechanism: CKM_* number.
        key: key handle; for functions that create a key, the new (private) key's.
        object: object handle.
        data: the input of C_Sign, C_Digest, C_Verify and similar functions, truncated to 64 KiB.
        data_length: its length in bytes.
        out_null: whether the output buffer was NULL.
        length: the output length when the call returned.
        flags: of C_Initialize (None: no arguments), C_OpenSession, C_WaitForSlotEvent.
        attributes: CKA_* numbers of the template, at most 64.
        public_attributes: those of C_GenerateKeyPair's public key template.
        private_attributes: those of its private key template.
        error: why the module could not load its target or parse its plan.
    """

    function: str
    call: int
    rv: int | None = None
    target_rv: int | None = None
    pid: int = 0
    thread: int = 0
    t_ms: float = 0.0
    took_ms: float | None = None
    slot: int | None = None
    session: int | None = None
    user_type: int | None = None
    pin_null: bool | None = None
    pin_length: int | None = None
    new_pin_null: bool | None = None
    new_pin_length: int | None = None
    mechanism: int | None = None
    key: int | None = None
    object: int | None = None
    data: bytes | None = None
    data_length: int | None = None
    out_null: bool | None = None
    length: int | None = None
    flags: int | None = None
    attributes: tuple[int, ...] | None = None
    public_attributes: tuple[int, ...] | None = None
    private_attributes: tuple[int, ...] | None = None
    error: str | None = None

    @property
    def rv_name(self) -> str | None:
        """The name of ``rv``, for example ``CKR_PIN_INCORRECT``."""
        if not self.rv:
            return None if self.rv is None else "CKR_OK"
        return name_of(self.rv)


def read_calls(record: Path) -> list[Call]:
    """Return the calls in a record, in the order in which they were entered.

    Each call has a line for its entry and, if the module survived, one for its return. Returns of calls that were
    entered before the record was cleared are ignored.

    Args:
        record: the record file.

    Raises:
        OSError: the record cannot be read.
    """
    written, _, _half_a_line = record.read_text(encoding="ascii").rpartition("\n")
    joined: dict[int, dict[str, Any]] = {}
    for line in map(json.loads, written.splitlines()):
        if line.get("entered"):
            joined[line["id"]] = line
        elif line["id"] in joined:
            _join(joined[line["id"]], line)
    return [_call(values) for values in joined.values()]


def _join(entered: dict[str, Any], line: Mapping[str, Any]) -> None:
    began_ms = entered["t_ms"]
    entered |= {**line, "t_ms": began_ms}
    if "rv" in line:
        entered["took_ms"] = round(line["t_ms"] - began_ms, 3)


def _call(values: Mapping[str, Any]) -> Call:
    known: dict[str, Any] = {field.name: values[field.name] for field in fields(Call) if field.name in values}
    if "data" in known:
        known["data"] = bytes.fromhex(known["data"])
    known |= {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Call(**known)
