"""Screen lines and pages: what the user compares before confirming, decoded only from the bytes that are signed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

from ushield_hw.errors import InputError
from ushield_hw.messages import Language
from ushield_hw.order.display import WIDEST, DisplayProfile
from ushield_hw.order.formats import decode
from ushield_hw.order.lines import Line, lines_of, screen_of
from ushield_hw.order.order import Order
from ushield_hw.order.values import STRICT, Rules

_WIDE: Final = frozenset("WFA")


def screen_lines(content: bytes, lang: Language, *, rules: Rules = STRICT) -> tuple[Line, ...]:
    """Return the screen lines of a message.

    Args:
        content: The bytes that are, or were, signed.
        lang: The language of the labels.
        rules: What may differ between installations.

    Raises:
        InputError: The bytes are not the encoding of an order.
    """
    return lines_of(decode(content, rules=rules)[1], lang)


def check_fits(order: Order, profile: DisplayProfile) -> None:
    """Raise an error unless the display can show every value whole; values are never cut off.

    Args:
        order: The order.
        profile: The display.

    Raises:
        InputError: ``ORDER_TEXT_TOO_LONG``, with ``place``, ``length`` and ``longest``.
    """
    if profile.max_text is None:
        return
    for place in (place for shown in screen_of(order) for place in shown.places):
        if len(order[place]) > profile.max_text:
            raise InputError("ORDER_TEXT_TOO_LONG", place=place, length=len(order[place]), longest=profile.max_text)


def pages(lines: Iterable[Line], profile: DisplayProfile) -> tuple[tuple[str, ...], ...]:
    """Lay out lines on screens of a display: label, then value, each wrapped; a line stays on one screen if it fits.

    Args:
        lines: The screen lines.
        profile: The display.

    Returns:
        The screens, each a tuple of rows. Joined, the rows are the labels and values, whole and in order.
    """
    screens: list[list[str]] = [[]]
    for line in lines:
        rows = [row for text in line for row in _wrapped(text, profile.columns)]
        if profile.rows is None:
            screens[-1] += rows
        else:
            _place(rows, screens, profile.rows)
    return tuple(tuple(screen) for screen in screens if screen)


def _place(rows: list[str], screens: list[list[str]], height: int) -> None:
    if len(screens[-1]) + len(rows) > height:
        screens.append([])
    for row in rows:
        if len(screens[-1]) == height:
            screens.append([])
        screens[-1].append(row)


def _wrapped(text: str, columns: int | None) -> Iterator[str]:
    if columns is None:
        yield text
        return
    row, used = "", 0
    for cluster in _clusters(text):
        width = _width(cluster)
        if used + width > columns:
            yield row
            row, used = "", 0
        row, used = row + cluster, used + width
    yield row


def _clusters(text: str) -> Iterator[str]:
    """Split text into characters, each with its combining marks."""
    cluster = ""
    for character in text:
        if cluster and not _stands_on(character):
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


def _stands_on(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Me")


def _width(cluster: str) -> int:
    """Return the number of columns. Ambiguous East Asian widths count as wide, so that no row is too long."""
    return WIDEST if unicodedata.east_asian_width(cluster[0]) in _WIDE else 1
