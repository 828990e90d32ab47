"""Screen lines of an order, and the conversion from lines back to values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ushield_hw import messages
from ushield_hw.order.order import Order, kind_of
from ushield_hw.order.schema import OrderType, Shown
from ushield_hw.order.values import Rule


class Line(NamedTuple):
    """One line of a screen.

    Attributes:
        label: The label.
        value: The signed value, whole; only times are reformatted for display.
    """

    label: str
    value: str


def lines_of(order: Order, lang: messages.Language) -> tuple[Line, ...]:
    """Return the screen lines of an order, the most important for comparison first.

    Args:
        order: The order.
        lang: The language of the labels.
    """
    rules = kind_of(order.type).rules
    return tuple(
        Line(messages.text(shown.label, lang), _value(shown, order, rules, lang)) for shown in screen_of(order)
    )


def screen_of(order: Order) -> tuple[Shown, ...]:
    """Return the lines of the type's screen table whose values the order has.

    Args:
        order: The order.
    """
    return tuple(
        shown for shown in kind_of(order.type).screen if all(order.get(place) is not None for place in shown.places)
    )


def values_of(kind: OrderType, lines: Iterable[tuple[str, str]], lang: messages.Language) -> dict[str, str] | None:
    """Return the values that screen lines show, or None if a line does not belong to the type.

    The result is not verified: encode the order's lines again and compare.

    Args:
        kind: The type of the order.
        lines: Labels and values.
        lang: The language of the labels.

    Returns:
        The values by place.
    """
    by_label = {messages.text(shown.label, lang): shown for shown in kind.screen}
    rules = kind.rules
    values: dict[str, str] = {}
    for label, text in lines:
        shown = by_label.get(label)
        found = _pattern(shown, rules).fullmatch(text) if shown else None
        if shown is None or found is None:
            return None
        values |= {place: rules[place].read(part) for place, part in zip(shown.places, found.groups(), strict=True)}
    return values


def _value(shown: Shown, order: Order, rules: dict[str, Rule], lang: messages.Language) -> str:
    if shown.text is not None:
        return messages.text(shown.text, lang)
    return " ".join(rules[place].shown(order[place]) for place in shown.places)


def _pattern(shown: Shown, rules: dict[str, Rule]) -> re.Pattern[str]:
    """Return the pattern of a line's text, with one group per place; at most one of the values may contain spaces."""
    if shown.text is not None:
        return re.compile(".*")
    if len(shown.places) == 1:
        return re.compile("(.+)")
    return re.compile(" ".join("(.+)" if rules[place].spaced else "([^ ]+)" for place in shown.places))
