"""Everything refused in a payment or a login, with its error code and location."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import ushield_hw.order
from tests.unit.order.samples import ABSENT, BIC_BANK, as_json, make_login, make_payment
from ushield_hw import messages
from ushield_hw.errors import InputError
from ushield_hw.order import Order

pytestmark = pytest.mark.unit

NONCE = "3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
LONG = "a" * 63

# Each row: the change to the payment, the code, the location.
STRUCTURE = [
    ({"type": ABSENT}, "ORDER_MISSING_KEY", "type"),
    ({"type": None}, "ORDER_WRONG_TYPE", "type"),
    ({"type": ["ushield.payment/1"]}, "ORDER_WRONG_TYPE", "type"),
    ({"type": ""}, "ORDER_TYPE", "type"),
    ({"type": "ushield.payment/2"}, "ORDER_TYPE", "type"),
    ({"type": "USHIELD.PAYMENT/1"}, "ORDER_TYPE", "type"),
    ({"type": "ushield.payment/1 "}, "ORDER_TYPE", "type"),
    ({"type": "ushield.login/1"}, "ORDER_UNKNOWN_KEY", "order_no"),
    ({"memo": "x"}, "ORDER_UNKNOWN_KEY", "memo"),
    ({"Purpose": "x"}, "ORDER_UNKNOWN_KEY", "Purpose"),
    ({"": "x"}, "ORDER_UNKNOWN_KEY", '""'),
    ({"\u202e": "x"}, "ORDER_UNKNOWN_KEY", "\\u{202e}"),
    ({"k" * 50: "x"}, "ORDER_UNKNOWN_KEY", "k" * 39 + "…"),
    ({"bank__port": "443"}, "ORDER_UNKNOWN_KEY", "bank.port"),
    ({"payee__bank__swift": "x"}, "ORDER_UNKNOWN_KEY", "payee.bank.swift"),
    ({"amount__minor": "12850"}, "ORDER_UNKNOWN_KEY", "amount.minor"),
    ({"bank": "demo-bank"}, "ORDER_WRONG_TYPE", "bank"),
    ({"payee": []}, "ORDER_WRONG_TYPE", "payee"),
    ({"payee__bank": None}, "ORDER_WRONG_TYPE", "payee.bank"),
    ({"purpose": {}}, "ORDER_WRONG_TYPE", "purpose"),
    ({"purpose": None}, "ORDER_WRONG_TYPE", "purpose"),
    ({"purpose": True}, "ORDER_WRONG_TYPE", "purpose"),
    ({"payer__name": None}, "ORDER_WRONG_TYPE", "payer.name"),
    ({"amount__value": 128.50}, "ORDER_WRONG_TYPE", "amount.value"),
    ({"amount__value": 128}, "ORDER_WRONG_TYPE", "amount.value"),
    ({"amount__value": 10**400}, "ORDER_WRONG_TYPE", "amount.value"),
    ({"amount__value": float("nan")}, "ORDER_WRONG_TYPE", "amount.value"),
    ({"payee__bank__cnaps": 102100099996}, "ORDER_WRONG_TYPE", "payee.bank.cnaps"),
    ({"payee__bank__cnaps": ABSENT}, "ORDER_ONE_OF", "payee.bank"),
    ({"payee__bank__bic": "DEUTDEFF"}, "ORDER_ONE_OF", "payee.bank"),
    *(
        ({path.replace(".", "__"): ABSENT}, "ORDER_MISSING_KEY", path)
        for path in (
            *("bank", "bank.id", "bank.origin", "tx_id", "order_no", "payer", "payer.account", "payee", "payee.name"),
            *("payee.account", "payee.bank", "payee.bank.name", "amount", "amount.currency", "amount.value", "purpose"),
            *("created", "expires", "nonce"),
        )
    ),
    *(
        ({path.replace(".", "__"): blank}, "ORDER_BLANK", path)
        for path in ("bank.id", "order_no", "payee.name", "payee.account", "payee.bank.name", "purpose", "nonce")
        for blank in ("", " ", "\u3000", " \t\n")
    ),
    ({"payer__name": " "}, "ORDER_BLANK", "payer.name"),
]

VALUES = [
    *(
        ({"payee__account": value}, "ORDER_ACCOUNT", "payee.account")
        for value in (
            *("1" * 35, "-1", "1-", "1--2", "a1", "1 2", "1.2", "１２", "٣", "1\n", "1\ud800", "6222_1"),
            "1\u20102",  # a hyphen, but not the ASCII one
        )
    ),
    ({"payer__account": "abc"}, "ORDER_ACCOUNT", "payer.account"),
    *(
        ({"order_no": value}, "ORDER_REFERENCE", "order_no")
        for value in ("x" * 36, "TB 1", "TB//1", "/1", "1/", "订单1", "1\n", "a'b", "Ａ1", "-")
    ),
    *(
        ({"bank__id": value}, "ORDER_BANK_ID", "bank.id")
        for value in ("Demo-bank", "demo_bank", "demo bank", "-demo", "demo-", "a--b", "工商银行", "a" * 36, "a\n")
    ),
    *(
        ({"bank__origin": value}, "ORDER_ORIGIN", "bank.origin")
        for value in (
            *("http://bank.example", "https://bank.example/", "https://bank.example/pay", "https://bank.example:443"),
            *("https://bank.example:8443", "https://u@bank.example", "https://u:p@bank.example", "bank.example"),
            *("https://Bank.example", "HTTPS://bank.example", "https://bank.example?x", "https://bank.example#x"),
            *("https://bank.example.", "https://.bank.example", "https://bank..example", "https://-bank.example"),
            *("https://bank-.example", "https://bank_1.example", "https://银行.example", "https://bank。example"),
            *("https://bank", "https://localhost", "https://192.0.2.1", "https://1.0x7f", "https://[2001:db8::1]"),
            *(
                "https://",
                "https://bank.example\n",
                " https://bank.example",
                "wss://bank.example",
                "https:bank.example",
            ),
            *(f"https://{LONG}a.example", f"https://{LONG}.{LONG}.{LONG}.{LONG}.example", "https://bank.еxample"),
            *("https://bank\\.example", "https://bank%2eexample", "https://bank.example.1"),
        )
    ),
    *(
        ({"tx_id": value}, "ORDER_TX_ID", "tx_id")
        for value in (
            "3B241101-E2BB-4255-8CAF-4136C566A962",
            "3b241101e2bb42558caf4136c566a962",
            "{3b241101-e2bb-4255-8caf-4136c566a962}",
            "3b241101-e2bb-1255-8caf-4136c566a962",
            "3b241101-e2bb-7255-8caf-4136c566a962",
            "3b241101-e2bb-4255-7caf-4136c566a962",
            "3b241101-e2bb-4255-ccaf-4136c566a962",
            "3b241101-e2bb-4255-8caf-4136c566a962\n",
            "00000000-0000-0000-0000-000000000000",
        )
    ),
    *(
        ({"payee__bank__cnaps": v}, "ORDER_CNAPS", "payee.bank.cnaps")
        for v in ("1" * 11, "1" * 13, "１" * 12, "1" * 11 + "A")
    ),
    *(
        ({"payee__bank": {**BIC_BANK, "bic": value}}, "ORDER_BIC", "payee.bank.bic")
        for value in ("DEUTDEF", "DEUTDEFF5", "DEUTDEFF50", "DEUTDEFF5000", "deutdeff", "DEUT1EFF", "DEUTDEFF\n")
    ),
    *(
        ({"nonce": value}, "ORDER_NONCE", "nonce")
        for value in (
            *(NONCE[:-1], NONCE + "A", NONCE + "=", NONCE.replace("-", "+"), NONCE.replace("-", "/")),
            *(NONCE[:-1] + last for last in "BCDZabz13579-_"),
            NONCE[:-1] + "Ａ",
        )
    ),
]

AMOUNTS = [
    *(
        ({"amount__currency": value}, "ORDER_AMOUNT_CURRENCY", "amount.currency")
        for value in (
            "cny",
            "RMB",
            "CN",
            "CNYY",
            "CNY ",
            "XAU",
            "XAG",
            "XPT",
            "XPD",
            "XDR",
            "XSU",
            "XUA",
            "XTS",
            "XXX",
            "￥",
        )
    ),
    *(
        ({"amount__currency": value}, "ORDER_AMOUNT_CURRENCY", "amount.currency")
        for value in ("CLF", "CHE", "CHW", "COU", "MXV", "USN", "UYI", "BOV", "HRK", "BGN", "DEM", "XBA", "BTC")
    ),
    *(
        ({"amount__value": value}, "ORDER_AMOUNT_FORM", "amount.value")
        for value in (
            *("-1.00", "+1.00", "1,000.00", "1 000.00", "1e3", ".50", "1.", "1.5.0", "0x10", "１２.００", "1.00 "),
            *("00.50", "01.00", "00", "1.00\n", "NaN", "Infinity", "１28.50", "1٫50", "-0.00", "1_0.00"),
        )
    ),
    *(({"amount__value": v}, "ORDER_AMOUNT_DIGITS", "amount.value") for v in ("128", "128.5", "128.500", "0", "0.0")),
    ({"amount": {"currency": "JPY", "value": "100.00"}}, "ORDER_AMOUNT_DIGITS", "amount.value"),
    ({"amount": {"currency": "BHD", "value": "1.00"}}, "ORDER_AMOUNT_DIGITS", "amount.value"),
    ({"amount": {"currency": "UYW", "value": "1.00"}}, "ORDER_AMOUNT_DIGITS", "amount.value"),
    ({"amount__value": "0.00"}, "ORDER_AMOUNT_ZERO", "amount.value"),
    ({"amount": {"currency": "JPY", "value": "0"}}, "ORDER_AMOUNT_ZERO", "amount.value"),
    ({"amount__value": "12345678901234567.00"}, "ORDER_AMOUNT_TOO_LONG", "amount.value"),
    ({"amount": {"currency": "JPY", "value": "1" * 19}}, "ORDER_AMOUNT_TOO_LONG", "amount.value"),
]

TIMES = [
    *(
        ({"created": value}, "ORDER_TIME", "created")
        for value in (
            *("2026-11-24", "2026-11-24T02:00:00", "2026-11-24T02:00:00+00:00", "2026-11-24T02:00:00.0Z"),
            *(
                "2026-11-24 02:00:00Z",
                "2026-11-24t02:00:00z",
                "20261124T020000Z",
                "2026-11-24T02:00Z",
                "2026-W48-2T02:00:00Z",
            ),
            *("2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-11-31T00:00:00Z"),
            *("2026-11-24T24:00:00Z", "2026-11-24T02:60:00Z", "2026-11-24T02:00:60Z", "0000-01-01T00:00:00Z"),
            *("２026-11-24T02:00:00Z", "2026-11-24T02:00:00Z\n", "2026-11-24T02:00:00Ｚ", "now"),
        )
    ),
    ({"expires": "tomorrow"}, "ORDER_TIME", "expires"),
    ({"expires": "2026-11-24T02:00:00Z"}, "ORDER_TIME_ORDER", "expires"),
    ({"expires": "2025-11-24T02:05:00Z"}, "ORDER_TIME_ORDER", "expires"),
    ({"expires": "2026-11-25T02:00:01Z"}, "ORDER_LIFE_TOO_LONG", "expires"),
    ({"expires": "2027-11-24T02:00:00Z"}, "ORDER_LIFE_TOO_LONG", "expires"),
]

TEXT = [
    ({"purpose": "字" * 141}, "ORDER_TEXT_TOO_LONG", "purpose"),
    ({"payee__name": "张\u202e三"}, "ORDER_TEXT_CHARACTER", "payee.name"),
    ({"payer__name": "张\ud800三"}, "ORDER_TEXT_CHARACTER", "payer.name"),
    ({"payee__bank__name": "工商\n银行"}, "ORDER_TEXT_CHARACTER", "payee.bank.name"),
    ({"purpose": "Cafe\u0301"}, "ORDER_TEXT_NOT_NFC", "purpose"),
    ({"purpose": "a  b"}, "ORDER_TEXT_SPACES", "purpose"),
    ({"purpose": "q\u0327\u0323\u0302"}, "ORDER_TEXT_MARKS", "purpose"),
]

ROWS = [*STRUCTURE, *VALUES, *AMOUNTS, *TIMES, *TEXT]


@pytest.mark.parametrize(("changes", "code", "place"), ROWS)
def test_refused(changes: dict[str, Any], code: str, place: str) -> None:
    document = make_payment(**changes)
    with pytest.raises(InputError) as from_document:
        Order.from_json(document)
    assert (from_document.value.code, from_document.value.place) == (code, place)
    with pytest.raises(InputError) as from_file:
        Order.parse(json.dumps(document))
    assert (from_file.value.code, from_file.value.details) == (code, from_document.value.details)


@pytest.mark.parametrize(
    ("changes", "code", "place"),
    [
        ({"customer": "C1"}, "ORDER_WRONG_TYPE", "customer"),
        ({"customer__id": ABSENT}, "ORDER_MISSING_KEY", "customer.id"),
        ({"customer__id": "客户"}, "ORDER_REFERENCE", "customer.id"),
        ({"customer__name": "\u200b李四"}, "ORDER_TEXT_CHARACTER", "customer.name"),
        ({"order_no": "1"}, "ORDER_UNKNOWN_KEY", "order_no"),
        ({"amount": {"currency": "CNY", "value": "1.00"}}, "ORDER_UNKNOWN_KEY", "amount"),
        ({"bank__origin": "http://bank.example"}, "ORDER_ORIGIN", "bank.origin"),
    ],
)
def test_refused_in_a_login(changes: dict[str, Any], code: str, place: str) -> None:
    with pytest.raises(InputError) as refusal:
        Order.parse(as_json(make_login(**changes)))
    assert (refusal.value.code, refusal.value.place) == (code, place)


def test_what_was_found_is_said_in_words_of_json() -> None:
    found: dict[str, object] = {"null": None, "boolean": False, "number": 1, "array": [], "object": {}}
    for name, value in found.items():
        with pytest.raises(InputError) as refusal:
            Order.parse(as_json(make_payment(purpose=value)))
        assert refusal.value.details == {"place": "purpose", "expected": "string", "found": name}


@pytest.mark.parametrize("value", [("x",), b"x", {"x"}, type("Text", (str,), {})("x")])
def test_what_json_does_not_have_is_refused_too(value: object) -> None:
    with pytest.raises(InputError) as refusal:
        Order.from_json(make_payment(purpose=value))
    assert refusal.value.code == "ORDER_WRONG_TYPE"


def test_keys_are_strings() -> None:
    with pytest.raises(InputError) as refusal:
        Order.from_json(make_payment(payee={1: "x"}))
    assert (refusal.value.code, refusal.value.place) == ("ORDER_WRONG_TYPE", "payee.1")


def test_details_hold_no_values() -> None:
    canary = "CANARY-"
    for path in (
        "payee__account",
        "order_no",
        "bank__id",
        "bank__origin",
        "tx_id",
        "nonce",
        "amount__value",
        "created",
    ):
        with pytest.raises(InputError) as refusal:
            Order.from_json(make_payment(**{path: canary}))
        assert canary not in str(refusal.value.to_json())


# --- the texts --------------------------------------------------------------------------------------------------------


def codes_in_the_source() -> set[str]:
    folder = Path(ushield_hw.order.__path__[0])
    return {code for path in folder.glob("*.py") for code in re.findall(r'"(ORDER_[A-Z_0-9]+)"', path.read_text())}


@pytest.mark.parametrize("lang", messages.LANGUAGES)
def test_every_code_has_a_sentence_and_a_remedy(lang: messages.Language) -> None:
    codes = codes_in_the_source()
    assert len(codes) > 35
    assert [code for code in sorted(codes) if not messages.known(code, lang)] == []
    assert [code for code in sorted(codes) if not messages.known(f"{code}.remedy", lang)] == []


@pytest.mark.parametrize("lang", messages.LANGUAGES)
@pytest.mark.parametrize(
    ("changes", "code", "place"), {code: (changes, code, at) for changes, code, at in ROWS}.values()
)
def test_sentences_have_all_they_need(changes: dict[str, Any], code: str, place: str, lang: messages.Language) -> None:
    with pytest.raises(InputError) as refusal:
        Order.from_json(make_payment(**changes))
    messages.set_language(lang)
    try:
        words = refusal.value.message + refusal.value.remedy
    finally:
        messages.set_language(None)
    assert "{" not in words
    assert code not in words
    assert place in words
