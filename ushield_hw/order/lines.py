"""Screen lines of an order, and the way back from lines to values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ushield_hw import messages
from ushield_hw.order.order import Order, kind_of
from ushield_hw.order.schema import OrderType, Shown
from ushield_hw.order.values import Rule


class Line(NamedTuple):
    """One line of a screen. ``value`` is what is signed, whole; only times are spelled for people."""

    label: str
    value: str


def lines_of(order: Order, lang: messages.Language) -> tuple[Line, ...]:
    """Return what a screen shows of ``order``, what a person must compare first."""
    rules = kind_of(order.type).rules
    return tuple(
        Line(messages.text(shown.label, lang), _value(shown, order, rules, lang)) for shown in screen_of(order)
    )


def screen_of(order: Order) -> tuple[Shown, ...]:
    """Return the lines of its type's table that ``order`` has."""
    return tuple(
        shown for shown in kind_of(order.type).screen if all(order.get(place) is not None for place in shown.places)
    )


def values_of(kind: OrderType, lines: Iterable[tuple[str, str]], lang: messages.Language) -> dict[str, str] | None:
    """Return the values that ``lines`` show by their places, or None where a line is none of this type.

    What comes back is only a reading: make the order's lines again and compare.
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
    """Return what a line's text looks like: a group a place; at most one of several places may hold spaces."""
    if shown.text is not None:
        return re.compile(".*")
    if len(shown.places) == 1:
        return re.compile("(.+)")
    return re.compile(" ".join("(.+)" if rules[place].spaced else "([^ ]+)" for place in shown.places))
