"""Order files: strict, bounded JSON; any input gives a valid order or an InputError."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.order.samples import as_json, make_payment
from tests.unit.order.strategies import documents
from ushield_hw.errors import InputError
from ushield_hw.order import Order
from ushield_hw.order.document import Number, read

pytestmark = pytest.mark.unit

LIMIT = 64 * 1024


def refused(data: bytes | str) -> InputError:
    with pytest.raises(InputError) as refusal:
        Order.parse(data)
    return refusal.value


def text(**changes: object) -> str:
    return as_json(make_payment(**changes)).decode()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "ORDER_NOT_JSON"),
        (b"{", "ORDER_NOT_JSON"),
        (b"not json", "ORDER_NOT_JSON"),
        (as_json(make_payment()) + b"{}", "ORDER_NOT_JSON"),
        (as_json(make_payment()) + b"\0", "ORDER_NOT_JSON"),
        (as_json(make_payment())[:-1] + b",}", "ORDER_NOT_JSON"),
        (b"// comment\n" + as_json(make_payment()), "ORDER_NOT_JSON"),
        (text().replace('"purpose"', "'purpose'"), "ORDER_NOT_JSON"),
        (text(purpose="a\tb").replace("\\t", "\t"), "ORDER_NOT_JSON"),
        (text().encode("utf-16"), "ORDER_NOT_UTF8"),
        (text().encode("gb18030"), "ORDER_NOT_UTF8"),
        (b"\xef\xbb\xbf" + as_json(make_payment()), "ORDER_NOT_UTF8"),
        ("\ufeff" + text(), "ORDER_NOT_UTF8"),
        (as_json(make_payment(purpose="X")).replace(b'"X"', b'"\xed\xa0\x80"'), "ORDER_NOT_UTF8"),
        (as_json(make_payment(purpose="X")).replace(b'"X"', b'"\xc0\xaf"'), "ORDER_NOT_UTF8"),
        (b"[]", "ORDER_WRONG_TYPE"),
        (b"null", "ORDER_WRONG_TYPE"),
        (b'"ushield.payment/1"', "ORDER_WRONG_TYPE"),
        (b"NaN", "ORDER_WRONG_TYPE"),
        (b"1" * 5000, "ORDER_WRONG_TYPE"),
        (b"[" * 9, "ORDER_TOO_DEEP"),
        (b"[" * 60_000, "ORDER_TOO_DEEP"),
        (b'{"a":' * 10_000, "ORDER_TOO_DEEP"),
    ],
)
def test_what_is_not_an_order_as_a_whole(data: bytes | str, code: str) -> None:
    refusal = refused(data)
    assert (refusal.code, refusal.place) == (code, "order")


def test_where_the_json_ends_is_said() -> None:
    refusal = refused('{\n "type": x}')
    assert (refusal.details["line"], refusal.details["column"]) == (2, 10)
    assert isinstance(refusal.__cause__, json.JSONDecodeError)


def test_where_utf8_ends_is_said() -> None:
    refusal = refused(b"{\xff}")
    assert refusal.details["position"] == 2
    assert isinstance(refusal.__cause__, UnicodeDecodeError)


@pytest.mark.parametrize("is_text", [True, False])
def test_size_is_limited_in_bytes(is_text: bool) -> None:
    data = as_json(make_payment())

    def padded(size: int) -> bytes | str:
        whole = data + b" " * (size - len(data))
        return whole.decode() if is_text else whole

    assert Order.parse(padded(LIMIT))
    refusal = refused(padded(LIMIT + 1))
    assert refusal.code == "ORDER_TOO_LARGE"
    assert refusal.details == {"place": "order", "size": LIMIT + 1, "longest": LIMIT}


def test_text_counts_as_its_utf8() -> None:
    assert refused("字" * (LIMIT // 3 + 1)).code == "ORDER_TOO_LARGE"
    assert refused("字" * (LIMIT // 3)).code == "ORDER_NOT_JSON"
    assert refused("\ud800" * (LIMIT // 3 + 1)).code == "ORDER_TOO_LARGE"


def test_brackets_in_strings_are_no_nesting() -> None:
    order = Order.parse(text(purpose="[" * 30 + "{" * 30 + '"\\"[' * 5))
    assert order["purpose"].count("[") == 35


def test_long_unterminated_strings_take_no_time() -> None:
    started = time.process_time()
    assert refused("[" + "[]," * 9 + '"' + '\\"' * 32_000).code == "ORDER_NOT_JSON"
    assert time.process_time() - started < 1


def test_numbers_are_not_computed() -> None:
    found = read("[1, 1e999999999, -0.0, NaN, -Infinity, 12345678901234567890]", longest=LIMIT)
    assert isinstance(found, list)
    assert {type(number) for number in found} == {Number}


@pytest.mark.parametrize("key", ["type", "purpose", "payee", "amount"])
def test_repeated_keys_are_refused_even_with_one_value(key: str) -> None:
    line = json.dumps({key: make_payment()[key]})[1:-1]
    refusal = refused("{" + line + "," + text()[1:])
    assert (refusal.code, refusal.place) == ("ORDER_DUPLICATE_KEY", key)


def test_repeated_keys_are_refused_inside_too() -> None:
    data = text().replace('"account": "1202', '"name": "别人", "account": "1202')
    refusal = refused(data)
    assert (refusal.code, refusal.place) == ("ORDER_DUPLICATE_KEY", "payee.name")


def test_an_escaped_key_is_the_same_key() -> None:
    data = text().replace('"account": "1202', '"n\\u0061me": "别人", "account": "1202')
    assert refused(data).code == "ORDER_DUPLICATE_KEY"


# --- fuzz -------------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def order_or_refusal(data: bytes | str) -> Order | None:
    try:
        order = Order.parse(data)
    except InputError as refusal:
        assert refusal.code.startswith("ORDER_")
        assert isinstance(refusal.place, str) and refusal.place
        assert refusal.message != refusal.code and refusal.remedy != f"{refusal.code}.remedy"
        json.dumps(refusal.to_json(), ensure_ascii=False).encode()
        return None
    assert Order.parse(order.canonical) == order
    return order


@given(st.binary(max_size=200))
def test_fuzz_bytes(data: bytes) -> None:
    order_or_refusal(data)


@given(st.text(max_size=200))
def test_fuzz_text(data: str) -> None:
    order_or_refusal(data)


@pytest.mark.slow
@given(json_values)
def test_fuzz_json(value: object) -> None:
    assert order_or_refusal(json.dumps(value)) is None


@pytest.mark.slow
@given(documents, st.data())
def test_fuzz_one_value_replaced(document: dict[str, Any], data: st.DataObject) -> None:
    inner = document
    key = data.draw(st.sampled_from(sorted(inner)))
    while isinstance(inner[key], dict) and data.draw(st.booleans()):
        inner = inner[key]
        key = data.draw(st.sampled_from(sorted(inner)))
    inner[data.draw(st.just(key) | st.text(max_size=9))] = data.draw(json_values)
    order_or_refusal(json.dumps(document))


@pytest.mark.slow
@given(documents, st.data())
def test_fuzz_bytes_replaced(document: dict[str, Any], data: st.DataObject) -> None:
    written = bytearray(as_json(document))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(written) - 1))
        written[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    order_or_refusal(bytes(written))


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=8) | st.integers(), json_values | st.binary(max_size=2), max_size=4))
def test_fuzz_documents(document: dict[Any, Any]) -> None:
    with pytest.raises(InputError):
        Order.from_json({"type": "ushield.payment/1", **document})
