"""How tests run: in CI a skip fails the run, an expected failure does not; xdist groups stay together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.tree import ROOT

pytestmark = pytest.mark.unit

SKIP = "import pytest\n\ndef test_ok(): pass\n\n@pytest.mark.skip(reason='no reader')\ndef test_card(): pass\n"
SKIP_MODULE = "import pytest\npytest.skip('no pcscd', allow_module_level=True)\n"
XFAIL = "import pytest\n\n@pytest.mark.xfail(reason='known')\ndef test_known(): assert False\n"
GROUP = """
import os, pathlib, pytest

@pytest.mark.xdist_group("reader")
@pytest.mark.parametrize("number", range(8))
def test_shared(number):
    with pathlib.Path(__file__).with_name("workers").open("a") as log:
        print(os.environ["PYTEST_XDIST_WORKER"], file=log)
"""


def run(folder: Path, source: str, *arguments: str, ci: bool) -> subprocess.CompletedProcess[str]:
    (folder / "test_inner.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.ci_rules", "-p", "no:cacheprovider", *arguments, str(folder)],
        cwd=folder,
        env={**environment, "CI": "true"} if ci else environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "workers"])
def test_a_skip_fails_the_run_and_is_named(tmp_path: Path, workers: tuple[str, ...]) -> None:
    ended = run(tmp_path, SKIP, *workers, ci=True)
    assert ended.returncode == 1
    assert "in CI nothing may be skipped" in ended.stdout
    assert "test_inner.py::test_card: Skipped: no reader" in ended.stdout
    assert "1 passed, 1 skipped" in ended.stdout.splitlines()[-1]


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "workers"])
def test_a_skipped_module_fails_the_run(tmp_path: Path, workers: tuple[str, ...]) -> None:
    ended = run(tmp_path, SKIP_MODULE, *workers, ci=True)
    assert ended.returncode == 1
    assert "test_inner.py: Skipped: no pcscd" in ended.stdout


def test_a_group_stays_in_one_worker(tmp_path: Path) -> None:
    ended = run(tmp_path, GROUP, "-n", "2", "--dist", "loadgroup", ci=True)
    assert ended.returncode == 0, ended.stdout
    assert len((tmp_path / "workers").read_text().split()) == 8
    assert len(set((tmp_path / "workers").read_text().split())) == 1


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    assert run(tmp_path, XFAIL, ci=True).returncode == 0


def test_outside_ci_a_skip_is_a_skip(tmp_path: Path) -> None:
    assert run(tmp_path, SKIP, ci=False).returncode == 0
