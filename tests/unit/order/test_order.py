"""An order: parsed from any JSON layout, one canonical form, immutable, comparable."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.order.samples import ABSENT, BIC_BANK, as_json, live, login, make_login, make_payment, payment, renewal
from tests.unit.order.strategies import documents, orders
from ushield_hw.errors import InputError
from ushield_hw.order import KeyUse, Order, Rules

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 24, 2, 1, tzinfo=UTC)


def shuffled(value: Any, seed: random.Random) -> Any:
    if not isinstance(value, dict):
        return value
    keys = list(value)
    seed.shuffle(keys)
    return {key: shuffled(value[key], seed) for key in keys}


# --- one canonical form -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(documents)
def test_canonical_form_is_rfc_8785(document: dict[str, Any]) -> None:
    assert Order.from_json(document).canonical == rfc8785.dumps(document)


@pytest.mark.slow
@given(documents, st.randoms(use_true_random=False), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_layout_key_order_and_escapes_do_not_matter(
    document: dict[str, Any], seed: random.Random, indent: int | str | None, ascii_only: bool
) -> None:
    order = Order.from_json(document)
    written = json.dumps(shuffled(document, seed), indent=indent, ensure_ascii=ascii_only)
    for data in (written, written.encode()):
        again = Order.parse(data)
        assert again == order
        assert again.canonical == order.canonical


@given(orders)
def test_canonical_bytes_parse_back(order: Order) -> None:
    assert Order.parse(order.canonical) == order
    assert Order.from_json(order.to_json()) == order
    assert order.canonical_sha256 == hashlib.sha256(order.canonical).hexdigest()


def test_canonical_form_of_the_sample() -> None:
    assert payment().canonical_sha256 == "ae5ffb5fe7f80eaa60682cd1b3b06a05a7c35951b34dc0e5c06fd4a710f5f053"
    assert login().canonical.startswith(b'{"bank":{"id":"demo-bank","origin":"https://bank.example"},"created":')


# --- content ----------------------------------------------------------------------------------------------------------


def test_properties() -> None:
    order = payment()
    assert (order.type, order.bank_id, order.origin) == ("ushield.payment/1", "demo-bank", "https://bank.example")
    assert (order.tx_id, order.order_no) == ("3b241101-e2bb-4255-8caf-4136c566a962", "TB20261124-0001")
    assert order.created == datetime(2026, 11, 24, 2, 0, tzinfo=UTC)
    assert order.expires == datetime(2026, 11, 24, 2, 5, tzinfo=UTC)
    assert order["payee.bank.cnaps"] == "102100099996"
    assert order.get("payee.bank.bic") is None
    with pytest.raises(KeyError):
        order["payee.bank.bic"]


def test_login_has_no_order_number_and_another_key() -> None:
    assert login().order_no is None
    assert login().purpose_of_key is KeyUse.LOGIN
    assert payment().purpose_of_key is KeyUse.PAYMENT
    assert (KeyUse.PAYMENT.value, KeyUse.LOGIN.value) == ("nonRepudiation", "digitalSignature")


def test_a_renewal_is_signed_by_a_key_of_either_use() -> None:
    assert renewal().purpose_of_key.usages == {"nonRepudiation", "digitalSignature"}
    assert payment().purpose_of_key.usages == {"nonRepudiation"}


def test_to_json_is_in_document_order_and_fresh() -> None:
    document = make_payment(payer__name="张三", payee__bank=BIC_BANK)
    order = Order.from_json(dict(reversed(document.items())))
    assert json.dumps(order.to_json()) == json.dumps(document)
    order.to_json()["payee"]["name"] = "别人"
    order.values["payee.name"] = "别人"  # type: ignore[index]
    assert order["payee.name"] == "杭州某某网络有限公司"


def test_the_document_it_was_made_from_can_change() -> None:
    document = make_payment()
    order = Order.from_json(document)
    document["payee"]["name"] = "别人"
    assert order == payment()


def test_an_order_cannot_be_made_or_changed_past_the_rules() -> None:
    with pytest.raises(TypeError):
        Order()
    order = payment()
    with pytest.raises((AttributeError, TypeError)):
        order.canonical = b"{}"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        order.extra = 1  # type: ignore[attr-defined]
    assert copy.deepcopy(order) == order


def test_equal_orders_are_one_in_a_set() -> None:
    assert {payment(), Order.parse(as_json(make_payment())), payment(purpose="学费")} == {
        payment(purpose="学费"),
        payment(),
    }


def test_repr_shows_no_names_and_no_accounts() -> None:
    assert repr(payment()) == "<Order ushield.payment/1 3b241101-e2bb-4255-8caf-4136c566a962>"


@pytest.mark.slow
@given(documents)
def test_input_is_text_or_bytes_alike(document: dict[str, Any]) -> None:
    assert Order.parse(as_json(document)) == Order.parse(as_json(document).decode())


# --- names that must be accepted --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "阿依古丽·买买提",
        "ＡＢＣ（上海）有限公司：一部",
        "张\u3000三",
        "\U00031350",
        "欧阳\U0002ebf0",
        "𠮷野家",
        "Ångström & Söhne <GmbH>",
        "Nguyễn Thị Ánh",
        "محمد",
        "สมชาย ใจดี",
        'O\'Brien "Bob" \\ Co.',
        "字" * 140,
    ],
)
def test_real_names_pass(name: str) -> None:
    order = Order.parse(as_json(make_payment(payee__name=name, payer__name=name)))
    assert order["payee.name"] == order["payer.name"] == name


@pytest.mark.parametrize(
    "account",
    ["0", "DE89370400440532013000", "GB82WEST12345698765432", "NO93-8601-1117947", "A-1", "1" * 34, "1-" * 33 + "1"],
)
def test_real_accounts_pass(account: str) -> None:
    assert payment(payee__account=account)["payee.account"] == account


# --- rules of an installation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:8080", "http://localhost", "http://127.0.0.1:1", "http://[::1]:65535", "https://bank.example"],
)
def test_demo_takes_a_bank_on_this_machine(origin: str) -> None:
    rules = Rules(demo=True)
    order = payment(rules, bank__origin=origin)
    assert order.origin == origin
    assert Order.parse(order.canonical, rules=rules) == order


@pytest.mark.parametrize(
    "origin",
    [
        "http://bank.example",
        "http://localhost:80",
        "http://localhost:0",
        "http://localhost:65536",
        "http://localhost:08080",
        "http://localhost:8080/",
        "http://127.0.0.2:8080",
        "http://[::2]:8080",
        "http://localhost.example.com@evil:1",
        "https://localhost:8080",
        "http://LOCALHOST:8080",
    ],
)
def test_demo_takes_no_more_than_that(origin: str) -> None:
    with pytest.raises(InputError) as refusal:
        payment(Rules(demo=True), bank__origin=origin)
    assert refusal.value.code == "ORDER_ORIGIN"


def test_loopback_is_refused_outside_the_demo() -> None:
    with pytest.raises(InputError) as refusal:
        payment(bank__origin="http://localhost:8080")
    assert refusal.value.code == "ORDER_ORIGIN"


# --- validity period --------------------------------------------------------------------------------------------------


def test_live_order() -> None:
    payment().check_live(NOW)
    payment(**live(NOW)).check_live(NOW)
    payment(**live(NOW.astimezone())).check_live(NOW)


def test_an_order_dies_at_the_moment_it_expires() -> None:
    order = payment()
    order.check_live(order.expires - timedelta(microseconds=1))
    with pytest.raises(InputError) as refusal:
        order.check_live(order.expires)
    assert refusal.value.code == "ORDER_EXPIRED"
    assert refusal.value.details == {
        "place": "expires",
        "expires": "2026-11-24T02:05:00Z",
        "now": "2026-11-24T02:05:00Z",
    }


def test_a_day_is_the_longest_life() -> None:
    assert payment(expires="2026-11-25T02:00:00Z").expires - payment().created == timedelta(hours=24)
    with pytest.raises(InputError) as refusal:
        payment(expires="2026-11-25T02:00:01Z")
    assert (refusal.value.code, refusal.value.details) == ("ORDER_LIFE_TOO_LONG", {"place": "expires", "hours": 24})


def test_the_clocks_may_differ_by_a_minute() -> None:
    order = payment()
    order.check_live(order.created - timedelta(seconds=60))
    with pytest.raises(InputError) as refusal:
        order.check_live(order.created - timedelta(seconds=60, microseconds=1))
    assert refusal.value.code == "ORDER_NOT_YET_VALID"
    assert refusal.value.details["created"] == "2026-11-24T02:00:00Z"
    assert refusal.value.details["now"] == "2026-11-24T01:58:59Z"


# --- differences ------------------------------------------------------------------------------------------------------


def test_differences_name_the_places() -> None:
    order = payment(payer__name="张三")
    other = payment(payee__name="别人", amount__value="128.51", payee__bank=BIC_BANK)
    expected = ("payer.name", "payee.name", "payee.bank.name", "payee.bank.cnaps", "amount.value", "payee.bank.bic")
    assert order.differences(other) == expected
    assert sorted(other.differences(order)) == sorted(expected)
    assert order.differences(Order.parse(order.canonical)) == ()


@pytest.mark.slow
@given(orders, orders)
def test_no_differences_is_equality(one: Order, other: Order) -> None:
    assert (one.differences(other) == ()) == (one == other) == (one.canonical == other.canonical)


def test_differences_across_types() -> None:
    assert "customer.id" in payment().differences(login())
    assert "type" in payment().differences(login())


def test_login_can_name_the_customer() -> None:
    assert login(customer__name="李四")["customer.name"] == "李四"
    with pytest.raises(InputError) as refusal:
        Order.from_json(make_login(customer=ABSENT))
    assert refusal.value.details == {"place": "customer"}
