"""Fixtures: a soft token behind the faulty module, opened through the library."""

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
    """Set umask 022: a module in a group-writable folder, as umask 002 creates it, is not loaded."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def bench(soft: Soft, tmp_path: Path) -> Bench:
    """The token behind a faulty module without faults, in a worker process; the record is empty."""
    faulty = faulty_module(tmp_path / "faulty", SOFTHSM)
    return Bench(soft, faulty, soft.module(path=faulty.path))
