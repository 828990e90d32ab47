"""Fixtures: a bank's CA and an empty simulated token."""

from __future__ import annotations

import pytest

from tests.unit.cms import pki
from tests.unit.drivers.shelf import Shelf


@pytest.fixture(scope="module")
def bank() -> pki.Authority:
    return pki.authority()


@pytest.fixture
def shelf(bank: pki.Authority) -> Shelf:
    return Shelf(bank)
