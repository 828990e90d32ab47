"""Runs the doctor on a module and its tokens in a separate process, with fewer privileges or another reader.

``python -m tests.stack.doctor.child`` reads a request and prints the findings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.project.tree import ROOT
from ushield_hw.config import Settings, data_dir
from ushield_hw.doctor.finding import Finding, Status, ask_all
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes import objects, pin, slots
from ushield_hw.doctor.subjects import ModuleFile, load
from ushield_hw.drivers.family import Kind

# For root: drop the capabilities that bypass file permissions.
POWERLESS: Final = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
HARDWARE: Final = Kind.TOKEN
_WITHIN_S: Final = 60.0


def ask(
    path: Path,
    driver: str,
    env: Mapping[str, str],
    *,
    prefix: Sequence[str] = (),
    drivers: Sequence[Path] = (),
    deadline_s: float = 20.0,
    state: Path | None = None,
) -> list[Finding]:
    """Load a module in another process; return the findings on the module and its tokens."""
    asked = {"path": str(path), "driver": driver, "deadline_s": deadline_s, "drivers": [*map(str, drivers)]}
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tests.stack.doctor.child"],
        input=json.dumps({**asked, "state": str(state) if state else None}),
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **env},
        text=True,
        timeout=_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Finding(**{**one, "status": Status(one["status"])}) for one in json.loads(done.stdout)]


def found(findings: Sequence[Finding], identity: str) -> Finding:
    """Return the first finding with an id."""
    return next(finding for finding in findings if finding.id == identity)


def _look(asked: Mapping[str, Any]) -> list[Finding]:
    folders = (*map(Path, asked["drivers"]), data_dir("drivers"))
    machine = Machine(Settings(drivers=folders, state_dir=Path(asked["state"]) if asked["state"] else None))
    loaded = load(ModuleFile(machine, Path(asked["path"]), machine.catalogue.get(asked["driver"])), asked["deadline_s"])
    try:
        findings = ask_all((*slots.LOADED_PROBES, *objects.LOADED_PROBES), loaded)
        for seen in slots.tokens_of(loaded):
            findings += ask_all((*slots.TOKEN_PROBES, *pin.PROBES, *objects.TOKEN_PROBES), seen)
        return findings
    finally:
        loaded.module.close()


def _as_json(finding: Finding) -> dict[str, Any]:
    fields = {name: getattr(finding, name) for name in ("id", "probe", "subject", "evidence")}
    return {**fields, "status": finding.status.value}


if __name__ == "__main__":
    print(json.dumps([_as_json(finding) for finding in _look(json.load(sys.stdin))]))
