"""Fixtures: a pcscd with virtual readers, shared by the tests of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.virtual.desks import READER, YUBIKEY
from ushield_hw.backend.module import close_modules
from ushield_hw.testing.readers import PcscHost


@pytest.fixture(scope="session")
def only_desk() -> Iterator[PcscHost]:
    """The virtual readers, created once; each test only restarts pcscd."""
    with PcscHost((READER, YUBIKEY)) as desk:
        yield desk


@pytest.fixture
def desk(only_desk: PcscHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[PcscHost]:
    """The readers without cards; this process and its children find pcscd at the path set by tests/conftest.py."""
    here = Path(os.environ["PCSCLITE_CSOCK_NAME"])
    for name, value in only_desk.env.items():
        monkeypatch.setenv(name, value)
        here.symlink_to(value)
    try:
        only_desk.restart()
        close_modules()  # a worker keeps the environment it was started with
        yield only_desk
    finally:
        here.unlink()
        close_modules()
