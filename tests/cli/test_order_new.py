"""``ushield order new``: a fresh order from options, or from answers at a terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.person import Person
from tests.cli.world import Home

GIVEN = {
    "--payee-name": "杭州某某网络有限公司",
    "--payee-account": "1202021409900012345",
    "--payee-bank-name": "中国工商银行",
    "--payee-bank": "102100099996",
    "--payer": "6222020200012345678",
    "--amount": "128.50",
    "--purpose": "网上购物",
    "--bank-id": "demo-bank",
    "--origin": "https://bank.example",
}


def words(**changed: str | None) -> list[str]:
    """Return the options, some changed or left out."""
    options = GIVEN | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return [word for name, value in options.items() if value is not None for word in (name, value)]


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home without tokens."""
    return Home(tmp_path_factory.mktemp("desk"))


def test_it_can_be_shown(desk: Home) -> None:
    desk.ushield("order", "new", *words(), "-o", "fresh.json")
    shown = desk.json("show", "fresh.json")
    values = " ".join(line["value"] for line in shown["lines"])
    for value in ("杭州某某网络有限公司", "1202021409900012345", "128.50", "102100099996", "https://bank.example"):
        assert value in values


def test_without_a_file_it_is_printed(desk: Home) -> None:
    printed = json.loads(desk.ushield("order", "new", *words()).out)
    assert printed["type"] == "ushield.payment/1"


def test_each_order_is_another_one(desk: Home) -> None:
    first, second = (desk.json("order", "new", *words()) for _ in range(2))
    assert first["tx_id"] != second["tx_id"]
    assert first["nonce"] != second["nonce"]


@pytest.mark.parametrize(("minutes", "exits"), [("1440", 0), ("1441", 2), ("0", 2)])
def test_it_lives_a_day_at_most(desk: Home, minutes: str, exits: int) -> None:
    desk.ushield("order", "new", *words(), "--minutes", minutes, exits=exits)


def test_a_bic(desk: Home) -> None:
    assert desk.json("order", "new", *words(payee_bank="ICBKCNBJ"))["payee"]["bank"]["bic"] == "ICBKCNBJ"


@pytest.mark.parametrize(
    ("changed", "code", "place"),
    [
        ({"amount": "1.234"}, "ORDER_AMOUNT_DIGITS", "amount"),
        ({"amount": "0.00"}, "ORDER_AMOUNT_ZERO", "amount"),
        ({"payee_bank": "12"}, "ORDER_CNAPS", "payee.bank.cnaps"),
        ({"payee_bank": "icbk"}, "ORDER_BIC", "payee.bank.bic"),
        ({"origin": "http://bank.example"}, "ORDER_ORIGIN", "bank.origin"),
        ({"payee_name": "a\u202eb"}, "ORDER_TEXT_CHARACTER", "payee.name"),
    ],
)
def test_an_invalid_value_is_named_and_nothing_is_written(
    desk: Home, changed: dict[str, str], code: str, place: str
) -> None:
    error = desk.fails(2, code, "order", "new", *words(**changed), "-o", "never.json")
    assert error["place"].startswith(place)
    assert not desk.file("never.json").exists()


def test_an_existing_file_is_kept(desk: Home) -> None:
    desk.write("there.json", "mine")
    desk.fails(2, "OUTPUT_EXISTS", "order", "new", *words(), "-o", "there.json")
    assert desk.content("there.json") == b"mine"


def test_without_a_terminal_all_that_is_missing_is_named(desk: Home) -> None:
    error = desk.fails(2, "USAGE_MISSING", "order", "new", *words(payer=None, amount=None))
    assert error["missing"] == ["--payer", "--amount"]


def test_at_a_terminal_it_asks_and_asks_again(desk: Home, people: list[Person], tmp_path: Path) -> None:
    out = tmp_path / "asked.json"
    person = Person(desk, "--lang", "en", "order", "new", *words(amount=None, payee_name=None), "-o", out)
    people.append(person)
    person.sees("Payee's name:")
    person.types("杭州某某")
    person.sees("Amount, for example 128.50:")
    person.types("12,50")
    person.sees("Amount, for example 128.50:", times=2)
    assert re.search(r"amount\.value", person.screen)
    person.types("12.50")
    person.ends(0)
    order = json.loads(out.read_text())
    assert (order["amount"]["value"], order["payee"]["name"]) == ("12.50", "杭州某某")


def test_ctrl_c_writes_nothing(desk: Home, people: list[Person], tmp_path: Path) -> None:
    out = tmp_path / "asked.json"
    person = Person(desk, "--lang", "en", "order", "new", "-o", out)
    people.append(person)
    person.sees("Payee's name:")
    person.presses(b"\x03")
    person.ends(130)
    assert not out.exists()
