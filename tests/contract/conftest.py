"""Every test that asks for a ``subject`` is made once for each row that can do what the test needs."""

from __future__ import annotations

import pytest

from tests.contract.subjects import ROWS, Row, Subject
from tests.soft import Soft, provisioned, soft

__all__ = ["provisioned", "soft"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        needed = metafunc.function.__dict__.get("needs", frozenset())
        rows = [row for row in ROWS if needed <= row.can]
        metafunc.parametrize("subject", rows, indirect=True, ids=[row.name for row in rows])


@pytest.fixture
def subject(request: pytest.FixtureRequest, soft: Soft) -> Subject:
    """A fresh token of one kind."""
    row: Row = request.param
    return row.make(soft, row.isolation)
