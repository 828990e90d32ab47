"""The fields that all orders share: the bank, the transaction id, and the time in which the order may be signed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from ushield_hw.errors import InputError
from ushield_hw.order.schema import Field, Group, Shown, join
from ushield_hw.order.values import BANK_ID, NONCE, ORIGIN, TIME, TX_ID, TYPE, time_of

LONGEST_LIFE: Final = timedelta(hours=24)
"""The maximum time from ``created`` to ``expires``."""

BANK_LINE: Final = Shown("screen.bank", ("bank.id", "bank.origin"))
EXPIRES_LINE: Final = Shown("screen.expires", ("expires",))


def envelope(*body: Field | Group) -> Group:
    """Return the document of an order type.

    Args:
        *body: The type's own fields.
    """
    head = (Field("type", TYPE), Group("bank", (Field("id", BANK_ID), Field("origin", ORIGIN))), Field("tx_id", TX_ID))
    tail = (Field("created", TIME), Field("expires", TIME), Field("nonce", NONCE))
    return Group("", (*head, *body, *tail), check=_check_times)


def _check_times(top: Mapping[str, str], place: str) -> None:
    life = time_of(top["expires"]) - time_of(top["created"])
    if life <= timedelta():
        raise InputError("ORDER_TIME_ORDER", place=join(place, "expires"))
    if life > LONGEST_LIFE:
        hours = int(LONGEST_LIFE.total_seconds()) // 3600
        raise InputError("ORDER_LIFE_TOO_LONG", place=join(place, "expires"), hours=hours)
