"""tools/setup.sh reports what to do when it cannot continue. Nothing is installed: apt-get, sudo, Python are stubs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.project.tree import ROOT

pytestmark = pytest.mark.unit

NEEDED = "bash cat comm dirname env find flock grep head mktemp rm sed sha256sum sort uname".split()
ALL_BUT_SWIG = 'for name in "${@:3}"; do [[ $name == swig ]] || echo "$name installed"; done; exit 1'
EVERYTHING = 'for name in "${@:3}"; do echo "$name installed"; done'


class Machine:
    """A checkout with tools/setup.sh only, and a PATH with the given programs only."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.bin, self.log = folder / "checkout", folder / "bin", folder / "log"
        (self.checkout / "tools").mkdir(parents=True)
        shutil.copy(ROOT / "tools/setup.sh", self.checkout / "tools")
        self.bin.mkdir()
        for name in NEEDED:
            (self.bin / name).symlink_to(str(shutil.which(name)))

    def has(self, command: str, script: str) -> None:
        (self.bin / command).write_text(f'#!{self.bin}/bash\necho "{command} $*" >>{self.log}\n{script}\n')
        (self.bin / command).chmod(0o755)

    def setup(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.checkout / "tools/setup.sh")],
            env={"PATH": str(self.bin)},
            capture_output=True,
            text=True,
            check=False,
        )

    def called(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(("apt-get", "sudo"))]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.has("dpkg-query", ALL_BUT_SWIG)
    made.has("apt-get", "exit 100")
    made.has("install", "exit 0")  # of the file that keeps services from starting
    made.has("id", "echo 1000")
    made.has("python3", 'if [[ $1 == --version ]]; then echo "Python 3.9.2"; else exit 1; fi')
    return made


def test_without_root_and_sudo_it_names_the_command(machine: Machine) -> None:
    ended = machine.setup()
    assert ended.returncode == 1
    assert "these system packages are missing: swig" in ended.stderr
    assert "apt-get update && apt-get install swig" in ended.stderr
    assert machine.called() == []


def test_only_what_is_missing_is_asked_of_apt(machine: Machine) -> None:
    machine.has("sudo", 'exec "$@"')
    ended = machine.setup()
    assert ended.returncode == 1
    assert "failed: apt-get install swig" in ended.stderr
    assert "By hand: apt-get update && apt-get install swig" in ended.stderr
    update, plan, install = [call for call in machine.called() if call.startswith("apt-get")]
    assert update.startswith("apt-get update")
    assert plan.startswith("apt-get install")
    assert "--assume-no" in plan
    assert install.startswith("apt-get install")
    assert "--yes" in install
    assert plan.endswith(" swig")
    assert install.endswith(" swig")


def test_a_machine_without_python_gets_one(machine: Machine) -> None:
    machine.has("dpkg-query", EVERYTHING)
    machine.has("id", "echo 0")
    (machine.bin / "python3").unlink()
    ended = machine.setup()
    assert ended.returncode == 1
    assert "failed: apt-get install python3 python3-venv python3-dev" in ended.stderr


def test_an_old_python_is_named(machine: Machine) -> None:
    machine.has("dpkg-query", EVERYTHING)
    ended = machine.setup()
    assert ended.returncode == 1
    assert "no Python 3.11 or newer was found (python3 is Python 3.9.2)" in ended.stderr
    assert machine.called() == []


def test_elsewhere_it_names_what_is_needed(machine: Machine) -> None:
    (machine.bin / "apt-get").unlink()
    (machine.bin / "dpkg-query").unlink()
    ended = machine.setup()
    assert ended.returncode == 1
    assert "neither Debian nor Ubuntu" in ended.stderr
    assert "softhsm2" in ended.stderr
