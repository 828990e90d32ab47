"""The desk that the tests of one process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.stack.virtual.desks import READER, YUBIKEY
from ushield_hw.cryptoki.module import close_modules
from ushield_hw.testing.desk import Desk


@pytest.fixture(scope="session")
def only_desk() -> Iterator[Desk]:
    """PC/SC's library asks only once a process where its service is."""
    with Desk((READER, YUBIKEY)) as desk:
        yield desk


@pytest.fixture
def desk(only_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """The desk without cards; programs find it."""
    for name, value in only_desk.env.items():
        monkeypatch.setenv(name, value)
    only_desk.restart()
    close_modules()  # a worker keeps the environment it was started with
    yield only_desk
    close_modules()
