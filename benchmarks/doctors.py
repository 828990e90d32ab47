"""Diagnoses, from start to end, and what they are compared with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from unittest.mock import patch

from benchmarks.race import Work
from benchmarks.stage import Stage
from ushield_hw.config import data_dir
from ushield_hw.doctor.finding import Status
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.runner import examine
from ushield_hw.testing.shield import VirtualShield

_USHIELD: Final = str(Path(sys.executable).parent / "ushield")  # .venv-bench
_GIVEN_UP_S: Final = 2.0
_WELL: Final = 3  # tokens that can sign
_NO_SLOTS: Final = 1  # what pkcs11-tool -L exits with where a module has none
_HANGS: Final = """
#include <unistd.h>
unsigned long C_GetFunctionList(void **list) { *list = 0; return 5; }
__attribute__((constructor)) static void hang(void) { for (;;) pause(); }
"""


@dataclass(frozen=True, slots=True)
class InARow:
    """Runs commands one after the other, again and again; ``fine``: the exit statuses that are no failure."""

    lines: Sequence[Sequence[str]]
    environment: Mapping[str, str]
    fine: frozenset[int]

    def __call__(self, runs: int) -> float:
        """Run all so many times; return the seconds they took."""
        started = time.perf_counter()
        for _ in range(runs):
            for words in self.lines:
                ended = subprocess.run(words, env=self.environment, capture_output=True, check=False)  # noqa: S603
                if ended.returncode not in self.fine:
                    raise RuntimeError(f"{words[0]}: exit {ended.returncode}: {ended.stderr.decode()}")
        return time.perf_counter() - started


_MORE: Final = """
id = "bench-{name}"
vendor = "bench"
product = "{name}"
kind = "software"
interface = "pkcs11"
confidence = "high"
sources = ["benchmarks"]
[module]
linux = ["{path}"]
"""


def _more_modules(stage: Stage) -> Path:
    """Return a folder of descriptors by which two more modules are looked at: p11-kit's certificates, and a copy."""
    folder = stage.folder / "more"
    folder.mkdir(exist_ok=True)
    (trust,) = Path("/usr/lib").glob("*/pkcs11/p11-kit-trust.so")
    again = Path(shutil.copy(stage.module, folder / "libsofthsm2-again.so"))
    for name, path in (("trust", trust), ("again", again)):
        (folder / f"bench-{name}.toml").write_text(_MORE.format(name=name, path=path))
    return folder


@contextmanager
def ward(stage: Stage) -> Iterator[Mapping[str, str]]:
    """Plug a virtual U-shield in beside the soft tokens; yields what a command gets. Processes made here see it too."""
    with VirtualShield() as shield, patch.dict(os.environ, shield.host_env):
        yield stage.environment | shield.host_env


def whole(stage: Stage, environment: Mapping[str, str]) -> InARow:
    """Look at all of a machine on which tokens are well."""
    return InARow([[_USHIELD, "--drivers", str(_more_modules(stage)), "doctor"]], environment, frozenset({0}))


def walk(stage: Stage) -> Work:
    """Look at all of that machine from a program that runs, such as a bank's own."""
    settings = replace(stage.in_worker, drivers=(_more_modules(stage), data_dir("drivers")))

    def look() -> None:
        if len(examine(Machine(settings)).usable) != _WELL:
            raise RuntimeError("a token is not well")

    return look


def imports(environment: Mapping[str, str]) -> InARow:
    """Start the interpreter and import what the command does: no diagnosis can take less."""
    program = "import ushield_hw.cli.app, ushield_hw.cli.doctor, ushield_hw.doctor.runner"
    return InARow([[sys.executable, "-c", program]], environment, frozenset({0}))


def pkcs11_tool_each(stage: Stage, environment: Mapping[str, str]) -> InARow:
    """List slots by OpenSC's tool, through each of the modules that the doctor loads."""
    command = [_USHIELD, "--drivers", str(_more_modules(stage)), "doctor", "--json"]
    said = subprocess.run(command, env=environment, capture_output=True, check=True)  # noqa: S603
    modules: dict[str, str] = json.loads(said.stdout)["environment"]["modules"]
    lines = [["pkcs11-tool", "--module", path, "-L"] for path in modules]
    return InARow(lines, environment, frozenset({0, _NO_SLOTS}))


def one_hangs(stage: Stage) -> Work:
    """Look at a machine with a module that hangs while it loads."""
    return _hanging(stage, "one-hangs", 1)


def five_hang(stage: Stage) -> Work:
    """Look at one with five of them."""
    return _hanging(stage, "five-hang", 5)


def _hanging(stage: Stage, name: str, count: int) -> Work:
    folder = stage.folder / name
    folder.mkdir()
    source, made = folder / "hangs.c", folder / "hangs0.so"
    source.write_text(_HANGS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(made), str(source)], check=True)  # noqa: S603, S607
    files = [made, *(Path(shutil.copy(made, folder / f"hangs{number}.so")) for number in range(1, count))]
    settings = replace(stage.in_worker, module_files=tuple(files))

    def look() -> None:
        found = examine(Machine(settings), deadline_s=_GIVEN_UP_S).findings
        hung = {
            finding.subject for finding in found if finding.id == "E48" and finding.status in {Status.FAIL, Status.WARN}
        }
        if not hung.issuperset(map(str, files)):
            raise RuntimeError(f"of {count} modules, these were seen to hang: {sorted(hung)}")

    return look
