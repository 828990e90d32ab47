"""SECURITY.md: each promise has an existing test; pinned versions are pinned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.project.tree import ROOT

pytestmark = pytest.mark.unit

PROMISES = re.findall(r"`(tests/[a-z_/]+\.py)::(test_\w+)`", (ROOT / "SECURITY.md").read_text())


def test_each_promise_names_a_test_that_exists() -> None:
    missing = [f"{file}::{name}" for file, name in PROMISES if not _has(ROOT / file, name)]
    assert missing == []
    assert len(PROMISES) > 30


def _has(file: Path, name: str) -> bool:
    return file.is_file() and re.search(rf"^def {name}\(", file.read_text(), re.MULTILINE) is not None


def test_each_section_of_attackers_names_a_test() -> None:
    sections = re.split(r"^### ", (ROOT / "SECURITY.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) >= 11
    assert [section.splitlines()[0] for section in sections if "::test_" not in section] == []


def test_ci_actions_are_pinned_by_commit() -> None:
    used = [
        line.strip()
        for file in (ROOT / ".github/workflows").glob("*.yml")
        for line in file.read_text().splitlines()
        if re.match(r"\s*-?\s*uses:", line)
    ]
    assert len(used) >= 2
    assert [line for line in used if not re.search(r"@[0-9a-f]{40}  # v\d+\.\d+\.\d+$", line)] == []


def test_every_dependency_has_hashes() -> None:
    locks = list((ROOT / "requirements").glob("*.lock"))
    assert "uv.lock" in {lock.name for lock in locks}
    for lock in locks:
        pins = re.findall(r"^(\S+==\S+)(.*)$", lock.read_text(), re.MULTILINE)
        assert pins
        assert [name for name, rest in pins if not rest.rstrip().endswith("\\")] == [], lock.name
    assert "--require-hashes" in (ROOT / "tools/lock.sh").read_text()
