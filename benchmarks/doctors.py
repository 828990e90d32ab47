"""Whole diagnoses, and the commands they are compared with."""

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
_NO_SLOTS: Final = 1  # exit status of pkcs11-tool -L for a module without slots
_HANGS: Final = """
#include <unistd.h>
unsigned long C_GetFunctionList(void **list) { *list = 0; return 5; }
__attribute__((constructor)) static void hang(void) { for (;;) pause(); }
"""


@dataclass(frozen=True, slots=True)
class InARow:
    """Runs a sequence of commands repeatedly; ``fine``: the exit statuses that count as success."""

    lines: Sequence[Sequence[str]]
    environment: Mapping[str, str]
    fine: frozenset[int]

    def __call__(self, runs: int) -> float:
        """Run the sequence the given number of times; return the seconds used."""
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
    """Return a folder of descriptors for two more modules: p11-kit's trust module, and a copy of SoftHSM2."""
    folder = stage.folder / "more"
    folder.mkdir(exist_ok=True)
    (trust,) = Path("/usr/lib").glob("*/pkcs11/p11-kit-trust.so")
    again = Path(shutil.copy(stage.module, folder / "libsofthsm2-again.so"))
    for name, path in (("trust", trust), ("again", again)):
        (folder / f"bench-{name}.toml").write_text(_MORE.format(name=name, path=path))
    return folder


@contextmanager
def ward(stage: Stage) -> Iterator[Mapping[str, str]]:
    """Insert a virtual U-shield in addition to the soft tokens; yield the environment, also set in this process."""
    with VirtualShield() as shield, patch.dict(os.environ, shield.host_env):
        yield stage.environment | shield.host_env


def whole(stage: Stage, environment: Mapping[str, str]) -> InARow:
    """Run the doctor on a machine without problems."""
    return InARow([[_USHIELD, "--drivers", str(_more_modules(stage)), "doctor"]], environment, frozenset({0}))


def walk(stage: Stage) -> Work:
    """Run the same diagnosis in a running program, such as a bank's."""
    settings = replace(stage.in_worker, drivers=(_more_modules(stage), data_dir("drivers")))

    def look() -> None:
        if len(examine(Machine(settings)).usable) != _WELL:
            raise RuntimeError("a token is not well")

    return look


def imports(environment: Mapping[str, str]) -> InARow:
    """Start the interpreter and import the command's modules: the minimum for any diagnosis."""
    program = "import ushield_hw.cli.app, ushield_hw.cli.doctor, ushield_hw.doctor.runner"
    return InARow([[sys.executable, "-c", program]], environment, frozenset({0}))


def pkcs11_tool_each(stage: Stage, environment: Mapping[str, str]) -> InARow:
    """List the slots of each module that the doctor loads with OpenSC's pkcs11-tool."""
    command = [_USHIELD, "--drivers", str(_more_modules(stage)), "doctor", "--json"]
    said = subprocess.run(command, env=environment, capture_output=True, check=True)  # noqa: S603
    modules: dict[str, str] = json.loads(said.stdout)["environment"]["modules"]
    lines = [["pkcs11-tool", "--module", path, "-L"] for path in modules]
    return InARow(lines, environment, frozenset({0, _NO_SLOTS}))


def one_hangs(stage: Stage) -> Work:
    """Diagnose a machine with one module that hangs while it loads."""
    return _hanging(stage, "one-hangs", 1)


def five_hang(stage: Stage) -> Work:
    """Diagnose a machine with five such modules."""
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
