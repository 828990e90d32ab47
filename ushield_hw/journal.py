"""What was about to be signed: survives a crash, so that nothing is signed twice and nothing signed is lost.

One file a transaction, named by the bank and tx_id. It goes prepared -> sign-called (on the disk before C_Sign) ->
signed | rejected | unknown. A record that says sign-called while nobody holds its lock is of a process that died while
the token may have been signing: unknown. Only the bank can say what became of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

from ushield_hw import state
from ushield_hw.config import Settings
from ushield_hw.errors import InputError, OutcomeUnknown, StorageError
from ushield_hw.order import Order

_VERSION: Final = 1
_UNUSABLE: Final = "JOURNAL_UNUSABLE"


class State(Enum):
    """How far one signature has come."""

    PREPARED = "prepared"
    SIGN_CALLED = "sign-called"
    SIGNED = "signed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


class Journal:
    """The journal of one user on this host.

    Args:
        folder: gives the folder, made when first needed.

    Raises:
        StorageError: from every method: ``JOURNAL_UNUSABLE`` when a record cannot be read or written.
    """

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder

    @classmethod
    def of(cls, settings: Settings) -> Journal:
        """Return the journal in the state folder."""
        return cls(lambda: state.state_folder(settings, "journal"))

    def signed(self, order: Order, certificate_sha256: str) -> bytes | None:
        """Return the signed order that exists for this order and certificate, DER, or None.

        Raises:
            InputError: ``TX_ID_REUSED``: the journal knows this tx_id with another order.
        """
        record = self._read(self._file(order), order)
        entry = record["entries"].get(certificate_sha256)
        return b64decode(entry["signed"]) if entry and entry["state"] == State.SIGNED.value else None

    @contextlib.contextmanager
    def signing(self, order: Order, certificate_sha256: str, subject: str) -> Iterator[Entry]:
        """Hold the order's record while it is signed; nobody else signs it meanwhile.

        Args:
            order: what is signed.
            certificate_sha256: the signer's certificate.
            subject: its subject: an unknown outcome blocks every certificate of the same subject.

        Raises:
            TokenBusy: another process is signing this order and did not finish in time.
            OutcomeUnknown: an earlier attempt may have signed.
            InputError: ``TX_ID_REUSED``.
        """
        file = self._file(order)
        with state.exclusive(file, _UNUSABLE, "another process that signs this order"):
            record = self._read(file, order)
            _refuse_unknown(record, order, subject)
            yield Entry(file, record, certificate_sha256, subject)

    def close_unknown(self, order: Order) -> None:
        """Record the bank's word that this order was not booked, so that it may be signed again."""
        file = self._file(order)
        with state.exclusive(file, _UNUSABLE, "another process that signs this order"):
            record = self._read(file, order)
            for entry in record["entries"].values():
                if entry["state"] in {State.UNKNOWN.value, State.SIGN_CALLED.value}:
                    entry["state"] = State.REJECTED.value
            _write(file, record)

    def _file(self, order: Order) -> Path:
        name = hashlib.sha256(f"{order.bank_id}\0{order.tx_id}".encode()).hexdigest()[:40]
        return self._folder() / f"{name}.json"

    def _read(self, file: Path, order: Order) -> dict[str, Any]:
        fresh = {"version": _VERSION, "tx_id": order.tx_id, "order_sha256": order.canonical_sha256, "entries": {}}
        try:
            record = json.loads(file.read_bytes())
            known = record["version"] == _VERSION
            for entry in record["entries"].values() if known else ():
                _check_entry(entry)
            same = record["order_sha256"] == order.canonical_sha256
        except FileNotFoundError:
            return fresh
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(_UNUSABLE, path=str(file), reason=str(error)) from error
        if not known:
            raise StorageError(_UNUSABLE, path=str(file), reason="version")
        if not same:
            raise InputError("TX_ID_REUSED", tx_id=order.tx_id, place="tx_id")
        return record  # type: ignore[no-any-return]


class Entry:
    """The record of one order and certificate, held while it is signed."""

    def __init__(self, file: Path, record: dict[str, Any], certificate_sha256: str, subject: str) -> None:
        self._file = file
        self._record = record
        self._entry: dict[str, Any] = record["entries"].setdefault(certificate_sha256, {"subject": subject})

    @property
    def signed(self) -> bytes | None:
        """The signed order that exists already, DER."""
        return b64decode(self._entry["signed"]) if self._entry.get("state") == State.SIGNED.value else None

    def move(self, to: State, signed: bytes | None = None) -> None:
        """Write a new state, on the disk when this returns.

        Raises:
            StorageError: ``JOURNAL_UNUSABLE``; the record on the disk is the one before.
        """
        self._entry["state"] = to.value
        self._entry["at"] = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        if signed is not None:
            self._entry["signed"] = b64encode(signed).decode()
        _write(self._file, self._record)


def _check_entry(entry: Any) -> None:
    """Raise what looking at a damaged entry raises, before anything is concluded from it."""
    state_of = State(entry["state"])
    if not isinstance(entry["subject"], str) or not isinstance(entry["at"], str):
        raise TypeError("entry")
    if state_of is State.SIGNED:
        b64decode(entry["signed"], validate=True)


def _refuse_unknown(record: dict[str, Any], order: Order, subject: str) -> None:
    for entry in record["entries"].values():
        unknown = entry.get("state") in {State.UNKNOWN.value, State.SIGN_CALLED.value}
        if unknown and entry["subject"] == subject:
            raise OutcomeUnknown("OUTCOME_STILL_UNKNOWN", tx_id=order.tx_id, since=entry["at"])


def _write(file: Path, record: dict[str, Any]) -> None:
    try:
        state.write_atomically(file, json.dumps(record, separators=(",", ":")).encode())
    except OSError as error:
        raise StorageError(_UNUSABLE, path=str(file), reason=error.strerror) from error
