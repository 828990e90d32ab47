"""System limits are reported as such, and a fallback is used where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.tree import ROOT
from tests.soft import SOFTHSM, Soft
from tests.stack.deployed.conftest import Run
from ushield_hw.system.limits import limit_reached, of_loader, side_by_side

pytestmark = pytest.mark.stack

WORKER = """
import resource
from pathlib import Path
from ushield_hw.backend.model import ModuleOptions
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.module import open_module

def worker(deadline_s=20):
    return open_module(Path(os.environ["TOKEN_MODULE"]), Isolation.PROCESS, ModuleOptions(), deadline_s=deadline_s)

def look(module):
    try:
        return bool(module.slots())
    except UShieldError as error:
        return error.code, error.details.get("limit"), "driver" not in error.message.lower()
"""


def shim(folder: Path, code: str) -> dict[str, str]:
    """Return the LD_PRELOAD variable for a library that replaces C library functions."""
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text("#define _GNU_SOURCE\n#include <errno.h>\n#include <stdarg.h>\n#include <unistd.h>\n" + code)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60)
    return {"LD_PRELOAD": str(library)}


WITHOUT_PIDFD = """
#include <dlfcn.h>
#include <sys/syscall.h>
long syscall(long number, ...) {
    va_list all; va_start(all, number);
    long a = va_arg(all, long), b = va_arg(all, long), c = va_arg(all, long);
    long d = va_arg(all, long), e = va_arg(all, long), f = va_arg(all, long);
    va_end(all);
    if (number == SYS_pidfd_open) { errno = ERROR; return -1; }
    return ((long (*)(long, ...)) dlsym(RTLD_NEXT, "syscall"))(number, a, b, c, d, e, f);
}
"""
WITHOUT_MEMFD = "int memfd_create(const char *name, unsigned flags) { errno = ERROR; return -1; }"


@pytest.mark.parametrize("number", ["ENOSYS", "EPERM"])
def test_without_pidfd_a_worker_signs_crashes_and_is_replaced(run: Run, tmp_path: Path, number: str) -> None:
    said = run(
        WORKER
        + """
import signal, time
try:
    os.pidfd_open(os.getpid())
except OSError as error:
    print(error.errno in (1, 38))
module = worker()
print(look(module))
process = module._connection.transport._process
os.kill(process.pid, signal.SIGKILL)
print(process.wait(5), module.loaded, look(module))
module.close()
print(module.loaded, sign())
""",
        **shim(tmp_path, WITHOUT_PIDFD.replace("ERROR", number)),
    )
    assert said == ["True", "True", "-9 False True", "False signed"]


@pytest.mark.parametrize("number", ["ENOSYS", "EPERM"])
def test_without_memfd_there_is_a_file_without_a_name(run: Run, tmp_path: Path, number: str) -> None:
    code = WITHOUT_MEMFD.replace("ERROR", number)
    said = run(WORKER + "print(look(worker()))", **shim(tmp_path, code))
    assert said == ["True"]


def test_in_a_working_directory_that_was_removed(run: Run) -> None:
    said = run(
        WORKER
        + """
import tempfile
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
print(look(worker()), sign())
"""
    )
    assert said == ["True signed"]


def test_too_many_open_files(run: Run) -> None:
    said = run(
        WORKER
        + """
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
kept = []
try:
    while True:
        kept.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
module = worker()
print(look(module))
for descriptor in kept:
    os.close(descriptor)
print(look(module))
"""
    )
    assert said == ["('SYSTEM_LIMIT', 'RLIMIT_NOFILE', True)", "True"]


SLOW_TO_SAY = """
#include <dlfcn.h>
#include <sys/socket.h>
ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    ssize_t size = ((ssize_t (*)(int, struct msghdr *, int)) dlsym(RTLD_NEXT, "recvmsg"))(fd, message, flags);
    if (message->msg_flags & MSG_CTRUNC) usleep(DELAY);
    return size;
}
"""


@pytest.mark.parametrize("delay_us", [0, 700_000], ids=["at-once", "busy-machine"])
def test_a_worker_without_room_for_another_call_keeps_its_logins(run: Run, tmp_path: Path, delay_us: int) -> None:
    said = run(
        WORKER
        + """
import threading
from concurrent.futures import ThreadPoolExecutor
module = worker()
module.slots()
before = module._connection.transport._process.pid
resource.prlimit(before, resource.RLIMIT_NOFILE, (0, 0))
transport = module._connection.transport
taken = transport._lease()  # the only channel there is
print(sorted({str(look(module)) for _ in range(3)}), module._connection.transport._process.pid == before)
taken.channel.close()
""",
        **shim(tmp_path, SLOW_TO_SAY.replace("DELAY", str(delay_us))),
    )
    assert said[-1].endswith("True")
    assert "RLIMIT_NOFILE" in said[-1]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("pid_t fork(void) { errno = EAGAIN; return -1; }", "('SYSTEM_LIMIT', 'RLIMIT_NPROC', True)"),
        ("pid_t fork(void) { errno = ENOMEM; return -1; }", "('SYSTEM_LIMIT', 'RLIMIT_AS', True)"),
        ("int pthread_create() { return EAGAIN; }", "('SYSTEM_LIMIT', 'RLIMIT_NPROC', True)"),
    ],
)
def test_no_further_process_or_thread(run: Run, tmp_path: Path, code: str, said: str) -> None:
    assert run(WORKER + "print(look(worker()))", **shim(tmp_path, code)) == [said]


def test_what_a_worker_has_refused_before_it_was_asked_is_read(run: Run, tmp_path: Path) -> None:
    late = """
import time
from ushield_hw.backend.protocol import Channel
send = Channel.send
def later(channel, message):
    if isinstance(message, tuple) and message[0] == "slots":
        time.sleep(0.5)
    send(channel, message)
Channel.send = later
"""
    code = "int pthread_create() { return EAGAIN; }"
    said = run(WORKER + late + "print(look(worker()))", **shim(tmp_path, code))
    assert said == ["('SYSTEM_LIMIT', 'RLIMIT_NPROC', True)"]


def test_without_threads_modules_are_looked_at_one_after_the_other(run: Run, tmp_path: Path) -> None:
    code = "int pthread_create() { return EAGAIN; }"
    serial = "print([token.serial == os.environ['TOKEN_SERIAL'] for token in us.find_tokens()].count(True))"
    assert run(serial, **shim(tmp_path, code)) == ["1"]


def test_what_the_loader_and_python_say() -> None:
    out_of_memory = of_loader("x.so: failed to map segment from shared object: Cannot allocate memory")
    assert out_of_memory is not None
    assert out_of_memory.details["limit"] == "RLIMIT_AS"
    assert of_loader("x.so: undefined symbol: C_Sign") is None
    memory = limit_reached(MemoryError())
    assert memory is not None
    assert "RLIMIT_AS" in memory.message
    assert limit_reached(RuntimeError("another")) is None
    assert limit_reached(FileNotFoundError(2, "no such file")) is None


def test_an_error_of_one_of_several_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda number: 1 // number, [1, 0, 2])


# --- program exit -----------------------------------------------------------------------------------------------------

# Acts as PID 1 of a container without an init: orphaned processes become its children and are never reaped.
FIRST = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
ended = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
time.sleep(0.3)
left = []
for status in Path("/proc").glob("[0-9]*/stat"):
    try:
        name, _, rest = status.read_text().rpartition(")")
    except OSError:
        continue
    if int(rest.split()[1]) == os.getpid():
        left.append(f"{name}) {rest.split()[0]}")
print(ended, left)
"""

PROGRAMS = {
    "command": ["-m", "ushield_hw.cli", "list", "--json"],
    "doctor": ["-m", "ushield_hw.cli", "doctor", "--module", str(SOFTHSM), "--json"],
    "program": ["-W", "error", "-c", "import ushield_hw as us; us.find_tokens()"],
    "module": [
        *("-W", "error", "-c"),
        "from ushield_hw.backend.module import *\nfrom ushield_hw.backend.model import ModuleOptions\n"
        f"module = Module(Path({str(SOFTHSM)!r}), Isolation.PROCESS, ModuleOptions(), 20)\nmodule.slots()",
    ],
    "multiprocessing": [
        "-c",
        "import ushield_hw as us, multiprocessing as mp\nif __name__ == '__main__':\n"
        " child = mp.get_context('fork').Process(target=us.find_tokens)\n child.start()\n child.join()",
    ],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_is_left_of_a_program_that_has_ended(soft: Soft, tmp_path: Path, program: str) -> None:
    first = [sys.executable, "-c", FIRST, sys.executable, *PROGRAMS[program]]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(first, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=True)
    code, _, left = done.stdout.strip().partition(" ")
    assert (code in {"0", "3", "6"}, left) == (True, "[]"), done.stderr
    assert "ResourceWarning" not in done.stderr
