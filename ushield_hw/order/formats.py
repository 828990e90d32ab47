"""Message formats: the encoding of an order for the token, and its decoding from what was signed.

``jcs`` and ``xml-tdm`` are built in. A package adds its bank's own format by registering a :class:`MessageFormat`
object in the entry-point group ``ushield_hw.message_formats``, under the format's name.
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
    """An encoding of orders as bytes for a token; the bytes contain the whole order.

    ``parse(encode(order, lang), rules)`` returns ``order`` in every language, and ``parse`` refuses all other bytes.
    """

    @property
    def name(self) -> str:
        """The name used in display profiles."""
        ...

    @property
    def starts(self) -> bytes:
        """The first bytes of every message in this format; they distinguish the formats."""
        ...

    def encode(self, order: Order, lang: Language) -> bytes:
        """Return the exact bytes that the token receives.

        Args:
            order: The order.
            lang: The language of the labels, if the format has any.
        """
        ...

    def parse(self, content: bytes, rules: Rules) -> Order:
        """Return the order that a message encodes.

        Args:
            content: The message.
            rules: What may differ between installations.

        Raises:
            InputError: The message is not the encoding of an order.
        """
        ...


class Jcs:
    """``jcs``: the order's canonical bytes (RFC 8785)."""

    name = "jcs"
    starts = b"{"

    def encode(self, order: Order, lang: Language) -> bytes:
        """Return the canonical bytes; they contain no labels."""
        return order.canonical

    def parse(self, content: bytes, rules: Rules) -> Order:
        """Return the order with these canonical bytes.

        Raises:
            InputError: ``ORDER_NOT_CANONICAL``: it is an order in another form; and as for ``Order.parse``.
        """
        order = Order.parse(content, rules=rules)
        if order.canonical != content:
            raise _not_canonical(self)
        return order


_BUILT_IN: Final[dict[str, MessageFormat]] = {built_in.name: built_in for built_in in (Jcs(), XmlTdm())}


def message_format(name: str) -> MessageFormat:
    """Return the message format with a name.

    Args:
        name: The name, as used in display profiles.

    Raises:
        InputError: ``ORDER_FORMAT_UNKNOWN``: it is neither built in nor installed.
    """
    found = _BUILT_IN.get(name) or next((added for added in _added() if added.name == name), None)
    if found is None:
        raise InputError("ORDER_FORMAT_UNKNOWN", place=ORDER, format=name, known=tuple(_BUILT_IN))
    return found


def decode(content: bytes, *, rules: Rules = STRICT) -> tuple[str, Order]:
    """Detect the format of a message and decode it.

    Args:
        content: Exactly the bytes that a token signed.
        rules: What may differ between installations.

    Returns:
        The name of the format, and the order.

    Raises:
        InputError: ``ORDER_FORMAT_UNRECOGNISED``: no format begins like this. Otherwise the error of the first format
            that does.
    """
    refusals = []
    for candidate in _candidates(content):
        try:
            return candidate.name, _parsed(candidate, content, rules)
        except InputError as refusal:
            refusals.append(refusal)
    raise refusals[0] if refusals else InputError("ORDER_FORMAT_UNRECOGNISED", place=ORDER)


def _candidates(content: bytes) -> Iterator[MessageFormat]:
    """Yield the formats to try, the built-in ones first, so that no other format can claim their messages."""
    yield from (built_in for built_in in _BUILT_IN.values() if content.startswith(built_in.starts))
    yield from (added for added in _added() if content.startswith(added.starts))


def _parsed(found: MessageFormat, content: bytes, rules: Rules) -> Order:
    """Parse a message; for formats that are not built in, check that the order encodes to the same bytes."""
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
    except Exception as error:  # importing another package may raise any exception
        return _Broken(entry.name, error)
    return found


class _Broken:
    """Stands for an installed format that cannot be loaded: it raises an error when it is used."""

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
