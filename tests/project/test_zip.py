"""The package inside a zip file (``python -m zipapp``): texts are found there, and an error stays an error."""

from __future__ import annotations

import json
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from tests.project.tree import ROOT

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("zip") / "ushield.pyz"
    wanted = {".py", ".mo", ".html"}
    zipapp.create_archive(
        ROOT,
        target,
        main="ushield_hw.cli:main",
        filter=lambda path: path.parts[0] == "ushield_hw" and (path.suffix in wanted or not path.suffix),
    )
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


def test_it_is_the_one_in_the_zip(archive: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import ushield_hw.testing.page as page; print(page.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, archive], cwd=archive.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(archive))
