"""A soft token behind the faulty module, reached as a session reaches it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soft import SOFTHSM, Soft, provisioned, soft
from tests.stack.bench import Bench
from ushield_hw.testing.faulty import faulty_module

__all__ = ["provisioned", "soft"]


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """A module in a folder that a group can write is not loaded, and that is what a umask of 002 makes."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def bench(soft: Soft, tmp_path: Path) -> Bench:
    """The token behind a faulty module without a plan, in a worker; nothing is recorded yet."""
    faulty = faulty_module(tmp_path / "faulty", SOFTHSM)
    return Bench(soft, faulty, soft.module(path=faulty.path))
