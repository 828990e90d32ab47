"""The journal's rules: when an order may be signed, when the stored signed order is returned, when both are refused."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from ushield_hw.config import Settings
from ushield_hw.errors import AlreadySigned, InputError, OutcomeUnknown, UShieldError
from ushield_hw.order import Order, Rules, decode
from ushield_hw.signing.journal.entry import (
    JournalEntry,
    Signatory,
    State,
    entries,
    first_record,
    next_record,
    signed_record,
)
from ushield_hw.signing.journal.lines import unusable
from ushield_hw.signing.journal.log import Log
from ushield_hw.system import storage
from ushield_hw.system.log import LOG

_SAFE_FOR_S: Final = 5.0
_A_DAY_S: Final = 86400.0
_ANY_ORIGIN: Final = Rules(demo=True)  # the order it is compared with was checked with the rules in force


class Journal:
    """The journal of one user on this host, in one folder.

    Every method raises ``StorageError`` (``JOURNAL_UNUSABLE``) if the journal cannot be read, verified or written, and
    ``TokenBusy`` if another process holds a lock beyond the timeout.

    Args:
        folder: Returns the folder, created on first use, and its stat result.
        masked: Whether payee and amount are left out of the records and of the entries returned. The stored signed
            order still contains them.
        keep_days: How many days to keep an order after its last record; None: for ever. Orders with an unknown outcome
            are always kept.
        is_new: Tells whether the folder does not exist yet: then there are no records, and reading creates no folder.
    """

    def __init__(
        self,
        folder: Callable[[], tuple[Path, os.stat_result]],
        *,
        masked: bool = False,
        keep_days: int | None = None,
        is_new: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder = folder
        self._is_new = is_new
        self._masked = masked
        self._keep_days = keep_days

    @classmethod
    def of(cls, settings: Settings) -> Journal:
        """Return the journal in the state folder.

        Args:
            settings: The settings in force.
        """
        folder = partial(_state_folder, settings)
        is_new = partial(_is_new, settings)
        return cls(folder, masked=settings.journal_masked, keep_days=settings.journal_keep_days, is_new=is_new)

    # --- signing ------------------------------------------------------------------------------------------------------

    def signed(self, order: Order, signatory: Signatory) -> bytes | None:
        """Return the stored signed order of this order and signer, DER, verified; None if there is none.

        Waits while another process is signing the order.

        Args:
            order: The order.
            signatory: The signer.

        Raises:
            InputError: ``TX_ID_REUSED``: the journal has this transaction id with another order.
            AlreadySigned: The signer has signed it with another token, or the bank has booked it.
            OutcomeUnknown: It may have been signed.
            StorageError, TokenBusy: As for the class.
        """
        if self._is_new():
            return None
        log, key = self._log(), _key(order.bank_id, order.tx_id)
        if not log.lines(key):
            return None
        with log.holding(key):
            return _judged(log, _entries(log, key), order, signatory)

    @contextmanager
    def signing(self, order: Order, signatory: Signatory) -> Iterator[Attempt]:
        """Lock an order while it is signed, against all other threads and processes.

        Args:
            order: The order.
            signatory: The signer.

        Yields:
            The attempt, which records the states.

        Raises:
            InputError, AlreadySigned, OutcomeUnknown: As for :meth:`signed`.
            StorageError, TokenBusy: As for the class.
        """
        log, key = self._log(), _key(order.bank_id, order.tx_id)
        with log.holding(key):
            known = _entries(log, key)
            signed = _judged(log, known, order, signatory)
            yield Attempt(log, key, first_record(order, signatory, len(known), masked=self._masked), signed)

    # --- listing and resolving ----------------------------------------------------------------------------------------

    def entries(self) -> list[JournalEntry]:
        """Return all entries, oldest first. An entry left at ``sign-called`` by a process that ended is ``unknown``.

        Raises:
            StorageError, TokenBusy: As for the class.
        """
        if self._is_new():
            return []
        log = self._log()
        return [entry for key in log.keys() for entry in self._shown(log, key)]

    def find(self, tx_id: str, bank_id: str | None = None) -> list[JournalEntry]:
        """Return the entries of one order.

        Args:
            tx_id: The transaction id.
            bank_id: The bank; required if several banks have used the transaction id.

        Raises:
            InputError: ``JOURNAL_TX_ID_UNKNOWN``, ``JOURNAL_TX_ID_MULTIPLE``.
            StorageError, TokenBusy: As for the class.
        """
        found = [one for one in self.entries() if one.tx_id == tx_id and bank_id in {None, one.bank_id}]
        banks = sorted({entry.bank_id for entry in found})
        if not found:
            raise InputError("JOURNAL_TX_ID_UNKNOWN", tx_id=tx_id, bank_id=bank_id)
        if len(banks) > 1:
            raise InputError("JOURNAL_TX_ID_MULTIPLE", tx_id=tx_id, banks=banks)
        return found

    def resolve(self, tx_id: str, *, booked: bool, by: str, bank_id: str | None = None) -> list[JournalEntry]:
        """Record the bank's answer about an order that may have been signed.

        Args:
            tx_id: The transaction id.
            booked: True: the bank has booked the order; it is never signed again. False: the bank has not booked it and
                will not; it may be signed again while it is valid.
            by: The operating system user who records the answer.
            bank_id: The bank; required if several banks have used the transaction id.

        Returns:
            The order's entries after the change.

        Raises:
            InputError: ``JOURNAL_TX_ID_UNKNOWN``, ``JOURNAL_TX_ID_MULTIPLE``; ``JOURNAL_NOT_OPEN``: no entry has an
                unknown outcome.
            StorageError, TokenBusy: As for the class.
        """
        bank_id = self.find(tx_id, bank_id)[0].bank_id
        log, key = self._log(), _key(bank_id, tx_id)
        with log.holding(key):
            known = _entries(log, key)
            unknown = [number for number, entry in enumerate(known) if entry.is_open]
            if not unknown:
                raise InputError("JOURNAL_NOT_OPEN", tx_id=tx_id, state=known[-1].state.value)
            for number in unknown:
                log.append(key, {"n": number, **next_record(State.RESOLVED, booked=booked, by=by)})
            log.sync()
            LOG.info("%s: resolved by %s, %s", tx_id, by, "booked" if booked else "not booked")
        return self._shown(log, key)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _log(self) -> Log:
        log = Log.of(*self._folder())
        if self._keep_days is not None and (log.pruned_at is None or time.monotonic() - log.pruned_at > _A_DAY_S):
            log.pruned_at = time.monotonic()
            if gone := log.prune(partial(_expendable, datetime.now(UTC) - timedelta(days=self._keep_days))):
                LOG.info("%d orders have left the signing journal", gone)
        return log

    def _shown(self, log: Log, key: str) -> list[JournalEntry]:
        return [_as_seen(log, key, entry, masked=self._masked) for entry in _entries(log, key)]

    def __repr__(self) -> str:
        return "<Journal>"


class Attempt:
    """One attempt to sign an order, while the order is locked.

    Attributes:
        signed: The stored signed order, DER, verified; None if there is none.
    """

    def __init__(self, log: Log, key: str, first: dict[str, object], signed: bytes | None) -> None:
        self._log = log
        self._key = key
        self._first = first
        self._begun = False
        self.signed = signed

    @property
    def path(self) -> str:
        """The path of the journal file."""
        return str(self._log.path)

    def move(self, to: State, signed: bytes | None = None) -> None:
        """Record a new state. It is on disk when this returns, except ``PREPARED``, which need not survive a crash.

        Args:
            to: The new state.
            signed: The signed order, DER, for ``SIGNED``.

        Raises:
            StorageError: ``JOURNAL_UNUSABLE``.
        """
        first = () if self._begun else (self._first,)
        if to is State.PREPARED:
            self._log.append(self._key, *first)
        else:
            record = next_record(to) if signed is None else signed_record(signed)
            self._log.append(self._key, *first, {"n": self._first["n"], **record})
            self._log.sync()
        self._begun = True


@dataclass(frozen=True, slots=True)
class _Checked:
    """A folder that was checked recently: no other user can change it or its path."""

    folder: Path
    name: str
    at: float
    owner_and_mode: tuple[int, int]

    def holds(self, about: os.stat_result) -> bool:
        return self.owner_and_mode == (about.st_uid, about.st_mode) and time.monotonic() - self.at < _SAFE_FOR_S


_checked: Final[dict[Path | None, _Checked]] = {}  # by state folder: checking the path for each order is slow


def _is_new(settings: Settings) -> bool:
    return storage.existing_folder(settings.state_dir, "journal") is None


def _state_folder(settings: Settings) -> tuple[Path, os.stat_result]:
    known = _checked.get(settings.state_dir)
    if known is not None:
        with suppress(OSError):
            about = os.stat(known.name)
            if known.holds(about):
                return known.folder, about
    folder = storage.state_folder(settings.state_dir, "journal")
    about = os.stat(folder)
    checked = _Checked(folder, str(folder), time.monotonic(), (about.st_uid, about.st_mode))
    _checked[settings.state_dir] = checked
    return folder, about


def _expendable(before: datetime, records: list[dict[str, Any]]) -> bool:
    """Tell whether an order may be pruned: its outcome is known, and it expired and last changed before a time."""
    try:
        known = entries(records)
        times = [datetime.fromisoformat(moment) for entry in known for moment in (entry.at, entry.expires)]
        return not any(entry.is_open for entry in known) and max(times) < before
    except (ValueError, LookupError, TypeError, AttributeError):
        return False  # kept: an error is raised when the entry is read


def _key(bank_id: str, tx_id: str) -> str:
    return hashlib.sha256(f"{bank_id}\0{tx_id}".encode()).hexdigest()[:32]


def _entries(log: Log, key: str) -> list[JournalEntry]:
    try:
        return entries(log.lines(key))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise unusable(log.path, "entry", tx_id=None) from error


def _as_seen(log: Log, key: str, entry: JournalEntry, *, masked: bool) -> JournalEntry:
    if masked:
        entry = replace(entry, payee=None, amount=None)
    if entry.state is State.SIGN_CALLED and not log.is_held(key):
        last = replace(entry.steps[-1], state=State.UNKNOWN)
        entry = replace(entry, steps=(*entry.steps[:-1], last))
    return entry


def _judged(log: Log, known: Sequence[JournalEntry], order: Order, signatory: Signatory) -> bytes | None:
    """Return the stored signed order; None if the order may be signed. The order must be locked."""
    if any(entry.order_sha256 != order.canonical_sha256 for entry in known):
        raise InputError("TX_ID_REUSED", tx_id=order.tx_id, place="tx_id")
    mine = [entry for entry in known if entry.is_of(signatory.certificate.subject)]
    for entry in mine:
        if entry.signed is not None:
            if not _on_same_token(entry, signatory):
                raise _already(None, entry)
            return _verified(log, entry, order)
    for entry in mine:
        if entry.booked:
            raise _already("ALREADY_BOOKED", entry)
        if entry.is_open:
            raise OutcomeUnknown("OUTCOME_STILL_UNKNOWN", tx_id=order.tx_id, since=entry.at)
    return None


def _on_same_token(entry: JournalEntry, signatory: Signatory) -> bool:
    """Tell whether a signature was made by this token; the label may have changed with the certificate."""
    if not entry.token.same_device(signatory.token):
        return False
    if entry.token.label == signatory.token.label:
        return True
    return entry.certificate_sha256 in {hashlib.sha256(der).hexdigest() for der in signatory.certificates()}


def _already(code: str | None, entry: JournalEntry) -> AlreadySigned:
    return AlreadySigned(
        code,
        tx_id=entry.tx_id,
        subject=entry.subject_text,
        certificate=entry.certificate_serial,
        token=entry.token.label,
        serial=entry.token.serial,
        at=entry.at,
    )


def _verified(log: Log, entry: JournalEntry, order: Order) -> bytes:
    """Return an entry's signed order after verifying it: the journal file could have been changed."""
    from ushield_hw.verifier import check_signature

    assert entry.signed is not None  # noqa: S101 - as the caller has seen
    try:
        parts = check_signature(entry.signed)
        same = parts.signer.sha256.hex() == entry.certificate_sha256 and entry.is_of(parts.signer.subject)
        genuine = same and (parts.content == order.canonical or decode(parts.content, rules=_ANY_ORIGIN)[1] == order)
    except (UShieldError, ValueError, RecursionError) as error:
        raise unusable(log.path, "not_genuine", tx_id=order.tx_id) from error
    if not genuine:
        raise unusable(log.path, "not_genuine", tx_id=order.tx_id)
    return entry.signed
