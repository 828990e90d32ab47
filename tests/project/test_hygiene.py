"""Forbidden content of the tree, and invariants of its files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from pip._internal.models.index import PyPI

from tests.project.tree import ROOT, project_files

pytestmark = pytest.mark.unit

LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def texts() -> list[tuple[Path, str]]:
    """Return every text file of the project with its content."""
    found = []
    for path in project_files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            found.append((path, content.decode("utf-8")))
    return found


def registry_hosts() -> set[str]:
    """Return the package registry hosts: pip's default, and those configured on this machine."""
    settings = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    words = re.findall(r"https?://[^\s'\"]+", settings.stdout)
    return {PyPI.netloc, PyPI.file_storage_domain} | {host for word in words if (host := urlsplit(word).hostname)}


def test_no_registry_is_named() -> None:
    hosts = registry_hosts()
    assert [(str(path), host) for path, text in texts() for host in hosts if host in text] == []


def test_no_path_of_this_checkout() -> None:
    if len(ROOT.parts) < 3:
        return  # too short to be distinctive
    here = re.compile(re.escape(str(ROOT)) + r"(?![\w.-])")
    assert [str(path) for path, text in texts() if here.search(text)] == []


# --- pinned dependencies ----------------------------------------------------------------------------------------------


def pins(lock: Path) -> dict[str, Requirement]:
    lines = re.findall(r"^([a-z0-9][^\\\n]*?) *\\$", lock.read_text(), re.MULTILINE)
    return {pin.name: pin for pin in map(Requirement, lines)}


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    groups = project["dependency-groups"].values()
    lines = chain(project["project"]["dependencies"], project["build-system"]["requires"], *extras, *groups)
    return [Requirement(line) for line in lines if isinstance(line, str)]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.name))
def test_locks_hold_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert pins(lock)
    for block in re.split(r"\n(?=[a-z0-9])", text):
        assert "--hash=sha256:" in block, block


def test_locks_fit_pyproject() -> None:
    pinned = pins(ROOT / "requirements/dev.lock")
    for one in wanted():
        (version,) = pinned[one.name].specifier
        assert one.specifier.contains(version.version), f"{one}, but {version.version} is pinned; run: make lock"


def test_locks_agree() -> None:
    build, dev = (pins(ROOT / "requirements" / name) for name in ("build.lock", "dev.lock"))
    assert build.items() <= dev.items()


# --- one way to run everything ----------------------------------------------------------------------------------------


def test_ci_is_make_test_and_nothing_else() -> None:
    assert (ROOT / ".ci/run").read_text().splitlines() == ["#!/usr/bin/env bash", "exec make test"]
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    test, *_ = re.split(r"\n  (?=[a-z-]+:\n)", workflow.partition("\njobs:\n")[2].removeprefix("  test:\n"))
    assert re.findall(r"\brun: (.*)", test) == ["make test"]
    targets = set(re.findall(r"\bmake ([a-z-]+)", workflow))
    assert targets == {"test", "test-full", "wheelhouse", "deb"}
    assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in targets)


def test_scripts_can_be_run() -> None:
    for script in [ROOT / ".ci/run", *(ROOT / "tools").glob("*.sh")]:
        assert os.access(script, os.X_OK), script


# --- documents --------------------------------------------------------------------------------------------------------


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "README.md").read_text()
    assert [path.name for path in folder.glob("[0-9]*.md") if f"({path.name})" not in index] == []


def test_links_between_documents_lead_somewhere() -> None:
    dead = []
    for path, text in texts():
        if path.suffix == ".md":
            for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
                if not urlsplit(target).scheme and not (ROOT / path.parent / target).exists():
                    dead.append(f"{path}: {target}")
    assert dead == []
