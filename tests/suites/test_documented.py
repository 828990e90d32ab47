"""The differences to the suites are documented."""

from __future__ import annotations

import pytest

from tests.suites.table import FILE, written

pytestmark = pytest.mark.unit


def test_the_lists_in_the_documentation_are_those_of_the_tests() -> None:
    assert FILE.read_text() == written(), "run: python -m tests.suites.table"
