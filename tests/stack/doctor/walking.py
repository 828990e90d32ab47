"""Runs a whole diagnosis in a separate process and returns the result.

``python -m tests.stack.doctor.walking`` reads a request and prints a :class:`Walked`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tests.project.tree import ROOT
from tests.unit.doctor.recorded import texts
from ushield_hw.backend import spawn
from ushield_hw.config import Settings, data_dir
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.runner import examine
from ushield_hw.system import pcsc

_WITHIN_S: Final = 90.0
_CARDS_WITHIN_S: Final = 15.0
_HOME: Final = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}


@dataclass(frozen=True)
class Walked:
    """The result of a diagnosis.

    Attributes:
        report: the document of ``ushield doctor --json``.
        outcome: the corresponding exit code.
        first: the texts of the first cause and its remedy, by language.
        seconds: the duration.
        left: workers and other child processes that still run afterwards.
    """

    report: dict[str, Any]
    outcome: int
    first: dict[str, tuple[str, str]]
    seconds: float
    left: list[int]

    @property
    def named(self) -> str | None:
        """The id of the first cause."""
        first = self.report["first"]
        return None if first is None else str(first["id"])

    @property
    def failures(self) -> list[str]:
        """The ids of all failures."""
        return [finding["id"] for finding in self.report["findings"] if finding["status"] == "fail"]

    def names(self, identity: str, outcome: int, *words: str, **evidence: object) -> None:
        """Assert the first cause, and that these words occur in each language."""
        first = self.report["first"]
        assert first is not None, self.report["usable"]
        assert (first["id"], self.outcome) == (identity, outcome), (first, self.failures)
        assert (first["status"], self.report["verdict"]) == ("fail", "fail")
        assert {name: first["evidence"].get(name) for name in evidence} == evidence
        for cause, remedy in self.first.values():
            assert [word for word in words if word not in f"{cause} {remedy}"] == []
        assert self.left == []

    def is_well(self, *serials: str) -> None:
        """Assert that exactly these tokens can sign and that there are no failures."""
        assert [token["serial"] for token in self.report["usable"]] == [*serials], self.report["first"]
        assert (self.named, self.report["verdict"], self.outcome) == (None, "ok", 0)
        assert (self.failures, self.left) == ([], [])


def walk(
    home: Path,
    *places: Mapping[str, str],
    drivers: Sequence[Path] = (),
    module_files: Sequence[Path] = (),
    **how: Any,
) -> Walked:
    """Diagnose this machine with a separate home folder.

    Args:
        home: also holds the state.
        places: further environment variables: where tokens and readers are.
        drivers: folders of descriptors that take precedence.
        module_files: modules named in the configuration.
        how: ``selector``, ``module``, ``deadline_s``, ``now``; ``cards``: wait until programs can see this many cards,
            which is shortly after pcscd does.
    """
    env = {**_HOME, "HOME": str(home)}
    for place in ({"PCSCLITE_CSOCK_NAME": str(home / "no-pcscd")}, *places):
        env |= place
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in how.items()}
    paths = {"drivers": [*map(str, drivers)], "module_files": [*map(str, module_files)], "state": str(home / "state")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.stack.doctor.walking"],
        input=json.dumps({**asked, **paths}),
        capture_output=True,
        cwd=ROOT,
        env=env,
        text=True,
        timeout=_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Walked(**json.loads(done.stdout))


def _walk(asked: Mapping[str, Any]) -> Walked:
    settings = Settings(
        drivers=(*map(Path, asked["drivers"]), data_dir("drivers")),
        module_files=tuple(map(Path, asked["module_files"])),
        state_dir=Path(asked["state"]),
    )
    now = datetime.fromisoformat(asked["now"]) if "now" in asked else None
    machine = Machine(settings, log="", selector=asked.get("selector"), now=now)
    module = Path(asked["module"]) if "module" in asked else None
    _wait_for_cards(asked.get("cards", 0))
    began = time.monotonic()
    report = examine(machine, module, asked.get("deadline_s", 20.0))
    seconds = time.monotonic() - began
    first = texts(report.first) if report.first is not None and report.first.is_problem else {}
    return Walked(report.to_json(), int(report.outcome), first, seconds, _left())


def _wait_for_cards(count: int) -> None:
    deadline = time.monotonic() + _CARDS_WITHIN_S
    with pcsc.Monitor() as monitor:
        reader_list = monitor.wait(None, _CARDS_WITHIN_S)
        while sum(reader.slot is pcsc.Slot.CARD for reader in reader_list.readers) < count:
            assert time.monotonic() < deadline, reader_list
            reader_list = monitor.wait(reader_list, _CARDS_WITHIN_S)


def _left(pid: int | str = "self") -> list[int]:
    """Return every descendant process except the fork server, which lives as long as this process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    below = [int(child) for task in tasks for child in task.read_text().split()]
    stays = spawn.warm()._process.pid
    return [*(child for child in below if child != stays), *(one for child in below for one in _left(child))]


if __name__ == "__main__":
    found = _walk(json.load(sys.stdin))
    print(json.dumps({name: getattr(found, name) for name in Walked.__dataclass_fields__}))
