"""``ushield show``: the order as a token's screen would show it. No token is required."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import rfc8785

from tests.cli.world import Home
from tests.unit.order.samples import ABSENT, live, make_login, make_payment


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home without tokens and without SoftHSM2's configuration."""
    return Home(tmp_path_factory.mktemp("desk"))


def test_the_lines_that_a_person_compares(desk: Home) -> None:
    shown = desk.json("show", desk.order())
    assert shown.keys() >= {"lines", "canonical_sha256"}
    assert all(line.keys() == {"label", "value"} for line in shown["lines"])
    values = " ".join(line["value"] for line in shown["lines"])
    for must in ("杭州某某网络有限公司", "1202021409900012345", "128.50", "网上购物", "bank.example"):
        assert must in values


def test_labels_are_in_the_language_and_values_are_not(desk: Home) -> None:
    name = desk.order()
    en, zh = (desk.json("--lang", lang, "show", name) for lang in ("en", "zh"))
    assert len(en["lines"]) == len(zh["lines"])
    assert all(line["label"].isascii() for line in en["lines"])
    assert any("收款" in line["label"] for line in zh["lines"])
    assert en["canonical_sha256"] == zh["canonical_sha256"]


def test_the_digest_is_of_the_canonical_bytes(desk: Home) -> None:
    name = desk.order()
    canonical = rfc8785.dumps(desk.document(name))
    assert desk.json("show", name)["canonical_sha256"] == hashlib.sha256(canonical).hexdigest()


def test_layout_does_not_matter(desk: Home) -> None:
    name = desk.order()
    document = desk.document(name)
    flat = desk.write("flat.json", json.dumps(dict(reversed(document.items()))))
    assert desk.json("show", flat) == desk.json("show", name)


def test_stdin(desk: Home) -> None:
    name = desk.order()
    assert desk.json("show", "-", stdin=desk.content(name)) == desk.json("show", name)


def test_a_login(desk: Home) -> None:
    name = desk.write("login.json", json.dumps(make_login(**live(datetime.now(UTC)))))
    assert desk.json("show", name)["type"] == "ushield.login/1"


def test_for_a_person(desk: Home) -> None:
    done = desk.ushield("show", desk.order())
    assert "1202021409900012345" in done.out
    assert done.err == ""


def test_an_expired_order_warns_on_stderr_and_is_shown(desk: Home) -> None:
    name = desk.order(**live(datetime.now(UTC) - timedelta(days=1)))
    done = desk.ushield("show", name, "--json")
    assert done.document.keys() >= {"lines", "canonical_sha256"}
    assert done.err.startswith("Warning:")


def test_an_order_of_tomorrow_warns_too(desk: Home) -> None:
    name = desk.order(**live(datetime.now(UTC) + timedelta(days=1)))
    assert desk.ushield("show", name, "--json").err.startswith("Warning:")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"colour": "red"}, "colour"),
        ({"payee__bank__swift": "x"}, "payee.bank.swift"),
        ({"amount": ABSENT}, "amount"),
        ({"amount__value": "0.00"}, "amount.value"),
        ({"amount__value": 128.5}, "amount.value"),
        ({"payee__name": "杭州\u202e某某"}, "payee.name"),
        ({"payee__name": " "}, "payee.name"),
        ({"purpose": None}, "purpose"),
        ({"tx_id": "1"}, "tx_id"),
        ({"type": "ushield.gift/1"}, "type"),
        ({"bank__origin": "http://bank.example"}, "bank.origin"),
    ],
)
def test_a_wrong_order_names_the_place(desk: Home, changes: dict[str, object], place: str) -> None:
    name = desk.write("wrong.json", json.dumps(make_payment(**changes)))
    error = desk.json("show", name, exits=2)["error"]
    assert error["code"].startswith("ORDER_")
    assert error["details"]["place"] == place


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"type": "ushield.payment/1", "type": "x"}', b"\xff\xfe{}"])
def test_a_file_that_is_no_order(desk: Home, content: bytes) -> None:
    assert desk.json("show", desk.write("wrong.json", content), exits=2)["error"]["code"].startswith("ORDER_")


def test_a_file_that_cannot_be_read(desk: Home, tmp_path: Path) -> None:
    assert desk.fails(2, "FILE_UNREADABLE", "show", "nowhere.json")["file"] == "nowhere.json"
    assert desk.fails(2, "FILE_UNREADABLE", "show", tmp_path)["file"] == str(tmp_path)


def test_loopback_is_for_demonstrations(desk: Home, tmp_path: Path) -> None:
    name = desk.order("loop.json", bank__origin="http://127.0.0.1:8000")
    desk.json("show", name, exits=2)
    config = tmp_path / "ushield/config.toml"
    config.parent.mkdir()
    config.write_text('profile = "demo"\n')
    desk.json("show", name, XDG_CONFIG_HOME=str(tmp_path))


def test_an_order_that_lives_more_than_a_day(desk: Home) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for seconds, exits in ((86_400, 0), (86_401, 2)):
        times = {"created": now, "expires": now + timedelta(seconds=seconds)}
        order = desk.order(**{name: f"{moment:%Y-%m-%dT%H:%M:%SZ}" for name, moment in times.items()})
        done = desk.json("show", order, exits=exits)
        assert exits == 0 or done["error"]["code"] == "ORDER_LIFE_TOO_LONG"
