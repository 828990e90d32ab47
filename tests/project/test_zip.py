"""The package inside a zip file (``python -m zipapp``): texts and descriptors are found, and errors are reported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipapp
from pathlib import Path

import pytest

from tests.project.tree import ROOT

pytestmark = pytest.mark.unit


DATA = "_data"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package as a wheel installs it."""
    target = tmp_path_factory.mktemp("packed")
    without = shutil.ignore_patterns("__pycache__", "*.po")
    shutil.copytree(ROOT / "ushield_hw", target / "ushield_hw", ignore=without)
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
    for folder, place in hook["custom"]["data"].items():
        shutil.copytree(ROOT / folder, target / place)
    return target


@pytest.fixture(scope="module")
def archive(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("zip") / "ushield.pyz"
    zipapp.create_archive(packed, target, main="ushield_hw.cli:main")
    return target


def run(archive: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, archive, *words], cwd=archive.parent, capture_output=True, text=True, timeout=60, check=False
    )


def test_an_error_has_its_text_in_both_languages(archive: Path) -> None:
    for lang, word in (("en", "cannot be read"), ("zh", "无法读取")):
        done = run(archive, "--lang", lang, "show", "nowhere.json", "--json")
        error = json.loads(done.stdout)["error"]
        assert (done.returncode, error["code"], word in error["message"]) == (2, "FILE_UNREADABLE", True), done.stderr


def test_looking_for_tokens_is_no_bug_there(archive: Path) -> None:
    done = run(archive, "pin", "status", "--token", "no such token", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) in {
        (3, "TOKEN_NOT_FOUND"),
        (3, "TOKEN_NONE_MATCHES"),
    }, done.stderr


def test_it_knows_every_family(archive: Path) -> None:
    known = {file.stem for file in (ROOT / "drivers").glob("*.toml")}
    listed = json.loads(run(archive, "driver", "list", "--json").stdout)["drivers"]
    assert {driver["id"] for driver in listed} == known
    assert run(archive, "driver", "show", "softhsm2").stdout == (ROOT / "drivers/softhsm2.toml").read_text()


def test_tokens_are_made_by_its_worker_and_found(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = json.loads(run(archive, "softhsm", "init", "--dir", str(archive.with_name("soft")), "--json").stdout)
    monkeypatch.setenv("SOFTHSM2_CONF", made["softhsm2_conf"])
    found = json.loads(run(archive, "list", "--json").stdout)["tokens"]
    ours = {(token["serial"], token["driver"]) for token in found if token["driver"] == "softhsm2"}
    assert ours == {(token["serial"], "softhsm2") for token in made["tokens"]}


def test_an_archive_without_its_data_says_so(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "ushield.pyz"
    zipapp.create_archive(packed, target, main="ushield_hw.cli:main", filter=lambda path: DATA not in path.parts)
    done = run(target, "list", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (3, "CATALOGUE_MISSING"), done.stderr
    assert error["details"]["folder"] == f"{target}/ushield_hw/_data/drivers"
    assert DATA in error["remedy"]


def test_it_is_the_one_in_the_zip(archive: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import ushield_hw.testing.page as page; print(page.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, archive], cwd=archive.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(archive))
