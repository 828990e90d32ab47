"""The journal: nothing is signed twice, and an order that may have been signed is not signed again."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cms import pki
from tests.unit.cms.people import P256
from tests.unit.order.samples import payment
from tests.unit.signing.journals import TOKEN, Person, journal_in, move, person
from ushield_hw.errors import AlreadySigned, InputError, OutcomeUnknown, StorageError, TokenBusy
from ushield_hw.order import Order, message_format
from ushield_hw.signing.journal import Journal, State
from ushield_hw.system import storage

pytestmark = pytest.mark.unit

ORDER = payment()
OTHER_BYTES = payment(purpose="学费")
OTHER_BANK = payment(bank__id="other-bank")
ME, CHECKER = person(), person("CN=李四,O=Demo Bank", 3)
SIGNED = (State.PREPARED, State.SIGN_CALLED, State.SIGNED)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return journal_in(tmp_path)


def log(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "journal.log"


def stored(journal: Journal, who: Person = ME, order: Order = ORDER) -> bytes:
    found = journal.signed(order, who.signatory)
    assert found is not None
    return found


# --- stored data ------------------------------------------------------------------------------------------------------


def test_nothing_is_written_before_the_token_is_asked(journal: Journal, tmp_path: Path) -> None:
    assert journal.signed(ORDER, ME.signatory) is None
    move(journal, ME, ORDER)
    assert not log(tmp_path).exists()


def test_that_the_token_is_asked_is_in_the_file_before(journal: Journal, tmp_path: Path) -> None:
    with journal.signing(ORDER, ME.signatory) as attempt:
        attempt.move(State.SIGN_CALLED)
        assert b'"state":"sign-called"' in log(tmp_path).read_bytes()


def test_what_was_signed_is_kept(journal: Journal, tmp_path: Path) -> None:
    move(journal, ME, ORDER, *SIGNED)
    der = stored(journal)
    assert stored(journal_in(tmp_path)) == der
    with journal.signing(ORDER, ME.signatory) as attempt:
        assert attempt.signed == der


def test_the_files_are_for_their_owner_alone(journal: Journal, tmp_path: Path) -> None:
    move(journal, ME, ORDER, State.SIGN_CALLED)
    assert {stat.S_IMODE(file.stat().st_mode) for file in log(tmp_path).parent.iterdir()} == {0o600}
    assert stat.S_IMODE(log(tmp_path).parent.stat().st_mode) == 0o700


def test_payee_and_amount_are_masked_where_settings_say_so(tmp_path: Path) -> None:
    journal = journal_in(tmp_path, journal_masked=True)
    move(journal, ME, ORDER, State.SIGN_CALLED)
    text = log(tmp_path).read_text()
    assert ORDER["payee.account"] not in text
    assert ORDER["amount.value"] not in text
    (entry,) = journal.entries()
    assert (entry.payee, entry.amount) == (None, None)


def test_the_same_order_laid_out_otherwise_is_the_same(journal: Journal) -> None:
    move(journal, ME, ORDER, *SIGNED)
    again = Order.parse(json.dumps(ORDER.to_json(), indent=4))
    assert stored(journal, order=again) == stored(journal)


# --- one order per transaction ----------------------------------------------------------------------------------------


def test_another_order_with_the_same_tx_id(journal: Journal) -> None:
    move(journal, ME, ORDER, State.SIGN_CALLED)
    with pytest.raises(InputError) as caught:
        journal.signed(OTHER_BYTES, ME.signatory)
    assert (caught.value.code, caught.value.details["tx_id"]) == ("TX_ID_REUSED", ORDER.tx_id)
    with pytest.raises(InputError):
        move(journal, ME, OTHER_BYTES)
    with pytest.raises(InputError):
        move(journal, CHECKER, OTHER_BYTES)


def test_the_same_tx_id_at_another_bank_is_another_transaction(journal: Journal) -> None:
    move(journal, ME, ORDER, *SIGNED)
    move(journal, ME, OTHER_BANK, State.SIGN_CALLED)
    assert stored(journal)


# --- one signature per user and order ---------------------------------------------------------------------------------


def test_a_renewed_certificate_on_the_same_token_gets_the_stored_order(journal: Journal) -> None:
    move(journal, ME, ORDER, *SIGNED)
    assert stored(journal, ME.renewed()) == stored(journal)


def test_names_are_compared_as_rfc_5280_section_7_1_has_it(journal: Journal) -> None:
    mine, again = person("CN=Zhang San,O=Demo Bank"), person("CN=zhang  san,O=DEMO BANK", 5)
    assert mine.facts.subject != again.facts.subject
    move(journal, mine, ORDER, *SIGNED)
    assert stored(journal, again) == stored(journal, mine)


def test_another_token_of_the_same_person_signs_nothing(journal: Journal) -> None:
    move(journal, ME, ORDER, *SIGNED)
    for changed in ({"serial": "0002"}, {"manufacturer": "other"}, {"model": "U2"}):
        with pytest.raises(AlreadySigned) as caught:
            journal.signed(ORDER, ME.renewed().on(replace(TOKEN, **changed)).signatory)
        assert caught.value.details["certificate"] == ME.facts.serial_hex
        assert caught.value.details["token"] == TOKEN.label


def test_a_label_that_has_changed_is_the_same_token_if_the_certificate_is_on_it(journal: Journal) -> None:
    move(journal, ME, ORDER, *SIGNED)
    relabelled = replace(TOKEN, label="another")
    assert stored(journal, ME.renewed().on(relabelled, ME.facts.der)) == stored(journal)
    with pytest.raises(AlreadySigned):
        journal.signed(ORDER, ME.renewed().on(relabelled).signatory)


def test_maker_and_checker_both_sign(journal: Journal) -> None:
    move(journal, ME, ORDER, *SIGNED)
    assert journal.signed(ORDER, CHECKER.signatory) is None
    move(journal, CHECKER, ORDER, *SIGNED)
    assert stored(journal, CHECKER) != stored(journal)


def asking(journal: Journal) -> tuple[Callable[[], object], ...]:
    """Return the two calls that consult the journal: before a login, and before the token signs."""
    return (lambda: journal.signed(ORDER, ME.signatory)), (lambda: move(journal, ME, ORDER))


# --- unknown ----------------------------------------------------------------------------------------------------------

unknowns = pytest.mark.parametrize("left", [State.UNKNOWN, State.SIGN_CALLED])


@unknowns
def test_an_unknown_is_not_signed_again(journal: Journal, left: State) -> None:
    move(journal, ME, ORDER, State.SIGN_CALLED, left)
    for ask in asking(journal):
        with pytest.raises(OutcomeUnknown) as caught:
            ask()
        assert caught.value.code == "OUTCOME_STILL_UNKNOWN"
        assert caught.value.details["tx_id"] == ORDER.tx_id
        assert str(caught.value.details["since"]).endswith("Z")


@unknowns
def test_nor_by_another_certificate_or_token_of_the_same_person(journal: Journal, left: State) -> None:
    move(journal, ME, ORDER, State.SIGN_CALLED, left)
    for who in (ME.renewed(), ME.renewed().on(replace(TOKEN, serial="0002"))):
        with pytest.raises(OutcomeUnknown):
            move(journal, who, ORDER)


@unknowns
def test_but_another_person_may_sign(journal: Journal, left: State) -> None:
    move(journal, ME, ORDER, State.SIGN_CALLED, left)
    move(journal, CHECKER, ORDER, *SIGNED)
    assert stored(journal, CHECKER)


@unknowns
def test_and_another_order_may_be_signed(journal: Journal, left: State) -> None:
    move(journal, ME, ORDER, State.SIGN_CALLED, left)
    move(journal, ME, OTHER_BANK, *SIGNED)


def test_the_texts_name_the_command_that_resolves_it(journal: Journal) -> None:
    for code in ("OUTCOME_UNKNOWN", "OUTCOME_STILL_UNKNOWN"):
        error = OutcomeUnknown(code, tx_id=ORDER.tx_id, since="2026-11-24T02:00:00Z")
        assert f"ushield journal resolve {ORDER.tx_id} --booked" in error.command_remedy
        assert f"ushield journal resolve {ORDER.tx_id} --not-booked" in error.command_remedy
        assert ORDER.tx_id in error.remedy and "Journal.resolve()" in error.remedy and "ushield" not in error.remedy


@unknowns
def test_not_booked_lets_it_be_signed_again(journal: Journal, left: State) -> None:
    move(journal, ME, ORDER, State.SIGN_CALLED, left)
    (entry,) = journal.resolve(ORDER.tx_id, booked=False, by="zhang")
    assert (entry.state, entry.booked, entry.steps[-1].by) == (State.RESOLVED, False, "zhang")
    move(journal, ME, ORDER, *SIGNED)
    assert stored(journal)


@unknowns
def test_booked_ends_it(journal: Journal, left: State) -> None:
    move(journal, ME, ORDER, State.SIGN_CALLED, left)
    journal.resolve(ORDER.tx_id, booked=True, by="zhang")
    for who in (ME, ME.renewed()):
        with pytest.raises(AlreadySigned) as caught:
            move(journal, who, ORDER)
        assert caught.value.code == "ALREADY_BOOKED"


@pytest.mark.parametrize("known", [SIGNED, (State.SIGN_CALLED, State.REJECTED)])
def test_what_is_known_is_not_resolved(journal: Journal, known: tuple[State, ...]) -> None:
    move(journal, ME, ORDER, *known)
    with pytest.raises(InputError) as caught:
        journal.resolve(ORDER.tx_id, booked=False, by="zhang")
    assert caught.value.code == "JOURNAL_NOT_OPEN"
    assert journal.entries()[0].state is known[-1]


def test_an_order_that_is_being_signed_is_not_resolved(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LOCK_WAIT_S", 0.1)
    with journal.signing(ORDER, ME.signatory) as attempt:
        attempt.move(State.SIGN_CALLED)
        assert journal.entries()[0].state is State.SIGN_CALLED
        with pytest.raises(TokenBusy):
            journal.resolve(ORDER.tx_id, booked=False, by="zhang")
    assert journal.entries()[0].state is State.UNKNOWN


def test_a_rejection_may_be_asked_again(journal: Journal) -> None:
    move(journal, ME, ORDER, State.SIGN_CALLED, State.REJECTED)
    assert journal.signed(ORDER, ME.signatory) is None
    move(journal, ME, ORDER, *SIGNED)
    assert stored(journal)
    assert [entry.state for entry in journal.entries()] == [State.REJECTED, State.SIGNED]


# --- lookup -----------------------------------------------------------------------------------------------------------


def test_an_entry_says_what_whose_and_how_far(journal: Journal) -> None:
    move(journal, ME, ORDER, *SIGNED)
    (entry,) = journal.find(ORDER.tx_id)
    assert (entry.bank_id, entry.tx_id, entry.order_type) == ("demo-bank", ORDER.tx_id, "ushield.payment/1")
    assert entry.payee == {"name": ORDER["payee.name"], "account": ORDER["payee.account"]}
    assert entry.amount == {"currency": "CNY", "value": "128.50"}
    assert (entry.subject_text, entry.certificate_serial) == (ME.facts.subject_text(), ME.facts.serial_hex)
    assert (entry.token, [step.state for step in entry.steps]) == (TOKEN, list(SIGNED))


def test_an_order_that_is_not_there(journal: Journal) -> None:
    with pytest.raises(InputError) as caught:
        journal.find("nobody")
    assert caught.value.code == "JOURNAL_TX_ID_UNKNOWN"


def test_a_number_that_two_banks_have_used(journal: Journal) -> None:
    move(journal, ME, ORDER, State.SIGN_CALLED)
    move(journal, ME, OTHER_BANK, State.SIGN_CALLED)
    with pytest.raises(InputError) as caught:
        journal.resolve(ORDER.tx_id, booked=True, by="zhang")
    assert (caught.value.code, caught.value.details["banks"]) == ("JOURNAL_TX_ID_MULTIPLE", ["demo-bank", "other-bank"])
    journal.resolve(ORDER.tx_id, booked=True, by="zhang", bank_id="other-bank")
    assert [entry.state for entry in journal.entries()] == [State.UNKNOWN, State.RESOLVED]


# --- concurrency ------------------------------------------------------------------------------------------------------


def test_an_order_is_signed_by_one_at_a_time(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LOCK_WAIT_S", 0.1)
    with journal.signing(ORDER, ME.signatory) as attempt:
        attempt.move(State.SIGN_CALLED)
        with pytest.raises(TokenBusy):  # not OutcomeUnknown: the first process is running
            move(journal, ME, ORDER)
        with pytest.raises(TokenBusy):
            journal.signed(ORDER, ME.signatory)


def test_the_second_waits_for_the_first_and_gets_its_order(journal: Journal) -> None:
    begun, found = threading.Event(), []

    def first() -> None:
        with journal.signing(ORDER, ME.signatory) as attempt:
            attempt.move(State.SIGN_CALLED)
            begun.set()
            attempt.move(State.SIGNED, ME.sign(ORDER))

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait(10)
    found.append(journal.signed(ORDER, ME.signatory))
    thread.join()
    assert found == [stored(journal)]


def test_different_orders_do_not_wait(journal: Journal) -> None:
    with journal.signing(ORDER, ME.signatory), journal.signing(OTHER_BANK, ME.signatory):
        pass


# --- stored signatures are verified when read -------------------------------------------------------------------------


def planted(journal: Journal, der: bytes) -> None:
    """Replace the signed order in otherwise valid journal records."""
    with journal.signing(ORDER, ME.signatory) as attempt:
        attempt.move(State.SIGN_CALLED)
        attempt.move(State.SIGNED, der)


def foreign() -> dict[str, bytes]:
    good = ME.sign(ORDER)
    impostor = person(ME.facts.subject_text(), 9)  # the same name, another certificate
    stolen = pki.sign_order(ORDER.canonical, pki.key(number=11), ME.facts.der, P256)  # by another key
    return {
        "another order": ME.sign(OTHER_BANK),
        "another person": CHECKER.sign(ORDER),
        "another certificate": impostor.sign(ORDER),
        "another key": stolen,
        "no order": pki.sign_order(b"{}", ME.private, ME.facts.der, P256),
        "garbage": b"garbage",
        "nothing": b"",
        "cut off": good[:-1],
        "longer": good + b"\0",
        "nested": b"\x30\x80" * 100_000,
        "a certificate": ME.facts.der,
    }


@pytest.mark.parametrize("name", sorted(foreign()))
def test_what_is_not_this_order_signed_by_this_person_is_not_handed_out(
    journal: Journal, tmp_path: Path, name: str
) -> None:
    planted(journal, foreign()[name])
    for ask in asking(journal):
        with pytest.raises(StorageError) as caught:
            ask()
        assert (caught.value.code, caught.value.details["path"]) == ("JOURNAL_UNUSABLE", str(log(tmp_path)))
        assert str(log(tmp_path).parent) in caught.value.remedy


def test_another_message_format_of_the_same_order_is_the_same(journal: Journal) -> None:
    content = message_format("xml-tdm").encode(ORDER, "zh")
    planted(journal, pki.sign_order(content, ME.private, ME.facts.der, P256))
    assert stored(journal)
