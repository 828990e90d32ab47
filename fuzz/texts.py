"""Orders, messages, token URIs and descriptors: text written by users and banks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Final
from xml.etree import ElementTree

from fuzz.target import Mutate, Target, refused, seen
from tests.unit.order.samples import as_json, login, make_login, make_payment, payment
from ushield_hw.drivers.descriptor import parse as parse_descriptor
from ushield_hw.errors import DescriptorError, InputError
from ushield_hw.messages import LANGUAGES
from ushield_hw.order import Order, Rules
from ushield_hw.order.xml_tdm import XmlTdm
from ushield_hw.uri import TokenUri

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|<[^<>]*>|[^<>]+(?=</)|[\w.-]+|\s+|.', re.DOTALL)
_SECRET: Final = "918273"

STRICT: Final = Rules()


def order_one(data: bytes) -> None:
    """An accepted order equals its JSON and can be parsed again from its canonical bytes."""
    try:
        order = Order.parse(data)
    except InputError as error:
        refused(error, InputError)
        assert error.code.startswith("ORDER_") and error.place
        return
    seen["accepted"] += 1
    assert json.loads(data) == json.loads(order.canonical) == order.to_json()
    again = Order.parse(order.canonical)
    assert (again, again.canonical) == (order, order.canonical)


def message_one(data: bytes) -> None:
    """An accepted ``xml-tdm`` message is well-formed XML with the order's values, encoded in one of the languages."""
    try:
        order = XmlTdm().parse(data, STRICT)
    except InputError as error:
        refused(error, InputError)
        assert error.code.startswith("ORDER_") and error.place
        return
    seen["accepted"] += 1
    assert data in [XmlTdm().encode(order, lang) for lang in LANGUAGES]
    items = ElementTree.fromstring(data).iter("M")
    said = {item.findtext("k"): item.findtext("v") for item in items}
    assert order["payee.name" if order.type == "ushield.payment/1" else "customer.id"] in said.values()


def uri_one(data: bytes) -> None:
    """An accepted token URI survives printing and parsing; the error for a rejected one does not disclose its PIN."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        uri = TokenUri.parse(text)
    except InputError as error:
        refused(error, InputError)
        value = re.search("pin-value=([^;&]{4,})", text)
        told = error.message + error.remedy + repr(error.details)
        assert value is None or text.count(value[1]) > 1 or value[1] not in told
        return
    seen["accepted"] += 1
    assert TokenUri.parse(str(uri)) == uri
    assert str(uri).isascii()


def descriptor_one(data: bytes) -> None:
    """A descriptor is parsed, or rejected with the invalid key."""
    try:
        parse_descriptor(Path("softhsm2.toml"), data)
    except DescriptorError as error:
        refused(error, DescriptorError)
        return
    seen["accepted"] += 1


def _by_tokens(seeds: list[bytes], *words: bytes) -> Mutate:
    """Return a mutator that drops, duplicates, swaps and replaces the words of a text."""
    stock = [*words, *{token for seed in seeds for token in _TOKEN.findall(seed)}]

    def mutate(data: bytes, random: Random) -> bytes:
        tokens = _TOKEN.findall(data) or [b""]
        for _ in range(random.choice((1, 1, 2, 4))):
            _change(tokens, stock, random)
        return b"".join(tokens)

    return mutate


def _change(tokens: list[bytes], stock: list[bytes], random: Random) -> None:
    at, other = random.randrange(len(tokens)), random.randrange(len(tokens))
    match random.randrange(6):
        case 0:
            tokens.insert(at, tokens[other])
        case 1:
            tokens.insert(at, random.choice(stock))
        case 2:
            tokens[at] = random.choice(stock)
        case 3:
            tokens[at] = _edited(tokens[at], random)
        case 4:
            tokens[at : at + random.randint(1, 4)] = [b""]
        case _:
            tokens[at:at] = tokens[other : other + 5]


def _edited(token: bytes, random: Random) -> bytes:
    text = token.decode("utf-8", "replace")
    at = random.randint(0, len(text))
    come = random.choice(
        ("", "0", "9", "a", "Z", "-", ".", " ", "\u3000", "\u0301", "\u202e", "é", "龘", "&amp;", "\\u0041")
    )
    return (text[:at] + come + text[at + random.choice((0, 1)) :]).encode("utf-8", "surrogatepass")


_ORDERS: Final = [
    as_json(make_payment(payer__name="张三")),
    as_json(make_login(customer__name="李四")),
    payment().canonical,
    as_json(make_payment(amount={"currency": "JPY", "value": "100"}, payee__name="阿依古丽·买买提 \U00031350")),
]
_MESSAGES: Final = [
    XmlTdm().encode(order, lang)
    for lang in LANGUAGES
    for order in (payment(purpose="a & <b>"), login(customer__name="李四"), payment(payer__name="张三"))
]
_URIS: Final = [
    b"pkcs11:token=T%20k;manufacturer=M;serial=S;model=v2;id=%01%AB;object=o?module-path=/lib/p.so",
    b"pkcs11:library-manufacturer=M;library-version=2.6;type=private?module-name=softhsm2",
    f"pkcs11:serial=1?pin-value={_SECRET}".encode(),
]
_DESCRIPTORS: Final = [path.read_bytes() for path in sorted(Path("drivers").glob("*.toml"))]

TARGETS: Final = {
    "order": Target(
        _ORDERS,
        order_one,
        _by_tokens(_ORDERS, b"null", b"1.5", b"NaN", b"[[[[[[[[[", b'"\\ud800"', b'""', b"\xef\xbb\xbf"),
    ),
    "message": Target(_MESSAGES, message_one, _by_tokens(_MESSAGES, b"&amp;", b"&#65;", b"<!--x-->", b"<M>", b"]]>")),
    "uri": Target(_URIS, uri_one, _by_tokens(_URIS, b"%", b"%00", b"%FF", b"pin-source", b"slot-id", b"PKCS11:", b"?")),
    "descriptor": Target(
        _DESCRIPTORS,
        descriptor_one,
        _by_tokens(_DESCRIPTORS, b"nan", b"inf", b"-1", b"1979-05-27", b"[[x]]", b"''", b"true"),
    ),
}
