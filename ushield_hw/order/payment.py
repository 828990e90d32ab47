"""``ushield.payment/1``: pay one payee.

::

    {"type": "ushield.payment/1",
     "bank": {"id": "demo-bank", "origin": "https://bank.example"},
     "tx_id": "3b241101-e2bb-4255-8caf-4136c566a962",
     "order_no": "TB20261124-0001",
     "payer": {"account": "6222020200012345678"},                                    optional: "name"
     "payee": {"name": "杭州某某网络有限公司", "account": "1202021409900012345",
               "bank": {"name": "中国工商银行", "cnaps": "102100099996"}},            or "bic"
     "amount": {"currency": "CNY", "value": "128.50"},
     "purpose": "网上购物",
     "created": "2026-11-24T02:00:00Z", "expires": "2026-11-24T02:05:00Z",
     "nonce": "…43 characters…"}

The fields map one to one to ISO 20022 credit transfers: ``tx_id`` is the UETR, ``order_no`` the
EndToEndIdentification, ``purpose`` the unstructured remittance information.
"""

from __future__ import annotations

from typing import Final

from ushield_hw.order.envelope import BANK_LINE, EXPIRES_LINE, envelope
from ushield_hw.order.schema import Field, Group, OrderType, Shown
from ushield_hw.order.use import KeyUse
from ushield_hw.order.values import ACCOUNT, AMOUNT, BIC, CNAPS, CURRENCY, REFERENCE, TEXT, check_amount

_PAYEE_BANK: Final = Group(
    "bank",
    (Field("name", TEXT), Field("cnaps", CNAPS, required=False), Field("bic", BIC, required=False)),
    one_of=("cnaps", "bic"),
)

PAYMENT: Final = OrderType(
    "ushield.payment/1",
    KeyUse.PAYMENT,
    envelope(
        Field("order_no", REFERENCE),
        Group("payer", (Field("account", ACCOUNT), Field("name", TEXT, required=False))),
        Group("payee", (Field("name", TEXT), Field("account", ACCOUNT), _PAYEE_BANK)),
        Group("amount", (Field("currency", CURRENCY), Field("value", AMOUNT)), check=check_amount),
        Field("purpose", TEXT),
    ),
    screen=(
        Shown("screen.payee_name", ("payee.name",)),
        Shown("screen.payee_account", ("payee.account",)),
        Shown("screen.amount", ("amount.currency", "amount.value")),
        Shown("screen.payee_bank_cnaps", ("payee.bank.name", "payee.bank.cnaps")),
        Shown("screen.payee_bank_bic", ("payee.bank.name", "payee.bank.bic")),
        Shown("screen.payer_account", ("payer.account",)),
        Shown("screen.payer_name", ("payer.name",)),
        Shown("screen.purpose", ("purpose",)),
        Shown("screen.order_no", ("order_no",)),
        BANK_LINE,
        EXPIRES_LINE,
    ),
)
