"""Message formats: how an order is written for the token, and read back from what was signed.

``jcs`` and ``xml-tdm`` are built in. A package adds its bank's own by naming an object that is a
:class:`MessageFormat` in the entry-point group ``ushield_hw.message_formats``, under the format's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Final, Protocol

from ushield_hw.errors import InputError
from ushield_hw.messages import LANGUAGES, Language
from ushield_hw.order.document import ORDER
from ushield_hw.order.order import Order
from ushield_hw.order.values import STRICT, Rules
from ushield_hw.order.xml_tdm import XmlTdm

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP: Final = "ushield_hw.message_formats"


class MessageFormat(Protocol):
    """One way of writing orders as bytes for a token; the bytes hold the whole order.

    ``parse(encode(order, lang), rules)`` is ``order`` in every language, and ``parse`` refuses all other bytes.
    """

    @property
    def name(self) -> str:
        """What a display profile calls it."""
        ...

    @property
    def starts(self) -> bytes:
        """What every message of the format begins with; tells the formats apart."""
        ...

    def encode(self, order: Order, lang: Language) -> bytes:
        """Return exactly what the token receives, with labels, if the format has any, in ``lang``."""
        ...

    def parse(self, content: bytes, rules: Rules) -> Order:
        """Return the order, or raise ``InputError``."""
        ...


class Jcs:
    """``jcs``: the order's canonical bytes (RFC 8785)."""

    name = "jcs"
    starts = b"{"

    def encode(self, order: Order, lang: Language) -> bytes:
        """Return the canonical bytes; they hold no labels."""
        return order.canonical

    def parse(self, content: bytes, rules: Rules) -> Order:
        """Return the order of canonical bytes.

        Raises:
            InputError: ``ORDER_NOT_CANONICAL``: the same order, written otherwise; and as ``Order.parse``.
        """
        order = Order.parse(content, rules=rules)
        if order.canonical != content:
            raise _not_canonical(self)
        return order


_BUILT_IN: Final[dict[str, MessageFormat]] = {built_in.name: built_in for built_in in (Jcs(), XmlTdm())}


def message_format(name: str) -> MessageFormat:
    """Return the format that a display profile calls ``name``.

    Raises:
        InputError: ``ORDER_FORMAT_UNKNOWN``: neither built in nor installed.
    """
    found = _BUILT_IN.get(name) or next((added for added in _added() if added.name == name), None)
    if found is None:
        raise InputError("ORDER_FORMAT_UNKNOWN", place=ORDER, format=name, known=tuple(_BUILT_IN))
    return found


def decode(content: bytes, *, rules: Rules = STRICT) -> tuple[str, Order]:
    """Return the name of the format that ``content`` is in, and its order.

    Args:
        content: what a token signed, to the last byte.
        rules: what may differ from one installation to another.

    Raises:
        InputError: ``ORDER_FORMAT_UNRECOGNISED``: no format begins like this; otherwise what the first one that does
            refused.
    """
    refusals = []
    for candidate in _candidates(content):
        try:
            return candidate.name, _parsed(candidate, content, rules)
        except InputError as refusal:
            refusals.append(refusal)
    raise refusals[0] if refusals else InputError("ORDER_FORMAT_UNRECOGNISED", place=ORDER)


def _candidates(content: bytes) -> Iterator[MessageFormat]:
    """Yield the formats to try: the built-in ones first, so that no other can take a message of theirs."""
    yield from (built_in for built_in in _BUILT_IN.values() if content.startswith(built_in.starts))
    yield from (added for added in _added() if content.startswith(added.starts))


def _parsed(found: MessageFormat, content: bytes, rules: Rules) -> Order:
    """Parse, and hold formats from elsewhere to the promise that the built-in ones keep."""
    order = found.parse(content, rules)
    if found.name not in _BUILT_IN and content not in (found.encode(order, lang) for lang in LANGUAGES):
        raise _not_canonical(found)
    return order


def _not_canonical(found: MessageFormat) -> InputError:
    return InputError("ORDER_NOT_CANONICAL", place=ORDER, format=found.name)


@cache
def _added() -> tuple[MessageFormat, ...]:
    from importlib.metadata import entry_points  # slow, and most installations add nothing

    found = (_loaded(entry) for entry in entry_points(group=GROUP))
    return tuple(added for added in found if added.name not in _BUILT_IN)


def _loaded(entry: EntryPoint) -> MessageFormat:
    try:
        found: MessageFormat = entry.load()
        _ = found.name, found.starts
    except Exception as error:  # whatever another's package does when it is imported
        return _Broken(entry.name, error)
    return found


class _Broken:
    """Stands for an installed format that cannot be loaded: it says so to whoever needs it."""

    starts = b""

    def __init__(self, name: str, error: Exception) -> None:
        self.name = name
        self._error = error

    def encode(self, order: Order, lang: Language) -> bytes:
        raise self._refusal() from self._error

    def parse(self, content: bytes, rules: Rules) -> Order:
        raise self._refusal() from self._error

    def _refusal(self) -> InputError:
        return InputError("ORDER_FORMAT_BROKEN", place=ORDER, format=self.name, reason=repr(self._error))
