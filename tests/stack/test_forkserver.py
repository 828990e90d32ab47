"""The process that workers are forked from: what workers inherit, and what happens when one of the processes exits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.project.tree import ROOT
from tests.soft import OPTIONS, SOFTHSM, Soft
from tests.stack.bench import ends
from ushield_hw.backend import spawn
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.module import Module
from ushield_hw.errors import TokenError

pytestmark = pytest.mark.stack

SHOW = """
import os, sys
from pathlib import Path
from ushield_hw.backend import spawn
from ushield_hw.backend.model import ModuleOptions
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.module import Module

def seen():
    module = Module(Path(sys.argv[1]), Isolation.PROCESS, ModuleOptions(), 20)
    module.info()
    process = module._connection.transport._process
    status = dict(line.split(":\\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return status
"""


def program(text: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SHOW + text, str(SOFTHSM)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def modules(soft: Soft) -> Iterator[list[Module]]:
    made = [Module(SOFTHSM, Isolation.PROCESS, OPTIONS, 20) for _ in range(2)]
    with closing(made[0]), closing(made[1]):
        for module in made:
            module.slots()
        yield made


def worker(module: Module) -> int:
    return module._connection.transport._process.pid  # type: ignore[no-any-return, union-attr]


def kill(module: Module) -> None:
    """Kill a module's worker and wait until that is detected: otherwise the next call would detect it."""
    os.kill(worker(module), signal.SIGKILL)
    deadline = time.monotonic() + 5
    while module.loaded and time.monotonic() < deadline:
        time.sleep(0.01)


def test_each_module_has_a_process_of_its_own_and_all_have_one_parent(modules: list[Module]) -> None:
    one, other = map(worker, modules)
    assert one != other
    assert parent(one) == parent(other) == spawn.warm()._process.pid


def test_a_worker_that_is_killed_takes_no_other_with_it(modules: list[Module]) -> None:
    kill(modules[0])
    assert modules[1].slots()
    assert modules[0].slots(), "a new one"


def test_workers_live_on_when_the_fork_server_is_killed_and_new_ones_come_from_another(modules: list[Module]) -> None:
    gone = spawn.warm()._process
    gone.kill()
    gone.wait()
    assert modules[0].slots()
    kill(modules[1])
    assert modules[1].slots()
    assert parent(worker(modules[1])) == spawn.warm()._process.pid != gone.pid
    with closing(modules[0]):
        assert modules[0].slots()


def test_a_worker_follows_its_program_into_its_folder_environment_and_group(soft: Soft, tmp_path: Path) -> None:
    text = f"""
seen()
os.chdir({str(tmp_path)!r})
os.environ["SOFTHSM2_CONF"] = "/nowhere"
os.setresgid(65534, 65534, 65534)

module = Module(Path(sys.argv[1]), Isolation.PROCESS, ModuleOptions(), 20)
try:
    module.info()
except Exception as error:
    print(error.code, len(spawn._servers))
os.environ["SOFTHSM2_CONF"] = {os.environ["SOFTHSM2_CONF"]!r}
module = Module(Path(sys.argv[1]), Isolation.PROCESS, ModuleOptions(), 20)
module.info()
process = module._connection.transport._process.pid
status = dict(line.split(":\\t", 1) for line in Path(f"/proc/{{process}}/status").read_text().splitlines())
print(status["Gid"].split(), os.readlink(f"/proc/{{process}}/cwd"))
"""
    with program(text) as process:
        said = process.communicate(timeout=60)[0].splitlines()
    assert said == ["DRIVER_LOAD_FAILED 2", f"{['65534'] * 4} {tmp_path}"]


def test_the_fork_server_goes_with_its_program(soft: Soft) -> None:
    with program("seen()\nprint(spawn.warm()._process.pid, flush=True)\nsys.stdin.read()") as process:
        assert process.stdout is not None
        with ends(int(process.stdout.readline())):
            process.kill()


def test_a_worker_that_crashes_tells_how(modules: list[Module]) -> None:
    module = modules[0]
    process = module._connection.transport._process  # type: ignore[union-attr]
    os.kill(process.pid, signal.SIGSEGV)
    assert process.wait(5) == -signal.SIGSEGV
    with pytest.raises(subprocess.TimeoutExpired):
        modules[1]._connection.transport._process.wait(0.05)  # type: ignore[union-attr]


def test_a_child_of_the_program_does_not_end_its_workers(modules: list[Module]) -> None:
    child = os.fork()
    if not child:
        modules[0]._connection.transport._process.kill()  # type: ignore[union-attr]
        modules[0].close()
        os._exit(0)
    os.waitpid(child, 0)
    try:
        assert modules[0].slots()
    except TokenError as error:  # pragma: no cover - the failure under test
        pytest.fail(error.code)
