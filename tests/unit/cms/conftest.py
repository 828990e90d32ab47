"""Fixtures: one bank, all suites, and openssl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cms import pki
from tests.unit.cms.people import Bank, make_bank
from ushield_hw.crypto.algorithms import SUITES, Suite

Openssl = Callable[..., bool]


@pytest.fixture(scope="session")
def bank() -> Bank:
    return make_bank()


@pytest.fixture(params=SUITES, ids=lambda suite: str(suite.name))
def suite(request: pytest.FixtureRequest) -> Suite:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def openssl(bank: Bank, tmp_path: Path) -> Openssl:
    """Verify with openssl, which also has the intermediate CA: a signed order need not include it."""

    def accepts(signed: bytes, *options: str) -> bool:
        return pki.openssl_accepts(signed, bank.root.pem + bank.issuing.pem, tmp_path, options=options)

    return accepts
