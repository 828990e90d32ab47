"""Parametrises each test that uses ``subject`` with the rows that have the required abilities."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import DEVICE
from tests.contract.rows import ROWS
from tests.contract.subjects import Place, Row, Subject
from tests.soft import provisioned, soft

__all__ = ["provisioned", "soft"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    by_itself = any("subject" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "subject" in metafunc.fixturenames and not by_itself:
        needed = metafunc.function.__dict__.get("needs", frozenset())
        rows = [pytest.param(row, id=row.name) for row in ROWS if needed <= row.kind.can]
        device = metafunc.config.stash.get(DEVICE, None)
        if device and needed <= device.kind.can:
            rows.append(pytest.param(device, id=device.name, marks=pytest.mark.device))
        metafunc.parametrize("subject", rows, indirect=True)


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A fresh token of one kind; a device is the same for all tests."""
    row: Row = request.param
    with row.make(Place(request)) as made:
        yield made
