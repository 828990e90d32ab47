"""Hypothesis strategies: valid orders of every shape, and text of every kind."""

from __future__ import annotations

import base64
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hypothesis import strategies as st

from ushield_hw.order import Order
from ushield_hw.order.currency import DECIMAL_PLACES

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
DIGITS: Final = "0123456789"
CAPITALS: Final = LETTERS.upper()

# Latin, Greek, Cyrillic, Arabic, Tibetan, Thai, Hangul, kana, ideographs of planes 0, 2 and 3, full-width forms…
_ALPHABET: Final = (
    "AZaz09 .,-'()&<>\"\\/éüßñΩЖя·中国工商银行某某張龘阿依古丽买提𠮷𪚥\U00020000\U0002ebf0\U00031350ＡＢ（）：　"
    "你好ﷲابتکཀཁกขค가힣あア㐀䶵€￥°²①☎̣̂"
)


def _is_valid(text: str) -> bool:
    spaces = (" ", "\u3000")
    run = 0
    for previous, character in zip(" " + text, text + " ", strict=True):
        if previous in spaces and character in spaces:
            return False
        run = run + 1 if unicodedata.category(character).startswith("M") else 0
        if run > 2:
            return False
    return bool(text) and len(text) <= 140


texts = (
    st.text(_ALPHABET, min_size=1, max_size=50).map(lambda text: unicodedata.normalize("NFC", text)).filter(_is_valid)
)
accounts = st.from_regex(r"[0-9A-Z](-?[0-9A-Z]){0,33}", fullmatch=True)
references = st.from_regex(r"[0-9A-Za-z]{1,5}([-._/:+][0-9A-Za-z]{1,5}){0,4}", fullmatch=True)
bank_ids = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,2}", fullmatch=True)
hosts = st.from_regex(r"([a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?\.){1,3}[a-z]{2,10}", fullmatch=True)
nonces = st.binary(min_size=32, max_size=32).map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("="))
moments = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 30), timezones=st.just(UTC))


@st.composite
def amounts(draw: st.DrawFn) -> dict[str, str]:
    currency = draw(st.sampled_from(sorted(DECIMAL_PLACES)))
    places = DECIMAL_PLACES[currency]
    minor = draw(st.integers(1, 10**18 - 1))
    whole, fraction = divmod(minor, 10**places)
    return {"currency": currency, "value": f"{whole}.{fraction:0{places}d}" if places else str(whole)}


@st.composite
def _envelopes(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    created = draw(moments)
    expires = created + timedelta(seconds=draw(st.integers(1, 86_400)))
    return {
        "type": kind,
        "bank": {"id": draw(bank_ids), "origin": "https://" + draw(hosts)},
        "tx_id": str(draw(st.uuids(version=4))),
        "created": _written(created),
        "expires": _written(expires),
        "nonce": draw(nonces),
    }


def _written(moment: datetime) -> str:
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _optional(value: st.SearchStrategy[str], key: str) -> st.SearchStrategy[dict[str, str]]:
    return st.one_of(st.just({}), st.builds(lambda text: {key: text}, value))


@st.composite
def payments(draw: st.DrawFn) -> dict[str, Any]:
    code = draw(
        st.one_of(
            st.from_regex(r"[0-9]{12}", fullmatch=True).map(lambda cnaps: {"cnaps": cnaps}),
            st.from_regex(r"[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}([A-Z0-9]{3})?", fullmatch=True).map(
                lambda bic: {"bic": bic}
            ),
        )
    )
    return {
        **draw(_envelopes("ushield.payment/1")),
        "order_no": draw(references),
        "payer": {"account": draw(accounts), **draw(_optional(texts, "name"))},
        "payee": {"name": draw(texts), "account": draw(accounts), "bank": {"name": draw(texts), **code}},
        "amount": draw(amounts()),
        "purpose": draw(texts),
    }


@st.composite
def logins(draw: st.DrawFn) -> dict[str, Any]:
    customer = {"id": draw(references), **draw(_optional(texts, "name"))}
    return {**draw(_envelopes("ushield.login/1")), "customer": customer}


@st.composite
def renewals(draw: st.DrawFn) -> dict[str, Any]:
    serials = st.integers(1, 2**160 - 1).map(lambda number: f"{number:x}")
    certificate = {
        "subject": draw(texts),
        "serial": draw(serials),
        "sha256": draw(st.binary(min_size=32, max_size=32)).hex(),
        "not_after": _written(draw(moments)),
    }
    replaces = draw(st.one_of(st.just({}), serials.map(lambda serial: {"replaces": {"serial": serial}})))
    return {**draw(_envelopes("ushield.renewal/1")), "certificate": certificate, **replaces}


documents = st.one_of(payments(), logins(), renewals())
orders = documents.map(Order.from_json)
