"""Tests of a program that signs, with tokens that exist only in the test; for CI: ``pytest test_payments.py``."""

import json
import secrets
import uuid
from datetime import UTC, datetime, timedelta

import pytest

import ushield_hw as us
from ushield_hw.testing.shield import VirtualShield
from ushield_hw.testing.softtoken import SoftToken


class Clerk(us.Silent):
    """Stands for your program's user: knows the PIN, and agrees to every order."""

    def __init__(self, pin: str) -> None:
        self._pin = pin

    def request_pin(self, ask: us.PinRequest) -> str | None:
        return self._pin

    def confirm_order(self, ask: us.ConfirmRequest) -> bool:
        return True

    def compare_on_token(self, ask: us.ConfirmRequest) -> None:
        """The user compares the token's screen; see ``virtual_shield.screen()``."""


@pytest.fixture
def order() -> us.Order:
    now = datetime.now(UTC)
    document = {
        "type": "ushield.payment/1",
        "bank": {"id": "demo-bank", "origin": "https://bank.example"},
        "tx_id": str(uuid.uuid4()),
        "order_no": "TB0001",
        "payer": {"account": "6222020200012345678"},
        "payee": {
            "name": "杭州某某网络有限公司",
            "account": "1202021409900012345",
            "bank": {"name": "中国工商银行", "cnaps": "102100099996"},
        },
        "amount": {"currency": "CNY", "value": "128.50"},
        "purpose": "网上购物",
        "created": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "expires": f"{now + timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}",
        "nonce": secrets.token_urlsafe(32),
    }
    return us.Order.parse(json.dumps(document).encode())


def test_an_order_is_signed(soft_token: SoftToken, order: us.Order) -> None:
    with us.find_token(soft_token.uri).open(Clerk(soft_token.pin)) as session:
        signed = us.sign(order, session)
    trust = us.TrustStore.from_files([soft_token.ca_pem])
    assert us.verify(signed.der, trust=trust, expected=order).order == order


def test_the_customer_presses_ok(virtual_shield: VirtualShield, order: us.Order) -> None:
    virtual_shield.answer("ok", after_s=0.2)
    with us.find_token(virtual_shield.uri).open(Clerk(virtual_shield.pin)) as session:
        signed = us.sign(order, session)
    us.verify(signed.der, trust=us.TrustStore.from_files([virtual_shield.ca_pem]), expected=order)
    assert virtual_shield.signatures == 1  # counted by the card


def test_the_customer_presses_cancel(virtual_shield: VirtualShield, order: us.Order) -> None:
    virtual_shield.answer("refuse", after_s=0.2)
    with us.find_token(virtual_shield.uri).open(Clerk(virtual_shield.pin)) as session:
        with pytest.raises(us.errors.ConfirmationRejected):
            us.sign(order, session)
    assert virtual_shield.signatures == 0
