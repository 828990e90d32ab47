"""Sample orders.

::

    make_payment()                                      the document as returned by json.loads
    make_payment(purpose="学费", payee__name="张三")     with other values; ``__`` addresses a nested object
    make_payment(payee__bank__cnaps=ABSENT)             without a key
    payment(**live(now))                                a valid order that can be signed now
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ushield_hw.order import Order, Rules
from ushield_hw.order.values import STRICT

ABSENT: Final = object()

BIC_BANK: Final = {"name": "Deutsche Bank AG", "bic": "DEUTDEFF500"}


def make_payment(**changes: object) -> dict[str, Any]:
    """Return a valid payment document with changes."""
    document: dict[str, Any] = {
        "type": "ushield.payment/1",
        "bank": {"id": "demo-bank", "origin": "https://bank.example"},
        "tx_id": "3b241101-e2bb-4255-8caf-4136c566a962",
        "order_no": "TB20261124-0001",
        "payer": {"account": "6222020200012345678"},
        "payee": {
            "name": "杭州某某网络有限公司",
            "account": "1202021409900012345",
            "bank": {"name": "中国工商银行", "cnaps": "102100099996"},
        },
        "amount": {"currency": "CNY", "value": "128.50"},
        "purpose": "网上购物",
        "created": "2026-11-24T02:00:00Z",
        "expires": "2026-11-24T02:05:00Z",
        "nonce": "3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    }
    return changed(document, changes)


def make_login(**changes: object) -> dict[str, Any]:
    """Return a valid login document with changes."""
    document: dict[str, Any] = {
        "type": "ushield.login/1",
        "bank": {"id": "demo-bank", "origin": "https://bank.example"},
        "tx_id": "0d1f8f0e-6a43-4f5a-9d4b-2f0c1c9a7e11",
        "customer": {"id": "C10086"},
        "created": "2026-11-24T02:00:00Z",
        "expires": "2026-11-24T02:05:00Z",
        "nonce": "3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    }
    return changed(document, changes)


def make_renewal(**changes: object) -> dict[str, Any]:
    """Return a valid renewal document with changes."""
    document: dict[str, Any] = {
        "type": "ushield.renewal/1",
        "bank": {"id": "demo-bank", "origin": "https://bank.example"},
        "tx_id": "7c1f2f57-6d0b-4b5e-9f6a-0d6a4f1f6a10",
        "certificate": {
            "subject": "CN=张三,O=Demo Bank",
            "serial": "5f0c11",
            "sha256": "ab" * 32,
            "not_after": "2027-11-24T02:00:00Z",
        },
        "replaces": {"serial": "4a77"},
        "created": "2026-11-24T02:00:00Z",
        "expires": "2026-11-24T02:05:00Z",
        "nonce": "3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    }
    return changed(document, changes)


def payment(rules: Rules = STRICT, /, **changes: object) -> Order:
    """Return a valid payment order."""
    return Order.from_json(make_payment(**changes), rules=rules)


def login(**changes: object) -> Order:
    """Return a valid login order."""
    return Order.from_json(make_login(**changes))


def renewal(**changes: object) -> Order:
    """Return a valid renewal order."""
    return Order.from_json(make_renewal(**changes))


def live(now: datetime, *, minutes: int = 5) -> dict[str, str]:
    """Return the changes that make an order valid at ``now`` (aware)."""
    begin, end = (moment.astimezone(UTC) for moment in (now, now + timedelta(minutes=minutes)))
    form = "%Y-%m-%dT%H:%M:%SZ"
    return {"created": begin.strftime(form), "expires": end.strftime(form)}


def as_json(document: object) -> bytes:
    """Return a document as hand-formatted JSON."""
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def changed(document: dict[str, Any], changes: dict[str, object]) -> dict[str, Any]:
    """Return ``document`` with ``changes`` applied."""
    for path, value in changes.items():
        *groups, key = path.split("__")
        inner = document
        for group in groups:
            inner = inner[group]
        if value is ABSENT:
            del inner[key]
        else:
            inner[key] = value
    return document
