"""``ushield.login/1``: log in to the online bank.

::

    {"type": "ushield.login/1",
     "bank": {"id": "demo-bank", "origin": "https://bank.example"},
     "tx_id": "0d1f8f0e-6a43-4f5a-9d4b-2f0c1c9a7e11",
     "customer": {"id": "C10086"},                                                  optional: "name"
     "created": "2026-11-24T02:00:00Z", "expires": "2026-11-24T02:05:00Z",
     "nonce": "…43 characters…"}

The customer is identified by the bank's customer number and, optionally, the name. The screen first shows that this is
a login and not a payment, then the bank and the site that request it. Logins are signed with another key than payments,
so that a login cannot be used as a payment or the reverse.
"""

from __future__ import annotations

from typing import Final

from ushield_hw.order.envelope import BANK_LINE, EXPIRES_LINE, envelope
from ushield_hw.order.schema import Field, Group, OrderType, Shown
from ushield_hw.order.use import KeyUse
from ushield_hw.order.values import REFERENCE, TEXT

LOGIN: Final = OrderType(
    "ushield.login/1",
    KeyUse.LOGIN,
    envelope(Group("customer", (Field("id", REFERENCE), Field("name", TEXT, required=False)))),
    screen=(
        Shown("screen.operation", text="screen.login"),
        BANK_LINE,
        Shown("screen.customer_id", ("customer.id",)),
        Shown("screen.customer_name", ("customer.name",)),
        EXPIRES_LINE,
    ),
)
