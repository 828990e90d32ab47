"""One bank and its customers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.unit.cms import pki
from ushield_hw.crypto.algorithms import SUITES, KeyKind

CONTENT = '{"payee":"杭州某某网络有限公司"}'.encode()

BY_NAME = {suite.name: suite for suite in SUITES}
P256 = BY_NAME["ecdsa-p256-sha256"]
P384 = BY_NAME["ecdsa-p384-sha384"]
RSA = BY_NAME["rsa-pkcs1-sha256"]


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


def chain(bank: Bank, length: int) -> Iterator[pki.Authority]:
    """Yield a chain of CAs, each issued by the previous one, the first by the root."""
    above = bank.root
    for number in range(length):
        above = above.subordinate(f"CN=CA {number}", number=110 + number)
        yield above
