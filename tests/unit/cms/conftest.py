"""One bank, its customers, and openssl."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.cms import pki
from ushield_hw.suites import SUITES, KeyKind, Suite

CONTENT = '{"payee":"杭州某某网络有限公司"}'.encode()

BY_NAME = {suite.name: suite for suite in SUITES}
P256 = BY_NAME["ecdsa-p256-sha256"]
P384 = BY_NAME["ecdsa-p384-sha384"]
RSA = BY_NAME["rsa-pkcs1-sha256"]

Openssl = Callable[..., bool]


@dataclass(frozen=True)
class Bank:
    root: pki.Authority
    issuing: pki.Authority

    def customer(self, kind: KeyKind = KeyKind.EC_P256, *, number: int = 0, bits: int = 2048) -> Customer:
        private = pki.key(kind, number=number, bits=bits)
        return Customer(private, pki.der(self.issuing.issue(f"CN=张三 {number},O=Demo Bank", private.public_key())))


@dataclass(frozen=True)
class Customer:
    private: pki.Key
    certificate: bytes


def make_bank() -> Bank:
    root = pki.authority()
    return Bank(root, root.subordinate("CN=Demo Issuing CA,O=Demo Bank", number=101))


@pytest.fixture(scope="session")
def bank() -> Bank:
    return make_bank()


@pytest.fixture(params=SUITES, ids=lambda suite: str(suite.name))
def suite(request: pytest.FixtureRequest) -> Suite:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def openssl(bank: Bank, tmp_path: Path) -> Openssl:
    """Ask openssl, which knows the CA below the root too: a signed order need not bring it."""

    def accepts(signed: bytes, *options: str) -> bool:
        return pki.openssl_accepts(signed, bank.root.pem + bank.issuing.pem, tmp_path, options=options)

    return accepts
