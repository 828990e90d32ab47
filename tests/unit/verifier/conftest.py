"""Fixtures: a bank that verifies, and its customer's signed order."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.unit.cms import pki
from tests.unit.cms.people import P256, Bank, make_bank
from tests.unit.order.samples import payment
from ushield_hw.order import Order
from ushield_hw.verifier import TrustStore

NOW = pki.NOW
DAY = pki.DAY


@dataclass(frozen=True)
class Scenario:
    """A bank with its CAs; ``order`` is the order that the customer signs."""

    bank: Bank
    private: pki.Key
    certificate: bytes
    order: Order

    def sign(self, content: bytes | None = None, **options: object) -> bytes:
        """Sign as the customer's token would; the issuing CA is included."""
        options.setdefault("intermediates", [self.bank.issuing.der])
        what = self.order.canonical if content is None else content
        return pki.sign_order(what, self.private, self.certificate, P256, **options)  # type: ignore[arg-type]

    def trust(self, *crls: bytes) -> TrustStore:
        return TrustStore([self.bank.root.der], crls=crls)

    def with_certificate(self, **fields: object) -> Scenario:
        """The same with other fields in the customer's certificate."""
        options = {"subject": "CN=张三,O=Demo Bank", "public_key": self.private.public_key(), **fields}
        return Scenario(self.bank, self.private, pki.der(self.bank.issuing.issue(**options)), self.order)  # type: ignore[arg-type]


def make_scene() -> Scenario:
    bank = make_bank()
    private = pki.key()
    return Scenario(bank, private, b"", payment()).with_certificate()


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    return make_scene()
