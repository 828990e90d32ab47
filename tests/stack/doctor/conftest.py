"""Fixtures: a soft token as the doctor sees it, through SoftHSM2 itself or through the faulty module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.soft import DRIVER, SETTINGS, SOFTHSM, Soft
from tests.stack.doctor.modules import built, loading, machine
from tests.unit.doctor.recorded import TOKEN, Tree
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.slots import Choice, tokens_of
from ushield_hw.doctor.subjects import Loaded, ModuleFile, TokenSeen, load
from ushield_hw.drivers.family import Driver
from ushield_hw.testing.faulty import Fault, faulty_module
from ushield_hw.testing.readers import PcscHost
from ushield_hw.testing.softhsm import CONF_VARIABLE

__all__ = ["built", "loading", "machine"]

_DEADLINE_S: Final = 20.0


@dataclass
class Doctor:
    """Runs the doctor's steps on the soft token; the modules it loads are closed after the test."""

    soft: Soft
    folder: Path
    _closing: ExitStack = field(default_factory=ExitStack, repr=False)

    def machine(self, **how: Any) -> Machine:
        """Return this machine with a state folder for this test."""
        return Machine(replace(SETTINGS, state_dir=self.soft.state), **how)

    def loaded(
        self, *plan: Fault, driver: Driver = DRIVER, path: Path = SOFTHSM, asked: bool = False, **how: Any
    ) -> Loaded:
        """Load a module; with a plan, load it through the faulty module."""
        if plan:
            path = faulty_module(self.folder / "faulty", path, plan).path
        found = load(ModuleFile(self.machine(**how), path, driver, asked), _DEADLINE_S)
        self._closing.callback(found.module.close)
        return found

    def seen(self, *plan: Fault, driver: Driver = DRIVER, **how: Any) -> TokenSeen:
        """Return the soft token as seen through a module."""
        tokens = tokens_of(self.loaded(*plan, driver=driver, **how))
        return next((seen for seen in tokens if seen.token.serial == self.soft.serial), tokens[0])

    def choice(self, selector: str | None, **how: Any) -> Choice:
        """Return the candidates for a selector."""
        loaded = self.loaded(selector=selector, **how)
        return Choice(loaded.file.machine, [loaded], tokens_of(loaded))

    def close(self) -> None:
        """Close every module."""
        self._closing.close()


@pytest.fixture
def doctor(soft: Soft, tmp_path: Path) -> Iterator[Doctor]:
    found = Doctor(soft, tmp_path)
    yield found
    found.close()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Return a recorded machine with pcscd and one known token family of CCID devices."""
    tree = Tree(tmp_path)
    tree.family("epass", f"{TOKEN} ccid")
    tree.file("/usr/sbin/pcscd")
    return tree


@pytest.fixture(scope="module")
def desk() -> Iterator[PcscHost]:
    """Yield a real pcscd with one virtual reader."""
    with PcscHost() as desk:
        yield desk


@pytest.fixture
def softhsm_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write another SoftHSM2 configuration and set SOFTHSM2_CONF to it."""

    def write(folder: str) -> Path:
        conf = tmp_path / "another.conf"
        conf.write_text(f"objectstore.backend = file\ndirectories.tokendir = {folder}\n")
        monkeypatch.setenv(CONF_VARIABLE, str(conf))
        return conf

    return write


def without_variable(*names: str) -> dict[str, str]:
    """Return the environment without these variables."""
    return {name: value for name, value in os.environ.items() if name not in names}


def ids(findings: Sequence[Any]) -> list[str]:
    """Return the ids of findings that report a problem."""
    return [finding.id for finding in findings if finding.is_problem]
