"""Building the faulty module: compiled once per user, copied to the requested path, not required otherwise."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.tree import ROOT
from tests.stack.faulty.raw_module import RawModule
from tests.stack.faulty.soft_token import SOFTHSM
from ushield_hw.errors import InputError, StorageError
from ushield_hw.testing.compiled import Part, built
from ushield_hw.testing.faulty import FaultyModule, faulty_module

pytestmark = pytest.mark.stack


# --- the file and its build -------------------------------------------------------------------------------------------


def test_nothing_is_overwritten(module: FaultyModule) -> None:
    with pytest.raises(FileExistsError):
        faulty_module(module.path.parent, SOFTHSM)
    other = faulty_module(module.path.parent, SOFTHSM, name="other.so")
    RawModule(other.path)
    assert (other.count("C_GetFunctionList"), module.count("C_GetFunctionList")) == (1, 0)


def test_no_target(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        faulty_module(tmp_path, "/nowhere/libvendor.so")
    assert caught.value.code == "FAULTY_TARGET_MISSING"
    assert caught.value.details["path"] == "/nowhere/libvendor.so"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/ushield-hw-testing"


def test_built_once_into_a_private_folder(cache: Path) -> None:
    file = built(Part.FAULTY_MODULE)
    assert file.parent == cache
    assert cache.stat().st_mode & 0o777 == 0o700
    state = file.stat()
    assert built(Part.FAULTY_MODULE) == file
    assert file.stat().st_mtime_ns == state.st_mtime_ns
    assert list(cache.iterdir()) == [file]


def test_another_compiler_makes_another_file(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = built(Part.FAULTY_MODULE)
    wrapper = tmp_path / "my-cc"
    wrapper.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "my-cc 1.0" && exit\nexec cc "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", f"{wrapper}")
    assert built(Part.FAULTY_MODULE) != first


def test_built_by_several_at_once(cache: Path) -> None:
    program = "from ushield_hw.testing.compiled import Part, built; print(built(Part.FAULTY_MODULE))"
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {process.communicate(timeout=60)[0].strip() for process in processes}
    (file,) = cache.iterdir()
    assert outputs == {str(file)}
    assert hasattr(ctypes.CDLL(str(file)), "C_GetFunctionList")


def test_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("HOME")
    assert built(Part.FAULTY_MODULE).parent == tmp_path / f"ushield-hw-testing-{os.getuid()}"
    monkeypatch.setenv("HOME", "/proc/nowhere")
    assert built(Part.FAULTY_MODULE).parent == tmp_path / f"ushield-hw-testing-{os.getuid()}"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert built(Part.FAULTY_MODULE).parent == tmp_path / "home/.cache/ushield-hw-testing"


def test_a_folder_that_others_can_write_is_refused(cache: Path, tmp_path: Path) -> None:
    cache.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    cache.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError) as caught:
        built(Part.FAULTY_MODULE)
    assert caught.value.code == "FAULTY_CACHE_UNTRUSTED"
    cache.unlink()
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(StorageError) as caught:
        built(Part.FAULTY_MODULE)
    assert caught.value.details["path"] == str(cache)


def test_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc -m64")
    with pytest.raises(InputError) as caught:
        built(Part.FAULTY_MODULE)
    assert caught.value.code == "COMPILER_MISSING"
    assert caught.value.details["compiler"] == "/nowhere/cc -m64"


def test_a_compiler_that_fails(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit\necho no headers >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(InputError) as caught:
        built(Part.FAULTY_MODULE)
    assert (caught.value.code, caught.value.details["output"]) == ("COMPILER_FAILED", "no headers\n")
    assert list(cache.iterdir()) == []


def test_needs_no_test_framework_and_is_needed_by_nobody() -> None:
    script = (
        "import sys\n"
        "import ushield_hw.testing.faulty\n"
        "assert not {'pytest', '_pytest'} & set(sys.modules), 'pytest was imported'\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=20)
    importing = [
        path
        for path in (ROOT / "ushield_hw").rglob("*.py")
        if "testing" not in path.parts and "ushield_hw.testing.faulty" in path.read_text(encoding="utf-8")
    ]
    assert importing == []
