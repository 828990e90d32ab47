"""Builds modules for the tests of layer E and checks the findings about them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from string import Formatter
from typing import Any, Final

import pytest

from tests.project.tree import ROOT
from tests.soft import SETTINGS
from ushield_hw import messages
from ushield_hw.doctor.finding import Finding, Status, ask_all
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.module_file import FILE_PROBES, module_files
from ushield_hw.doctor.subjects import Loaded, ModuleFile, load
from ushield_hw.drivers.catalogue import GENERIC
from ushield_hw.drivers.family import Driver

Compile = Callable[..., Path]
Load = Callable[..., Loaded]

LIST: Final = "unsigned long C_GetFunctionList(void **list) { *list = 0; return 0; }\n"


@pytest.fixture
def machine() -> Machine:
    """This machine, as the doctor examines it."""
    return Machine(SETTINGS)


@pytest.fixture
def built(tmp_path: Path) -> Compile:
    """Compile a shared object from C source; returns its path."""

    def make(source: str, *options: str, name: str = "module.so", shared: bool = True) -> Path:
        file, made = tmp_path / f"{name}.c", tmp_path / name
        file.write_text(source)
        how = ("-shared", "-fPIC") if shared else ()
        subprocess.run(["cc", *how, "-o", str(made), str(file), *options], check=True, timeout=60)
        made.chmod(0o755)
        return made

    return make


@pytest.fixture
def loading(machine: Machine) -> Iterator[Load]:
    """Load a module as the doctor does."""
    with ExitStack() as closing:

        def make(path: Path, deadline_s: float = 20, driver: Driver = GENERIC, *, asked: bool = False) -> Loaded:
            loaded = load(ModuleFile(machine, path, driver, asked), deadline_s)
            closing.callback(loaded.module.close)
            return loaded

        yield make


def look(machine: Machine, path: Path) -> list[Finding]:
    """Run every file probe on a file that the user named."""
    (file,) = module_files(machine, path)
    return ask_all(FILE_PROBES, file, str(path))


def only(findings: list[Finding], status: Status = Status.FAIL) -> Finding:
    """Return the only problem; its status must match."""
    (found,) = (finding for finding in findings if finding.is_problem)
    assert found.status is status
    return found


def told(finding: Finding, id: str, kind: str, en: str, zh: str) -> dict[str, Any]:
    """Assert a finding's id and kind, and that its remedy contains these words; return its evidence."""
    assert (finding.id, finding.evidence["kind"]) == (id, kind)
    json.dumps(finding.to_json())
    for language, words in (("en", en), ("zh", zh)):
        messages.set_language(language)  # type: ignore[arg-type]
        try:
            texts = finding.cause(), finding.remedy()
        finally:
            messages.set_language(None)
        assert words in str(texts[1])
        assert not [part for text in texts for part in Formatter().parse(str(text)) if part[1] is not None], texts
        assert not [text for text in texts if str(text).startswith("doctor.")]
    return finding.evidence


def refusal(loaded: Loaded) -> str:
    """Return the loader's reason for rejecting a module."""
    assert loaded.error is not None
    return str(loaded.error.details["reason"])


def elsewhere(*words: str) -> list[dict[str, Any]]:
    """Return the findings of a process with fewer privileges."""
    done = subprocess.run([*words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return list(json.loads(done.stdout))


def rebuilt(found: list[dict[str, Any]]) -> list[Finding]:
    return [Finding(one["id"], one["probe"], Status(one["status"]), one["subject"], one["evidence"]) for one in found]
