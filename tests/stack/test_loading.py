"""Files that are not modules, and modules that do not load: a specific error in bounded time, never a crash."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project.tree import ROOT
from tests.soft import OPTIONS, SOFTHSM, Soft
from tests.stack.bench import Bench, ends
from ushield_hw.backend import protocol
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ModuleOptions
from ushield_hw.backend.module import Module
from ushield_hw.errors import DriverLoadError, DriverNotFound, DriverUntrusted
from ushield_hw.testing.faulty import Fault, crashes, faulty_module, hangs, returns

pytestmark = pytest.mark.stack

Compile = Callable[[str], Path]
CONSTRUCTOR = (
    "#include <signal.h>\n#include <unistd.h>\n__attribute__((constructor)) static void begin(void) {{ {} }}\n"
)
LIST = "unsigned long C_GetFunctionList(void **list) {{ {} }}\n"


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """Compile a shared object from C source."""

    def make(source: str) -> Path:
        file, built = tmp_path / "module.c", tmp_path / "module.so"
        file.write_text(source)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(built), str(file)], check=True, timeout=60)
        built.chmod(0o755)
        return built

    return make


def refused(path: Path, deadline_s: float = 20, isolation: Isolation = Isolation.PROCESS) -> DriverLoadError:
    """Load a file in a worker; return the error."""
    module = Module(path, isolation, ModuleOptions(), deadline_s)
    began = time.monotonic()
    try:
        with pytest.raises(DriverLoadError) as caught:
            module.info()
    finally:
        module.close()
    assert time.monotonic() - began < deadline_s + 3
    assert caught.value.path == str(path)
    return caught.value


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "module.so"
    file.write_text("this is no library")
    assert refused(file).problem == "load_refused"


def test_half_a_library_does_not_end_this_process(tmp_path: Path) -> None:
    file = tmp_path / "module.so"
    whole = SOFTHSM.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert refused(file).problem in {"load_refused", "load_crashed"}


def test_a_library_for_another_machine_is_refused_by_the_loaders_words(tmp_path: Path) -> None:
    file = tmp_path / "module.so"
    raw = bytearray(SOFTHSM.read_bytes())
    raw[4] ^= 3  # EI_CLASS: 64-bit to 32-bit or the reverse
    file.write_bytes(raw)
    error = refused(file)
    assert error.problem == "load_refused"
    assert "ELFCLASS" in str(error.reason)


def test_a_library_that_is_no_pkcs11_module_is_refused_by_the_missing_functions_name(compiled: Compile) -> None:
    error = refused(compiled("int nothing;"))
    assert error.problem == "load_refused"
    assert "C_GetFunctionList" in str(error.reason)


def test_a_module_that_has_no_function_list_is_refused(compiled: Compile) -> None:
    assert refused(compiled(LIST.format("*list = 0; return 0;"))).problem == "load_refused"


def test_a_module_that_refuses_its_function_list_is_refused_with_the_code(compiled: Compile) -> None:
    error = refused(compiled(LIST.format("return 0x80000042UL;")))
    assert (error.problem, error.reason) == ("load_refused", "CKR_VENDOR_DEFINED+0x42")


@pytest.mark.parametrize(("end", "reason"), [("raise(SIGSEGV);", "signal 11"), ("_exit(7);", "exit 7")])
def test_a_module_that_crashes_while_it_is_loaded_is_named_for_that(compiled: Compile, end: str, reason: str) -> None:
    error = refused(compiled(CONSTRUCTOR.format(end)))
    assert (error.problem, error.reason) == ("load_crashed", reason)


def test_a_module_that_hangs_while_it_is_loaded_is_given_up_in_time(compiled: Compile) -> None:
    assert refused(compiled(CONSTRUCTOR.format("for (;;) pause();")), deadline_s=1).problem == "load_hung"


@pytest.mark.parametrize("frame", [b"", b"nonsense", b"[]", b"5", b"{}", b'{"c":"Popen","v":[]}', b'{"d":{"ckr":7}}'])
def test_a_module_that_writes_into_our_channel_is_not_believed(compiled: Compile, frame: bytes) -> None:
    written = protocol._HEAD.pack(len(frame), protocol._JSON) + frame if frame else b"\xff" * 8  # a frame of 4 GiB
    octets = ",".join(map(str, written))
    babble = f"char b[] = {{{octets}}}; for (int f = 3; f < 64; f++) write(f, b, sizeof b); for (;;) pause();"
    assert refused(compiled(CONSTRUCTOR.format(babble))).problem == "load_crashed"


def test_a_module_that_hangs_in_c_initialize_is_given_up_and_its_worker_ended(bench: Bench) -> None:
    bench.faulty.plan([Fault("C_Initialize", None, hangs())])
    assert refused(bench.faulty.path, deadline_s=1).problem == "load_hung"
    with ends(bench.worker()):
        pass


def test_a_module_that_crashes_in_c_initialize_is_named_for_that(bench: Bench) -> None:
    bench.faulty.plan([Fault("C_Initialize", None, crashes())])
    assert refused(bench.faulty.path).problem == "load_crashed"


@pytest.mark.parametrize("isolation", list(Isolation))
@pytest.mark.parametrize("function", ["C_Initialize", "C_GetInfo"])
def test_a_module_that_refuses_to_start_is_refused_with_the_code_and_can_start_later(
    soft: Soft, tmp_path: Path, isolation: Isolation, function: str
) -> None:
    faulty = faulty_module(tmp_path / "refuses", SOFTHSM)
    faulty.plan([Fault(function, 1, returns("CKR_DEVICE_ERROR"))])
    error = refused(faulty.path, isolation=isolation)
    assert (error.problem, error.reason) == ("load_refused", "CKR_DEVICE_ERROR")
    module = soft.module(isolation, faulty.path)
    assert soft.info(module)
    assert [call.rv_name for call in faulty.calls if call.function == "C_Initialize"][-1] == "CKR_OK"


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(DriverNotFound) as caught:
        Module(tmp_path / "none.so", Isolation.PROCESS, OPTIONS, 20).info()
    assert caught.value.searched == [str(tmp_path / "none.so")]


def test_a_file_that_others_could_change_is_not_loaded(compiled: Compile, tmp_path: Path) -> None:
    witness = tmp_path / "loaded"
    file = compiled("#include <fcntl.h>\n" + CONSTRUCTOR.format(f'open("{witness}", O_CREAT, 0600);'))
    file.chmod(0o777)
    with pytest.raises(DriverUntrusted):
        Module(file, Isolation.PROCESS, OPTIONS, 20).info()
    assert not witness.exists()


@pytest.mark.parametrize("where", ["constructor", "C_Initialize"])
def test_a_worker_that_hangs_while_it_loads_goes_when_its_owner_is_killed(
    bench: Bench, compiled: Compile, tmp_path: Path, where: str
) -> None:
    said = tmp_path / "pid"
    # Renamed when complete, so that no process reads a partial file.
    tell = f'FILE *f = fopen("{said}.new", "w"); fprintf(f, "%d", getpid()); fclose(f); rename("{said}.new", "{said}");'
    hanging = compiled("#include <stdio.h>\n" + CONSTRUCTOR.format(tell + " for (;;) pause();"))
    bench.faulty.plan([Fault("C_Initialize", None, hangs())])
    path = hanging if where == "constructor" else bench.faulty.path
    command = [sys.executable, "-m", "tests.stack.programs", "load", str(path)]
    with subprocess.Popen(command, cwd=ROOT) as owner:
        try:
            pid = wait_for_pid(said) if where == "constructor" else bench.faulty.wait_for("C_Initialize").pid
            with ends(pid):
                owner.kill()
        finally:
            owner.kill()


def wait_for_pid(file: Path) -> int:
    deadline = time.monotonic() + 10
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(file.read_text())


@pytest.mark.parametrize("isolation", list(Isolation))
def test_p11_kits_proxy_is_refused_with_what_to_do_instead(isolation: Isolation) -> None:
    (proxy,) = Path("/usr/lib").glob("*-linux-gnu/p11-kit-proxy.so")
    assert refused(proxy, isolation=isolation).problem == "load_proxy"
