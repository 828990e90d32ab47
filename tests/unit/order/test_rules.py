"""Every rule of an order as a property, compared with an independent implementation of the rule.

Values are generated near the boundary: a valid value, or one with a character inserted, removed or changed.
"""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.order import strategies
from tests.unit.order.samples import BIC_BANK, make_payment, make_renewal
from ushield_hw.errors import InputError
from ushield_hw.order import Order
from ushield_hw.order.currency import DECIMAL_PLACES

pytestmark = pytest.mark.unit

DIGITS, CAPITALS, LETTERS = strategies.DIGITS, strategies.CAPITALS, strategies.LETTERS
# Confusable characters, in addition to those that occur in the rules.
CHARACTERS = st.sampled_from([*"09azAZ-._/:+@=%# ,\n\0", "０", "Ａ", "а", "٣", "\u2010", "é", "\u200b", "\ud800"])


@st.composite
def near(draw: st.DrawFn, right: st.SearchStrategy[str]) -> str:
    """Return a valid or nearly valid value."""
    value = draw(right)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(value)))
        value = value[:at] + draw(CHARACTERS | st.just("")) + value[at + draw(st.integers(0, 1)) :]
    return value


def accepted(place: str, value: object, document: dict[str, Any] | None = None) -> bool:
    """Tell whether a payment with this value is accepted; if not, the error must name that value."""
    changed = make_payment(**{place.replace(".", "__"): value}) if document is None else document
    try:
        order = Order.from_json(changed)
    except InputError as refusal:
        assert refusal.place == place, refusal.code
        return False
    assert order[place] == value
    return True


# --- the rules without regular expressions ----------------------------------------------------------------------------


def only(value: str, *allowed: str) -> bool:
    return set(value) <= set("".join(allowed))


def is_account(value: str) -> bool:
    parts = value.split("-")
    return all(parts) and only("".join(parts), DIGITS, CAPITALS) and len("".join(parts)) <= 34


def is_reference(value: str) -> bool:
    marks = "-._/:+"
    words = "".join(" " if c in marks else c for c in value).split(" ")
    return (
        len(value) <= 35
        and all(words)
        and only(value.translate({ord(c): None for c in marks}), DIGITS, LETTERS, CAPITALS)
    )


def is_bank_id(value: str) -> bool:
    return len(value) <= 35 and all(value.split("-")) and only(value, DIGITS, LETTERS, "-")


def is_origin(value: str) -> bool:
    host = value.removeprefix("https://")
    labels = host.split(".")
    return (
        host != value
        and len(host) <= 253
        and len(labels) >= 2
        and all(0 < len(label) <= 63 and only(label, DIGITS, LETTERS, "-") for label in labels)
        and not any(label.startswith("-") or label.endswith("-") for label in labels)
        and labels[-1][0] in LETTERS
    )


def is_tx_id(value: str) -> bool:
    try:
        read = uuid.UUID(value)
    except ValueError:
        return False
    return str(read) == value and read.version == 4


def is_nonce(value: str) -> bool:
    try:
        raw = base64.b64decode(value.encode("ascii") + b"=", altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        return False
    return len(raw) == 32 and base64.urlsafe_b64encode(raw).decode().rstrip("=") == value


def is_cnaps(value: str) -> bool:
    return len(value) == 12 and only(value, DIGITS)


def is_bic(value: str) -> bool:
    return len(value) in (8, 11) and only(value, DIGITS, CAPITALS) and only(value[4:6], CAPITALS)


def is_time(value: str) -> bool:
    try:
        read = datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return False
    return read.isoformat() + "Z" == value


def is_amount(value: str, currency: str) -> bool:
    try:
        read = Decimal(value)
    except (InvalidOperation, UnicodeEncodeError):
        return False
    places = DECIMAL_PLACES[currency]
    return read.is_finite() and read > 0 and f"{read:.{places}f}" == value and sum(c.isdigit() for c in value) <= 18


long = st.sampled_from(["1" * length for length in (33, 34, 35, 36)])
almost_uuids = st.builds(
    lambda one, version, variant: f"{str(one)[:14]}{version}{str(one)[15:19]}{variant}{str(one)[20:]}",
    st.uuids(version=4),
    st.sampled_from("345"),
    st.sampled_from("789abc"),
)
almost_nonces = st.builds(lambda one, last: one[:-1] + last, strategies.nonces, st.sampled_from("AB489bcw-_"))
long_hosts = st.integers(60, 66).map(lambda length: "a" * length + ".example")
bics = st.from_regex(r"[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}([A-Z0-9]{3})?", fullmatch=True)
FORMS: list[tuple[str, st.SearchStrategy[str], Callable[[str], bool]]] = [
    ("payee.account", strategies.accounts | long, is_account),
    ("payer.account", strategies.accounts, is_account),
    ("order_no", strategies.references | long, is_reference),
    ("bank.id", strategies.bank_ids | long, is_bank_id),
    ("bank.origin", (strategies.hosts | long_hosts).map("https://{}".format), is_origin),
    ("tx_id", st.uuids(version=4).map(str) | almost_uuids, is_tx_id),
    ("nonce", strategies.nonces | almost_nonces, is_nonce),
    ("payee.bank.cnaps", st.from_regex("[0-9]{11,13}", fullmatch=True), is_cnaps),
]


@pytest.mark.parametrize(("place", "right", "is_right"), FORMS, ids=[form[0] for form in FORMS])
@given(data=st.data())
def test_a_value_passes_exactly_when_its_form_is_right(
    place: str, right: st.SearchStrategy[str], is_right: Callable[[str], bool], data: st.DataObject
) -> None:
    value = data.draw(near(right))
    assert accepted(place, value) == is_right(value)


@pytest.mark.slow
@given(near(bics))
def test_a_bic_passes_exactly_when_its_form_is_right(value: str) -> None:
    document = make_payment(payee__bank={**BIC_BANK, "bic": value})
    assert accepted("payee.bank.bic", value, document) == is_bic(value)


HEX = "0123456789abcdef"


@given(near(st.integers(0, 2**168).map(lambda number: f"{number:x}")))
def test_a_serial_number_passes_exactly_when_a_certificate_can_have_it(value: str) -> None:
    right = only(value, HEX) and 1 <= len(value) <= 40 and value[0] != "0"
    assert accepted("certificate.serial", value, make_renewal(certificate__serial=value)) == right


@given(near(st.binary(min_size=32, max_size=32).map(bytes.hex)))
def test_a_digest_passes_exactly_when_it_is_one(value: str) -> None:
    right = only(value, HEX) and len(value) == 64
    assert accepted("certificate.sha256", value, make_renewal(certificate__sha256=value)) == right


@given(near(strategies.moments.map(lambda moment: moment.replace(microsecond=0).isoformat()[:19] + "Z")))
def test_a_time_passes_exactly_when_there_is_such_a_second(value: str) -> None:
    expires = datetime.fromisoformat(value[:19]) + timedelta(seconds=1) if is_time(value) else datetime.max
    document = make_payment(created=value, expires=expires.isoformat()[:19] + "Z")
    assert accepted("created", value, document) == is_time(value)


@given(
    strategies.moments.filter(lambda moment: moment.year > 1),
    st.sampled_from([0, 86_400]),
    st.integers(-9, 9),
)
def test_an_order_expires_after_it_was_created_and_within_a_day(created: datetime, edge: int, beside: int) -> None:
    seconds = edge + beside
    expires = created + timedelta(seconds=seconds)
    one, other = (moment.replace(microsecond=0).isoformat()[:19] + "Z" for moment in (created, expires))
    assert accepted("expires", other, make_payment(created=one, expires=other)) == (0 < seconds <= 86_400)


@given(strategies.amounts(), st.sampled_from(sorted(DECIMAL_PLACES)), st.data())
def test_an_amount_passes_exactly_when_it_can_be_paid(
    amount: dict[str, str], currency: str, data: st.DataObject
) -> None:
    code = data.draw(st.sampled_from([amount["currency"], currency]))
    places = DECIMAL_PLACES[code]
    digits = data.draw(
        st.sampled_from([places + 1, 6, 17, 18, 19]).flatmap(lambda n: st.text("019", min_size=n, max_size=n))
    )
    fitting = f"{digits[: len(digits) - places]}.{digits[len(digits) - places :]}".rstrip(".")
    value = data.draw(near(st.just(amount["value"])) | st.just(fitting))
    document = make_payment(amount={"currency": code, "value": value})
    assert accepted("amount.value", value, document) == is_amount(value, code)


@given(st.text(st.sampled_from(CAPITALS), min_size=3, max_size=3) | near(st.sampled_from(sorted(DECIMAL_PLACES))))
def test_a_currency_passes_exactly_when_it_is_listed(code: str) -> None:
    places = DECIMAL_PLACES.get(code, 2)
    document = make_payment(amount={"currency": code, "value": f"{Decimal(1):.{places}f}"})
    assert accepted("amount.currency", code, document) == (code in DECIMAL_PLACES)


# --- the schema is closed ---------------------------------------------------------------------------------------------

FEWER = settings(max_examples=50)  # generating a whole document takes time
OPTIONAL = {"payer.name", "customer.name", "replaces"}


def places(document: dict[str, Any], above: str = "") -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield each object in a document with each of its keys and the key's path."""
    for key, value in document.items():
        place = f"{above}.{key}" if above else key
        yield document, key, place
        if isinstance(value, dict):
            yield from places(value, place)


def refusal(content: str) -> tuple[str, object]:
    with pytest.raises(InputError) as caught:
        Order.parse(content)
    return caught.value.code, caught.value.place


@pytest.mark.slow
@FEWER
@given(strategies.documents, st.data())
def test_a_missing_key_is_named(document: dict[str, Any], data: st.DataObject) -> None:
    inner, key, place = data.draw(st.sampled_from(list(places(document))))
    del inner[key]
    if place in OPTIONAL:
        assert Order.parse(json.dumps(document))
    elif place in {"payee.bank.cnaps", "payee.bank.bic"}:
        assert refusal(json.dumps(document)) == ("ORDER_ONE_OF", "payee.bank")
    else:
        assert refusal(json.dumps(document)) == ("ORDER_MISSING_KEY", place)


@pytest.mark.slow
@FEWER
@given(strategies.documents, st.text(LETTERS + "_", min_size=1, max_size=8), st.data())
def test_an_unknown_key_is_named(document: dict[str, Any], key: str, data: st.DataObject) -> None:
    _, inner_key, place = data.draw(st.sampled_from(list(places(document))))
    inner = next(group for group, name, at in places(document) if at == place)
    known = {"name", "cnaps", "bic", *inner}
    if key in known:
        key = "x-" + key
    inner[key] = "x"
    assert refusal(json.dumps(document)) == ("ORDER_UNKNOWN_KEY", place[: len(place) - len(inner_key)] + key)


@pytest.mark.slow
@FEWER
@given(strategies.documents, st.data())
def test_a_repeated_key_is_named(document: dict[str, Any], data: st.DataObject) -> None:
    inner, key, place = data.draw(st.sampled_from(list(places(document))))
    value = data.draw(st.sampled_from([deepcopy(inner[key]), "x", None]))
    inner["@"] = value
    content = json.dumps(document).replace('"@"', json.dumps(key))
    assert refusal(content) == ("ORDER_DUPLICATE_KEY", place)


@pytest.mark.slow
@given(
    strategies.documents, st.none() | st.booleans() | st.integers() | st.floats() | st.just([]) | st.just({}), st.data()
)
def test_what_is_no_string_is_named(document: dict[str, Any], value: object, data: st.DataObject) -> None:
    leaves = [one for one in places(document) if isinstance(one[0][one[1]], str)]
    inner, key, place = data.draw(st.sampled_from(leaves))
    inner[key] = value
    assert refusal(json.dumps(document)) == ("ORDER_WRONG_TYPE", place)


@pytest.mark.slow
@FEWER
@given(strategies.documents, st.text(st.sampled_from(" \t\n\u3000\u00a0\u2003"), max_size=4), st.data())
def test_what_is_blank_is_named(document: dict[str, Any], blank: str, data: st.DataObject) -> None:
    leaves = [one for one in places(document) if isinstance(one[0][one[1]], str) and one[1] != "type"]
    inner, key, place = data.draw(st.sampled_from(leaves))
    inner[key] = blank
    assert refusal(json.dumps(document)) == ("ORDER_BLANK", place)


@given(st.integers(1, 40), st.booleans(), st.booleans())
def test_nesting_ends_at_eight(depth: int, objects: bool, closed: bool) -> None:
    opening, closing = ('{"a":', "}") if objects else ("[", "]")
    content = opening * depth + "1" + closing * (depth if closed else 0)
    assert (refusal(content)[0] == "ORDER_TOO_DEEP") == (depth > 8)
