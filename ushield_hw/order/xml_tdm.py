"""The message format ``xml-tdm``: for tokens that parse XML, display the block D and sign the whole message.

::

    <?xml version="1.0" encoding="UTF-8"?><T>
    <D><M><k>收款人名称</k><v>杭州某某网络有限公司</v></M>…</D>      displayed: label and value
    <E><M><k>type</k><v>ushield.payment/1</v></M>…</E>          signed but not displayed: place and value
    </T>

without the white space. UTF-8; only ``&``, ``<`` and ``>`` are written as entities. The grammar is closed: a message
is refused unless it equals, byte for byte, the encoding of an order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ushield_hw.errors import InputError
from ushield_hw.messages import LANGUAGES, Language
from ushield_hw.order.document import ORDER, decoded
from ushield_hw.order.lines import lines_of, screen_of, values_of
from ushield_hw.order.order import Order, kind_of
from ushield_hw.order.schema import MOST_BYTES, OrderType, nested, printable
from ushield_hw.order.values import Rules

Items = list[tuple[str, str]]

_HEAD: Final = '<?xml version="1.0" encoding="UTF-8"?><T>'
_ITEM: Final = re.compile("<M><k>([^<>]*)</k><v>([^<>]*)</v></M>")
_BLOCK: Final = f"((?:{_ITEM.pattern.replace('(', '(?:')})*)"
_MESSAGE: Final = re.compile(rf"{re.escape(_HEAD)}<D>{_BLOCK}</D><E>{_BLOCK}</E></T>")
_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_CHARACTERS: Final = {entity: character for character, entity in _ENTITIES.items()}


class XmlTdm:
    """``xml-tdm``: XML with a block that the token displays and a block that it only signs."""

    name = "xml-tdm"
    starts = _HEAD.encode()

    def encode(self, order: Order, lang: Language) -> bytes:
        """Return the message for an order.

        Args:
            order: The order.
            lang: The language of the labels.
        """
        seen = {place for shown in screen_of(order) for place in shown.places}
        hidden = ((place, value) for place, value in order.values.items() if place not in seen)
        return f"{_HEAD}<D>{_written(lines_of(order, lang))}</D><E>{_written(hidden)}</E></T>".encode()

    def parse(self, content: bytes, rules: Rules) -> Order:
        """Return the order that a message encodes.

        Args:
            content: The message.
            rules: What may differ between installations.

        Raises:
            InputError: ``ORDER_MESSAGE_FORM`` or ``ORDER_NOT_CANONICAL``: it is not the encoding of an order; and as
                for ``Order.parse``.
        """
        found = _MESSAGE.fullmatch(decoded(content, longest=MOST_BYTES))
        if found is None:
            raise self._malformed()
        shown, hidden = _items(found[1]), dict(_items(found[2]))
        kind = kind_of(hidden.get("type", ""))
        lang, values = self._read(kind, shown)
        order = Order.from_json(nested(_known(kind, hidden) | values), rules=rules)
        if self.encode(order, lang) != content:
            raise InputError("ORDER_NOT_CANONICAL", place=ORDER, format=self.name)
        return order

    def _read(self, kind: OrderType, shown: Items) -> tuple[Language, dict[str, str]]:
        readings = ((lang, values_of(kind, shown, lang)) for lang in LANGUAGES)
        for lang, values in readings:
            if values is not None:
                return lang, values
        raise self._malformed()

    def _malformed(self) -> InputError:
        return InputError("ORDER_MESSAGE_FORM", place=ORDER, format=self.name)


def _written(items: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<M><k>{_escaped(key)}</k><v>{_escaped(value)}</v></M>" for key, value in items)


def _items(block: str) -> Items:
    return [(_unescaped(key), _unescaped(value)) for key, value in _ITEM.findall(block)]


def _escaped(text: str) -> str:
    return re.sub("[&<>]", lambda found: _ENTITIES[found[0]], text)


def _unescaped(text: str) -> str:
    return re.sub("&(?:amp|lt|gt);", lambda found: _CHARACTERS[found[0]], text)


def _known(kind: OrderType, hidden: dict[str, str]) -> dict[str, str]:
    rules = kind.rules
    for place in hidden:
        if place not in rules:
            raise InputError("ORDER_UNKNOWN_KEY", place=printable(place))
    return hidden
