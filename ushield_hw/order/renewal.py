"""``ushield.renewal/1``: activate a renewed certificate.

::

    {"type": "ushield.renewal/1",
     "bank": {"id": "demo-bank", "origin": "https://bank.example"},
     "tx_id": "7c1f2f57-6d0b-4b5e-9f6a-0d6a4f1f6a10",
     "certificate": {"subject": "CN=张三,O=Demo Bank", "serial": "5f0c…", "sha256": "…64 digits…",
                     "not_after": "2027-11-24T02:00:00Z"},
     "replaces": {"serial": "4a77…"},                                                optional
     "created": "2026-11-24T02:00:00Z", "expires": "2026-11-24T02:05:00Z",
     "nonce": "…43 characters…"}

The bank issues it once the new certificate is on the token. The new key signs it, which proves that the new pair works
before the old one is removed. Certificates for payments and for logins are renewed in this way.
"""

from __future__ import annotations

from typing import Final

from ushield_hw.order.envelope import BANK_LINE, EXPIRES_LINE, envelope
from ushield_hw.order.schema import Field, Group, OrderType, Shown
from ushield_hw.order.use import KeyUse
from ushield_hw.order.values import DIGEST, SERIAL, TEXT, TIME

RENEWAL: Final = OrderType(
    "ushield.renewal/1",
    KeyUse.RENEWAL,
    envelope(
        Group(
            "certificate",
            (Field("subject", TEXT), Field("serial", SERIAL), Field("sha256", DIGEST), Field("not_after", TIME)),
        ),
        Group("replaces", (Field("serial", SERIAL),), required=False),
    ),
    screen=(
        Shown("screen.operation", text="screen.renewal"),
        Shown("screen.certificate_subject", ("certificate.subject",)),
        Shown("screen.certificate_serial", ("certificate.serial",)),
        Shown("screen.certificate_until", ("certificate.not_after",)),
        Shown("screen.certificate_replaced", ("replaces.serial",)),
        BANK_LINE,
        EXPIRES_LINE,
    ),
)
