"""Persistent storage: atomic files, inter-process locks, private folders."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ushield_hw.errors import StorageError, TokenBusy
from ushield_hw.system import storage
from ushield_hw.system.storage import exclusive, state_folder, write_atomically

pytestmark = pytest.mark.unit


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_written_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "f"
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"old and longer")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fails(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "f"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, step, fails)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def noted(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object) -> None:
            done.append(name)
            real(*arguments)

        monkeypatch.setattr(os, name, call)

    noted("fsync")
    noted("replace")
    write_atomically(tmp_path / "f", b"new")
    assert done == ["fsync", "replace", "fsync"]  # the file; its name; the folder


WRITE_FOR_EVER = """\
import itertools, sys
from pathlib import Path
from ushield_hw.system.storage import write_atomically
for n in itertools.count():
    write_atomically(Path(sys.argv[1]), str(n % 10).encode() * 100_000)
"""


def test_a_process_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "f"
    with subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(file)]) as writer:
        while not file.exists() and writer.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        writer.kill()
    content = file.read_bytes()
    assert (len(content), len(set(content))) == (100_000, 1)


# --- locks ------------------------------------------------------------------------------------------------------------

HOLD = """\
import sys, time
from pathlib import Path
from ushield_hw.system.storage import exclusive
with exclusive(Path(sys.argv[1]), "JOURNAL_UNUSABLE", "nobody"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(file: Path) -> subprocess.Popen[str]:
    """Return another process that holds the lock until its stdin is closed."""
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdin=pipe, stdout=pipe, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_lock_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LOCK_WAIT_S", 0.1)
    with holder(tmp_path / "f.json") as other:
        with pytest.raises(TokenBusy) as caught, exclusive(tmp_path / "f.json", "JOURNAL_UNUSABLE", "the other one"):
            raise AssertionError("both hold it")
        other.kill()
    assert caught.value.details["holder"] == "the other one"


def test_a_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    with holder(tmp_path / "f.json") as other:
        other.kill()
        other.wait()
        with exclusive(tmp_path / "f.json", "JOURNAL_UNUSABLE", "the other one"):
            pass


def test_a_lock_comes_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), exclusive(tmp_path / "f.json", "JOURNAL_UNUSABLE", "x"):
        raise KeyError
    with exclusive(tmp_path / "f.json", "JOURNAL_UNUSABLE", "x"):
        pass


def test_files_with_different_names_have_different_locks(tmp_path: Path) -> None:
    with exclusive(tmp_path / "a.json", "X", "x"), exclusive(tmp_path / "b.json", "X", "x"):
        pass


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught, exclusive(tmp_path / "nowhere/f.json", "JOURNAL_UNUSABLE", "x"):
        pass
    assert (caught.value.code, caught.value.details["path"]) == ("JOURNAL_UNUSABLE", str(tmp_path / "nowhere/f.json"))


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_made_for_its_owner(tmp_path: Path) -> None:
    folder = state_folder(tmp_path / "a/b", "journal")
    assert folder == tmp_path / "a/b/journal"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert state_folder(tmp_path / "a/b", "journal") == folder


@pytest.mark.parametrize("mode", [0o702, 0o777])
def test_a_folder_that_others_may_write_to(tmp_path: Path, mode: int) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal").chmod(mode)
    with pytest.raises(StorageError) as caught:
        state_folder(tmp_path, "journal")
    assert (caught.value.code, caught.value.details["path"]) == ("STATE_UNSAFE", str(tmp_path / "journal"))


@pytest.mark.parametrize("umask", [0, 0o777])
def test_what_is_made_is_for_its_owner_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = state_folder(tmp_path / "a/b", "journal")
        write_atomically(folder / "f.json", b"{}")
        with exclusive(folder / "f.json", "JOURNAL_UNUSABLE", "x"):
            pass
    finally:
        os.umask(before)
    made = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a").rglob("*")}
    assert len(made) == 4
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in made.items()), made
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_a_folder_under_one_that_others_may_write_to(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(StorageError) as caught:
        state_folder(tmp_path / "shared/mine", "journal")
    assert (caught.value.code, caught.value.details["place"]) == ("STATE_UNSAFE", str(tmp_path / "shared"))
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(StorageError) as caught:
        state_folder(tmp_path, "journal")
    assert caught.value.code == "STATE_UNSAFE"


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    with pytest.raises(StorageError) as caught:
        state_folder(tmp_path, "journal")
    assert caught.value.code == "STATE_FOLDER_UNUSABLE"


def test_no_folder_can_be_named() -> None:
    with pytest.raises(StorageError) as caught:
        state_folder(None, "journal")
    assert caught.value.code == "STATE_FOLDER_UNKNOWN"
