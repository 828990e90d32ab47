"""The journal: nothing is signed twice, and what may have been signed is not signed again (design 3.7)."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.unit.order.samples import payment
from ushield_hw import state
from ushield_hw.config import Settings
from ushield_hw.errors import InputError, OutcomeUnknown, StorageError, TokenBusy
from ushield_hw.journal import Journal, State
from ushield_hw.order import Order

pytestmark = pytest.mark.unit

ORDER = payment()
OTHER_BYTES = payment(purpose="学费")
OTHER_BANK = payment(bank__id="other-bank")
MINE, RENEWED, CHECKERS = "aa" * 32, "bb" * 32, "cc" * 32
ME, CHECKER = "30aa", "30bb"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.of(Settings(state_dir=tmp_path))


def move(journal: Journal, *states: State, certificate: str = MINE, subject: str = ME, order: Order = ORDER) -> None:
    with journal.signing(order, certificate, subject) as entry:
        for to in states:
            entry.move(to, b"signed" if to is State.SIGNED else None)


def record(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "journal").glob("*.json")
    return file


def entries(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(record(tmp_path).read_text())["entries"]
    return found


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_nothing_is_written_before_the_token_is_asked(journal: Journal, tmp_path: Path) -> None:
    assert journal.signed(ORDER, MINE) is None
    move(journal)
    assert list((tmp_path / "journal").glob("*.json")) == []


def test_that_the_token_is_asked_is_on_the_disk_before(journal: Journal, tmp_path: Path) -> None:
    with journal.signing(ORDER, MINE, ME) as entry:
        entry.move(State.SIGN_CALLED)
        assert entries(tmp_path)[MINE]["state"] == "sign-called"


def test_what_was_signed_is_kept(journal: Journal, tmp_path: Path) -> None:
    move(journal, State.SIGN_CALLED, State.SIGNED)
    assert journal.signed(ORDER, MINE) == b"signed"
    assert Journal.of(Settings(state_dir=tmp_path)).signed(ORDER, MINE) == b"signed"
    with journal.signing(ORDER, MINE, ME) as entry:
        assert entry.signed == b"signed"


def test_each_certificate_has_its_own(journal: Journal) -> None:
    move(journal, State.SIGN_CALLED, State.SIGNED)
    assert journal.signed(ORDER, CHECKERS) is None
    with journal.signing(ORDER, CHECKERS, CHECKER) as entry:
        assert entry.signed is None


def test_a_record_is_for_its_owner_and_names_nobody(journal: Journal, tmp_path: Path) -> None:
    move(journal, State.SIGN_CALLED)
    assert stat.S_IMODE(record(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE(record(tmp_path).parent.stat().st_mode) == 0o700
    text = record(tmp_path).read_text()
    assert ORDER["payee.account"] not in text
    assert ORDER.tx_id not in record(tmp_path).name


def test_the_same_order_laid_out_otherwise_is_the_same(journal: Journal) -> None:
    move(journal, State.SIGN_CALLED, State.SIGNED)
    again = Order.parse(json.dumps(ORDER.to_json(), indent=4))
    assert journal.signed(again, MINE) == b"signed"


# --- one transaction, one order ---------------------------------------------------------------------------------------


def test_another_order_with_the_same_tx_id(journal: Journal) -> None:
    move(journal, State.SIGN_CALLED)
    with pytest.raises(InputError) as caught:
        journal.signed(OTHER_BYTES, MINE)
    assert (caught.value.code, caught.value.details["tx_id"]) == ("TX_ID_REUSED", ORDER.tx_id)
    with pytest.raises(InputError):
        move(journal, order=OTHER_BYTES)


def test_the_same_tx_id_at_another_bank_is_another_transaction(journal: Journal) -> None:
    move(journal, State.SIGN_CALLED, State.SIGNED)
    move(journal, State.SIGN_CALLED, order=OTHER_BANK)
    assert journal.signed(OTHER_BANK, MINE) is None


# --- unknown ----------------------------------------------------------------------------------------------------------

unknowns = pytest.mark.parametrize("left", [State.UNKNOWN, State.SIGN_CALLED])


@unknowns
def test_an_unknown_is_not_signed_again(journal: Journal, left: State) -> None:
    move(journal, State.SIGN_CALLED, left)
    with pytest.raises(OutcomeUnknown) as caught:
        move(journal)
    assert caught.value.code == "OUTCOME_STILL_UNKNOWN"
    assert caught.value.details["tx_id"] == ORDER.tx_id
    assert str(caught.value.details["since"]).endswith("Z")


@unknowns
def test_nor_by_a_renewed_certificate_of_the_same_person(journal: Journal, left: State) -> None:
    move(journal, State.SIGN_CALLED, left)
    with pytest.raises(OutcomeUnknown):
        move(journal, certificate=RENEWED)


@unknowns
def test_but_another_person_may_sign(journal: Journal, left: State) -> None:
    move(journal, State.SIGN_CALLED, left)
    move(journal, State.SIGN_CALLED, State.SIGNED, certificate=CHECKERS, subject=CHECKER)
    assert journal.signed(ORDER, CHECKERS) == b"signed"


@unknowns
def test_and_another_order_may_be_signed(journal: Journal, left: State) -> None:
    move(journal, State.SIGN_CALLED, left)
    move(journal, State.SIGN_CALLED, order=OTHER_BANK)


@unknowns
def test_the_banks_word_closes_it(journal: Journal, left: State) -> None:
    move(journal, State.SIGN_CALLED, left)
    journal.close_unknown(ORDER)
    move(journal, State.SIGN_CALLED, State.SIGNED)
    assert journal.signed(ORDER, MINE) == b"signed"


def test_the_banks_word_changes_nothing_that_is_known(journal: Journal) -> None:
    move(journal, State.SIGN_CALLED, State.SIGNED)
    journal.close_unknown(ORDER)
    assert journal.signed(ORDER, MINE) == b"signed"


def test_a_rejection_may_be_asked_again(journal: Journal) -> None:
    move(journal, State.SIGN_CALLED, State.REJECTED)
    assert journal.signed(ORDER, MINE) is None
    move(journal, State.SIGN_CALLED, State.SIGNED)
    assert journal.signed(ORDER, MINE) == b"signed"


# --- two at once ------------------------------------------------------------------------------------------------------


def test_an_order_is_signed_by_one_at_a_time(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_LOCK_WAIT_S", 0.1)
    with journal.signing(ORDER, MINE, ME) as entry:
        entry.move(State.SIGN_CALLED)
        with pytest.raises(TokenBusy):  # and not OutcomeUnknown: the first one lives
            move(journal)


def test_different_orders_do_not_wait(journal: Journal) -> None:
    with journal.signing(ORDER, MINE, ME), journal.signing(OTHER_BANK, MINE, ME):
        pass


# --- what is in the way -----------------------------------------------------------------------------------------------

GOOD = {"subject": ME, "state": "signed", "at": "2026-11-24T02:00:00Z", "signed": "AAAA"}


@pytest.mark.parametrize(
    "change",
    [
        {"state": "nonsense"},
        {"state": None},
        {"subject": None},
        {"at": None},
        {"signed": None},
        {"signed": "not base 64!"},
    ],
    ids=str,
)
def test_a_damaged_entry_signs_nothing(journal: Journal, tmp_path: Path, change: dict[str, object]) -> None:
    move(journal, State.SIGN_CALLED)
    whole = json.loads(record(tmp_path).read_text())
    damaged = {name: value for name, value in (GOOD | change).items() if value is not None}
    record(tmp_path).write_text(json.dumps(whole | {"entries": {MINE: damaged}}))
    refuses(journal, record(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"version": 1}', '{"version": 1, "entries": []}'])
def test_a_damaged_record_signs_nothing(journal: Journal, tmp_path: Path, content: str) -> None:
    move(journal, State.SIGN_CALLED)
    record(tmp_path).write_text(content)
    refuses(journal, record(tmp_path))
    assert record(tmp_path).read_text() == content


def test_a_record_of_a_later_version_signs_nothing(journal: Journal, tmp_path: Path) -> None:
    move(journal, State.SIGN_CALLED)
    whole = json.loads(record(tmp_path).read_text())
    record(tmp_path).write_text(json.dumps(whole | {"version": 2}))
    refuses(journal, record(tmp_path))


def refuses(journal: Journal, file: Path) -> None:
    with pytest.raises(StorageError) as caught:
        journal.signed(ORDER, MINE)
    assert (caught.value.code, caught.value.details["path"]) == ("JOURNAL_UNUSABLE", str(file))
    with pytest.raises(StorageError):
        move(journal)
    with pytest.raises(StorageError):
        journal.close_unknown(ORDER)


def test_a_record_that_cannot_be_written(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "write_atomically", full)
    with pytest.raises(StorageError) as caught:
        move(journal, State.SIGN_CALLED)
    assert (caught.value.code, caught.value.details["reason"]) == ("JOURNAL_UNUSABLE", "No space left on device")
