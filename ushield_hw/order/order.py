"""The order: what a bank asks a customer to sign. Immutable, and valid once constructed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Self

from ushield_hw.errors import InputError
from ushield_hw.order.document import canonical, check_size, read
from ushield_hw.order.login import LOGIN
from ushield_hw.order.payment import PAYMENT
from ushield_hw.order.renewal import RENEWAL
from ushield_hw.order.schema import OrderType, nested, type_name
from ushield_hw.order.times import time_text
from ushield_hw.order.use import KeyUse
from ushield_hw.order.values import STRICT, Rules, time_of

TYPES: Final[dict[str, OrderType]] = {kind.name: kind for kind in (PAYMENT, LOGIN, RENEWAL)}

_LARGEST: Final = max(kind.most_bytes for kind in TYPES.values())
_EARLY: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Order:
    """A valid order. Make one with :meth:`parse` or :meth:`from_json`.

    Two orders are equal if their canonical bytes are equal, whatever the layout of their files.

    Attributes:
        canonical: The RFC 8785 form; with the message format ``jcs``, the bytes that are signed.
    """

    _values: dict[str, str] = field(compare=False)
    _created: datetime = field(compare=False)
    _expires: datetime = field(compare=False)
    canonical: bytes

    def __init__(self) -> None:
        raise TypeError("an order is made by Order.parse or Order.from_json")

    @classmethod
    def parse(cls, data: bytes | str, *, rules: Rules = STRICT) -> Self:
        """Parse and validate an order file.

        Args:
            data: JSON, in any layout; bytes are UTF-8 without byte order mark.
            rules: What may differ between installations.

        Returns:
            The order.

        Raises:
            InputError: ``ORDER_…``, with ``place``: the dotted path of the invalid value.
        """
        found = read(data, longest=_LARGEST)
        check_size(data, kind_of(type_name(found)).most_bytes)
        return cls._made(found, rules)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], *, rules: Rules = STRICT) -> Self:
        """Validate a document as returned by ``json.loads``.

        Args:
            document: The order's document.
            rules: What may differ between installations.

        Returns:
            The order.

        Raises:
            InputError: As for :meth:`parse`.
        """
        return cls._made(document, rules)

    @classmethod
    def _made(cls, found: object, rules: Rules) -> Self:
        kind = kind_of(type_name(found))
        values: dict[str, str] = {}
        kind.top.take(found, "", rules, values)
        made = object.__new__(cls)
        object.__setattr__(made, "_values", values)
        object.__setattr__(made, "_created", time_of(values["created"]))
        object.__setattr__(made, "_expires", time_of(values["expires"]))
        object.__setattr__(made, "canonical", canonical(nested(values)))
        return made

    @property
    def type(self) -> str:
        """The name of the order's type, such as ``ushield.payment/1``."""
        return self["type"]

    @property
    def bank_id(self) -> str:
        """The short name of the bank that issued the order."""
        return self["bank.id"]

    @property
    def origin(self) -> str:
        """The bank's web origin."""
        return self["bank.origin"]

    @property
    def tx_id(self) -> str:
        """The transaction id: a UUID in lower case."""
        return self["tx_id"]

    @property
    def order_no(self) -> str | None:
        """The order number of the shop or the bank; None if the type has none."""
        return self.get("order_no")

    @property
    def created(self) -> datetime:
        """When the bank made the order (UTC)."""
        return self._created

    @property
    def expires(self) -> datetime:
        """When the order expires (UTC); it must not be signed at or after this time."""
        return self._expires

    @property
    def purpose_of_key(self) -> KeyUse:
        """The use that the signing key must have."""
        return kind_of(self.type).key_use

    @property
    def canonical_sha256(self) -> str:
        """The SHA-256 of the canonical bytes, in lower-case hex."""
        return hashlib.sha256(self.canonical).hexdigest()

    @property
    def values(self) -> Mapping[str, str]:
        """All values by place (``payee.bank.name``), in document order. A copy."""
        return dict(self._values)

    def get(self, place: str) -> str | None:
        """Return the value at a place, or None.

        Args:
            place: The dotted path of the value's key.
        """
        return self._values.get(place)

    def __getitem__(self, place: str) -> str:
        return self._values[place]

    def to_json(self) -> dict[str, Any]:
        """Return the document, with its keys in the order in which the type declares them."""
        return nested(self.values)

    def check_live(self, now: datetime) -> None:
        """Raise an error unless the order may be signed at a time.

        Args:
            now: A timezone-aware time.

        Raises:
            InputError: ``ORDER_EXPIRED`` from ``expires`` on; ``ORDER_NOT_YET_VALID`` if ``created`` is more than 60 s
                after ``now``, which means that one of the two clocks is wrong.
        """
        if now >= self.expires:
            raise InputError("ORDER_EXPIRED", place="expires", expires=self["expires"], now=time_text(now))
        if self.created - now > _EARLY:
            raise InputError("ORDER_NOT_YET_VALID", place="created", created=self["created"], now=time_text(now))

    def differences(self, other: Order) -> tuple[str, ...]:
        """Return the places at which two orders differ, including places that only one of them has.

        Args:
            other: The order to compare with.
        """
        mine, theirs = self.values, other.values
        return tuple(place for place in {**mine, **theirs} if mine.get(place) != theirs.get(place))

    def __repr__(self) -> str:
        return f"<Order {self.type} {self.tx_id}>"  # no names or accounts: the repr is logged


def kind_of(name: str) -> OrderType:
    """Return the order type with a name.

    Args:
        name: The value of ``type``.

    Raises:
        InputError: ``ORDER_TYPE``: there is no such type.
    """
    kind = TYPES.get(name)
    if kind is None:
        raise InputError("ORDER_TYPE", place="type", known=tuple(TYPES))
    return kind
