"""Processes that hold a PIN exclude the user's other programs, write no core file, and clear the PIN after use."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.soft import SOFTHSM, Soft
from ushield_hw.errors import PinIncorrect
from ushield_hw.system.hardening import forgetting
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.softhsm import CONF_VARIABLE
from ushield_hw.token.pin_operations import change_pin, verify_pin
from ushield_hw.token.session import open_session

pytestmark = pytest.mark.stack

USHIELD = str(Path(sys.executable).parent / "ushield")
SOMEBODY = 65534
SECRET = "73519284605173"
# Root can access every process, so the attack runs as an unprivileged user. (The interpreter may be in a folder of
# root's, which is why the right to search folders is kept.)
RIGHTS = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search", "--securebits", "+no_setuid_fixup")
AS_USER = (
    ("setpriv", "--reuid", str(SOMEBODY), "--regid", str(SOMEBODY), "--clear-groups", *RIGHTS)
    if os.geteuid() == 0
    else ()
)
ATTACK = """
import ctypes, os, sys
pid, found = int(sys.argv[1]), []
try:
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
    found.append("mem")
except PermissionError:
    pass
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(16, pid, 0, 0) == 0:
    os.waitpid(pid, 0x40000000)
    libc.ptrace(17, pid, 0, 0)
    found.append("ptrace")
print(*found)
"""


def attack(pid: int) -> list[str]:
    """Return how another program of the same user can access a process."""
    words = [*AS_USER, sys.executable, "-c", ATTACK, str(pid)]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.split()


@contextmanager
def running(words: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program as that user; it is ended after the block."""
    process = subprocess.Popen([*AS_USER, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder owned by that user."""
    made = tmp_path / "user"
    made.mkdir()
    give(made)
    return made


def give(folder: Path) -> None:
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.lchown(path, SOMEBODY, SOMEBODY)


def descendants(pid: int) -> set[int]:
    """Return all descendants of a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


def core_limit(pid: int) -> str:
    (line,) = (row for row in Path(f"/proc/{pid}/limits").read_text().splitlines() if row.startswith("Max core file"))
    return line.split()[4]


def test_an_ordinary_process_of_the_same_user_is_open(folder: Path) -> None:
    """Control test: the attack succeeds on an ordinary process."""
    with running([sys.executable, "-c", "print(flush=True); input()"], cwd=folder) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert attack(process.pid) == ["mem", "ptrace"]


def test_the_command_is_closed_while_it_holds_a_pin(folder: Path) -> None:
    for name in ("old", "new"):
        os.mkfifo(folder / name, 0o600)
    give(folder)
    words = [USHIELD, "pin", "change", "--pin-source", "old", "--new-pin-source", "new"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    with running(words, cwd=folder, env=environment) as process:
        writer = os.open(folder / "old", os.O_WRONLY)
        os.write(writer, f"{SECRET}\n".encode())
        time.sleep(1)  # it is waiting for the new PIN
        assert attack(process.pid) == []
        assert core_limit(process.pid) == "0"
        os.close(writer)


def test_a_worker_is_closed_though_its_owner_is_not(folder: Path, soft: Soft) -> None:
    copy = shutil.copytree(soft.folder, folder / "soft")
    conf = copy / "softhsm2.conf"
    conf.write_text(conf.read_text().replace(str(soft.folder), str(copy)))
    give(folder)
    program = (
        "import sys; from pathlib import Path; from ushield_hw.backend.module import Isolation, Module;"
        "from ushield_hw.backend.model import ModuleOptions, User;"
        "module = Module(Path(sys.argv[1]), Isolation.PROCESS, ModuleOptions(), 30);"
        "slot = next(s.slot_id for s in module.slots() if s.token and s.token.serial == sys.argv[2]);"
        "module.login(slot, User.USER, input()); print(flush=True); input()"
    )
    environment = {"PATH": os.environ["PATH"], CONF_VARIABLE: str(conf)}
    with running([sys.executable, "-c", program, str(SOFTHSM), soft.serial], cwd=folder, env=environment) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        print(soft.pin, file=owner.stdin, flush=True)
        assert owner.stdout.readline() == "\n"
        (worker,) = (pid for pid in descendants(owner.pid) if SOFTHSM.name in Path(f"/proc/{pid}/maps").read_text())
        assert attack(worker) == []
        assert core_limit(worker) == "0"
        assert attack(owner.pid) == ["mem", "ptrace"]  # the library does not change the calling process


def test_importing_the_library_changes_nothing() -> None:
    program = "import resource; a = resource.getrlimit(4); import ushield_hw; print(a == resource.getrlimit(4))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "True"
    assert resource.RLIMIT_CORE == 4


# --- references -------------------------------------------------------------------------------------------------------


def in_frames(error: BaseException, secret: str) -> list[str]:
    """Return the functions whose frames, kept alive by an error's traceback, hold a string with this content."""
    found, left = [], [error]
    while left:
        one = left.pop()
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
        trace = one.__traceback__
        while trace is not None:
            for value in trace.tb_frame.f_locals.values():
                if secret in (value if isinstance(value, str | tuple | list) else ()):
                    found.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
    return found


@pytest.mark.parametrize("job", ["open", "verify", "change"])
def test_an_error_keeps_no_pin(soft: Soft, job: str) -> None:
    link, wrong = soft.link(soft.module()), "73519284"
    person = Scripted(wrong, wrong + "1") if job == "change" else Scripted(wrong)
    with pytest.raises(PinIncorrect) as caught:
        if job == "open":
            open_session(link, person, "sign")
        elif job == "verify":
            verify_pin(link, person)
        else:
            change_pin(link, person)
    del person
    assert caught.value.__cause__ is not None
    assert [name for name in in_frames(caught.value, wrong) if not name.startswith("test_")] == []


def test_what_an_error_would_keep_otherwise() -> None:
    """Control test: the search finds a PIN where no code clears the frames."""

    def fails(pin: str) -> None:
        raise PinIncorrect

    with pytest.raises(PinIncorrect) as caught:
        fails(SECRET)
    assert in_frames(caught.value, SECRET) == ["fails"]
    with pytest.raises(PinIncorrect) as caught:
        forgetting(lambda: fails(SECRET))()
    assert in_frames(caught.value, SECRET) == []
