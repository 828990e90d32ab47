"""The token on which faults are injected."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.stack.everyfault.ground import Ground, original
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.module import close_modules
from ushield_hw.backend.pkcs11 import engine
from ushield_hw.testing.softhsm import CONF_VARIABLE
from ushield_hw.token import link
from ushield_hw.token.pin_operations import verify_pin

pytest.register_assert_rewrite("tests.stack.everyfault.jobs", "tests.stack.everyfault.trial")

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - see _memory


@pytest.fixture(scope="session")
def _memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where available: the token is written several thousand times."""
    if not os.access(_MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("everyfault")
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY, prefix="everyfault-") as folder:
        yield Path(folder)


@pytest.fixture
def ground(isolation: Isolation, _memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """A token for this test, in memory; the test is parametrised by ``isolation``."""
    (_memory / "original").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=_memory)) / "token"
    ground = original(_memory / "original").copy(folder, isolation)
    monkeypatch.setenv(CONF_VARIABLE, str(ground.soft.conf))
    monkeypatch.setattr(engine, "_FRESH_S", 0.0)  # otherwise the calls of a job would depend on timing
    monkeypatch.setattr(link, "_NOTICED_S", 0.01)  # removal is detected without the half-second wait
    close_modules()
    verify_pin(ground.link, ground.person())  # creates the attempt counter's file
    yield ground
    ground.let_go()
    shutil.rmtree(folder.parent)
