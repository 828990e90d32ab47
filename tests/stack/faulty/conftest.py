"""Fixtures: a token, and the faulty module that wraps SoftHSM2."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.faulty.raw_module import NULL, RawModule
from tests.stack.faulty.soft_token import SOFTHSM, configure, make_token
from ushield_hw.testing.faulty import FaultyModule, faulty_module


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SoftHSM2 token with a PIN and a P-256 key pair, as the template for copies."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "tokens").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", configure(folder))
        make_token(RawModule(SOFTHSM))
    return folder


@pytest.fixture
def token(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This test's copy of the token; its folder is named after it."""
    folder = tmp_path / "softhsm"
    shutil.copytree(prepared, folder)
    monkeypatch.setenv("SOFTHSM2_CONF", configure(folder))
    yield folder
    RawModule(SOFTHSM).call("C_Finalize", NULL)  # sessions that a test left open


@pytest.fixture
def module(token: Path, tmp_path: Path) -> FaultyModule:
    return faulty_module(tmp_path / "faulty", SOFTHSM)
