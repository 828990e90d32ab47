"""``ushield journal``, and one signature per user and order, through the command line."""

from __future__ import annotations

import getpass
import re

import pytest

from tests.cli.conftest import DEMO
from tests.cli.person import Person
from tests.cli.world import Bank, Home
from tests.project.tree import ROOT

pytestmark = pytest.mark.stack


def left_open(home: Home) -> str:
    """Leave an order as a process leaves it that ends while the token signs; return its transaction id."""
    order = home.order("left.json")
    home.sign(order, "left.p7m")
    file = home.file("state/ushield/journal/journal.log")
    *before, _ = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(before))
    file.with_name("journal.lock").write_bytes(b"")
    home.file("left.p7m").unlink()
    return str(home.document(order)["tx_id"])


def words(home: Home, order: str, out: str, *more: object) -> tuple[object, ...]:
    known = ("--token", home.token.uri, "--pin-source", home.token.pin_file)
    return ("sign", order, *known, "--unattended", "-o", out, *more)


# --- one signature per user -------------------------------------------------------------------------------------------


def test_a_renewed_certificate_signs_nothing_again(home: Home, bank: Bank) -> None:
    order, first = home.order(), home.json("cert", "list", "--token", home.token.uri)["certificates"][0]["key_id"]
    home.sign(order, "signed.p7m")
    renewed = home.enrol(bank, home.token, DEMO)
    for asked in ((), ("--key-id", renewed), ("--key-id", first), ("--profile", "plain")):
        done = home.ushield("sign", order, "--token", home.token.uri, *asked, "-o", "again.p7m", "--json")
        assert done.document["replayed"] is True
        assert "was already signed" in done.err
        assert home.content("again.p7m") == home.content("signed.p7m")
        home.file("again.p7m").unlink()


def test_another_token_of_the_same_person_is_named_and_signs_nothing(home: Home, bank: Bank) -> None:
    order = home.order()
    serial = home.sign(order, "signed.p7m")["signer"]["serial"]
    key_id = home.enrol(bank, home.other_token, "CN=张三,O=DEMO  Bank")
    own = ("--token", home.other_token.uri, "--key-id", key_id, "--pin-source", home.pin())
    details = home.fails(6, "ALREADY_SIGNED", "sign", order, *own, "--unattended", "-o", "again.p7m")
    assert (details["certificate"], details["token"]) == (serial, home.token.label)
    assert not home.file("again.p7m").exists()
    assert home.tries_left(home.other_token) == 6


# --- list, show -------------------------------------------------------------------------------------------------------


def test_a_new_journal_is_empty(blank: Home) -> None:
    assert blank.json("journal", "list") == {"entries": []}
    assert "empty" in blank.ushield("journal", "list").err


def test_list_and_show(home: Home) -> None:
    order = home.order()
    home.sign(order, "signed.p7m")
    said = home.document(order)
    (entry,) = home.json("journal", "list")["entries"]
    assert (entry["state"], entry["tx_id"], entry["bank_id"]) == ("signed", said["tx_id"], "demo-bank")
    assert entry["payee"] == {name: said["payee"][name] for name in ("name", "account")}
    assert entry["amount"] == said["amount"]
    assert (entry["signer"]["subject"], entry["token"]["serial"]) == (DEMO, home.token.serial)
    assert home.json("journal", "show", said["tx_id"])["entries"] == [entry]
    for command in (("journal", "list"), ("journal", "show", said["tx_id"])):
        out = home.ushield(*command).out
        for text in (said["tx_id"], "128.50", said["payee"]["name"], DEMO, home.token.label, "signed"):
            assert text in out


def test_payee_and_amount_may_be_masked(home: Home) -> None:
    order = home.order()
    home.sign(order, "signed.p7m")
    home.write("config/ushield/config.toml", "[journal]\nmasked = true\n")
    out = home.ushield("journal", "list").out
    assert home.document(order)["payee"]["name"] not in out
    assert "128.50" not in out
    (entry,) = home.json("journal", "list")["entries"]
    assert (entry["payee"], entry["amount"]) == (None, None)


def test_an_order_that_is_not_there(home: Home) -> None:
    for command in (("show", "nothing"), ("resolve", "nothing", "--booked", "--yes")):
        assert home.fails(2, "JOURNAL_TX_ID_UNKNOWN", "journal", *command)["tx_id"] == "nothing"


def test_two_banks_with_one_number(home: Home) -> None:
    tx_id = home.document(home.order())["tx_id"]
    for bank in ("demo-bank", "other-bank"):
        home.sign(home.order(f"{bank}.json", tx_id=tx_id, bank__id=bank), f"{bank}.p7m")
    assert home.fails(2, "JOURNAL_TX_ID_MULTIPLE", "journal", "show", tx_id)["banks"] == ["demo-bank", "other-bank"]
    (entry,) = home.json("journal", "show", tx_id, "--bank-id", "other-bank")["entries"]
    assert entry["bank_id"] == "other-bank"


# --- resolve ----------------------------------------------------------------------------------------------------------


def test_exit_9_names_the_command_and_it_works(home: Home) -> None:
    tx_id = left_open(home)
    done = home.ushield(*words(home, "left.json", "again.p7m"), exits=9)
    commands = re.findall(r"ushield (journal resolve \S+ --\S+)", done.err)
    assert len(commands) == 2
    assert home.json("journal", "list")["entries"][0]["state"] == "unknown"
    (entry,) = home.json(*commands[1].split(), "--yes")["entries"]
    assert (entry["tx_id"], entry["state"], entry["booked"]) == (tx_id, "resolved", False)
    assert entry["steps"][-1]["by"] == getpass.getuser()
    assert home.json(*words(home, "left.json", "again.p7m"))["replayed"] is False


def test_what_is_booked_is_not_signed_again(home: Home) -> None:
    tx_id = left_open(home)
    home.json("journal", "resolve", tx_id, "--booked", "--yes")
    home.fails(6, "ALREADY_BOOKED", *words(home, "left.json", "again.p7m"))
    assert home.fails(2, "JOURNAL_NOT_OPEN", "journal", "resolve", tx_id, "--booked", "--yes")["tx_id"] == tx_id


@pytest.mark.parametrize("answers", [(), ("--booked", "--not-booked")])
def test_one_answer_must_be_given(home: Home, answers: tuple[str, ...]) -> None:
    home.fails(2, "USAGE_ONE_OF", "journal", "resolve", "x", *answers)


def test_without_a_terminal_it_must_be_said_that_nobody_is_asked(home: Home) -> None:
    tx_id = left_open(home)
    home.fails(7, "RESOLVE_NOT_CONFIRMED", "journal", "resolve", tx_id, "--booked")
    assert home.json("journal", "list")["entries"][0]["state"] == "unknown"


@pytest.mark.parametrize(("answer", "exits", "state"), [("y", 0, "resolved"), ("n", 7, "unknown")])
def test_at_a_terminal_it_is_asked(home: Home, people: list[Person], answer: str, exits: int, state: str) -> None:
    tx_id = left_open(home)
    people.append(Person(home, "journal", "resolve", tx_id, "--not-booked"))
    people[-1].sees("[y/N]")
    assert tx_id in people[-1].screen
    people[-1].types(answer)
    people[-1].ends(exits)
    assert home.json("journal", "list")["entries"][0]["state"] == state


# --- forbidden operations ---------------------------------------------------------------------------------------------


def test_records_of_another_format_are_named(home: Home) -> None:
    home.write("state/ushield/journal/0123456789.json", "{}")
    home.file("state/ushield/journal").chmod(0o700)
    home.file("state/ushield").chmod(0o700)
    home.fails(12, "JOURNAL_UNUSABLE", *words(home, home.order(), "signed.p7m"))


def test_the_help_says_whose_journal_it_is(blank: Home) -> None:
    for command in ((), ("list",), ("show",), ("resolve",)):
        out = " ".join(blank.ushield("journal", *command, "--help").out.split())
        assert "sudo" in out
        assert "docs/journal.md" in out
    assert (ROOT / "docs/journal.md").exists()
