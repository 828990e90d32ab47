"""Loading a module in a worker: it crashes, hangs, is too old, or shows a token twice."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Final

import pytest

from tests.soft import DRIVER, SOFTHSM, Soft
from tests.stack.doctor.modules import LIST, Compile, Load, look, only, told
from ushield_hw.doctor.finding import Status, ask_all
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.module_file import LOADED_PROBES, once
from ushield_hw.testing.faulty import Fault, crashes, faulty_module, hangs, returns

pytestmark = pytest.mark.stack

CONSTRUCTOR: Final = (
    "#include <signal.h>\n#include <unistd.h>\n__attribute__((constructor)) static void begin(void) { %s }\n"
)
# Exports all functions of PKCS#11 2.x, of which only the first three are implemented.
STUB: Final = """
#include <string.h>
typedef unsigned long rv;
static struct {{ unsigned char version[2]; rv (*functions[68])(void *); }} list;
static rv fine(void *any) {{ return 0; }}
static rv lacks(void *any) {{ return 0x54; }}
static rv info(void *out) {{ memset(out, 0, 96); ((char *)out)[0] = {major}; ((char *)out)[1] = {minor}; return 0; }}
static rv no_slots(unsigned char present, rv *slots, rv *count) {{ *count = 0; return 0; }}
rv C_GetFunctionList(void **out) {{
    list.version[0] = {major}; list.version[1] = {minor};
    for (int i = 0; i < 68; i++) list.functions[i] = lacks;
    list.functions[0] = list.functions[1] = fine;
    list.functions[2] = info;
    if ({slots}) list.functions[4] = (rv (*)(void *))no_slots;
    *out = &list;
    return 0;
}}
"""


def test_a_module_that_loads_is_found_in_order(soft: Soft, loading: Load) -> None:
    loaded = loading(SOFTHSM, driver=DRIVER)
    findings = ask_all(LOADED_PROBES, loaded)
    assert [(one.id, one.status) for one in findings] == [(id, Status.OK) for id in ("E47", "E48", "E49")]
    assert once((loaded,)).status is Status.OK
    assert once(()).status is Status.SKIP


# --- E47 to E49: results of loading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "reason"),
    [("raise(SIGSEGV);", "SIGSEGV (signal 11)"), ("raise(SIGABRT);", "SIGABRT (signal 6)"), ("_exit(7);", "exit 7")],
)
def test_a_module_that_crashes_while_it_is_loaded_is_told_with_the_signal(
    machine: Machine, built: Compile, loading: Load, end: str, reason: str
) -> None:
    path = built(LIST + CONSTRUCTOR % end)
    assert [one for one in look(machine, path) if one.is_problem] == []  # not visible in the file
    found = only(ask_all(LOADED_PROBES, loading(path)))
    assert told(found, "E47", "crashed", "send this finding to the vendor", "发给厂商")["reason"] == reason


@pytest.mark.parametrize("function", ["C_Initialize", "C_GetSlotList"])
def test_a_module_that_crashes_in_a_call_is_told(soft: Soft, tmp_path: Path, loading: Load, function: str) -> None:
    faulty = faulty_module(tmp_path / "faulty", SOFTHSM, [Fault(function, None, crashes())])
    found = only(ask_all(LOADED_PROBES, loading(faulty.path, driver=DRIVER)))
    assert (
        told(found, "E47", "crashed", "Update the vendor's driver", "升级厂商驱动")["reason"] == "SIGSEGV (signal 11)"
    )


def test_a_module_that_the_loader_refuses_after_all_is_told_in_its_words(built: Compile, loading: Load) -> None:
    path = built(LIST + "extern int nowhere; int *use(void) { return &nowhere; } int *kept = &nowhere;")
    found = only(ask_all(LOADED_PROBES, loading(path)))
    assert "nowhere" in told(found, "E47", "refused", "the loader's message", "加载器的报错")["reason"]


def test_a_module_that_hangs_while_it_is_loaded_is_told_within_the_deadline(built: Compile, loading: Load) -> None:
    began = time.monotonic()
    loaded = loading(built(LIST + CONSTRUCTOR % "for (;;) pause();"), deadline_s=1)
    found = only(ask_all(LOADED_PROBES, loaded))
    assert time.monotonic() - began < 6
    assert told(found, "E48", "load", "restart pcscd", "重启智能卡服务")["seconds"] == 1


@pytest.mark.parametrize(("function", "kind"), [("C_Initialize", "load"), ("C_GetSlotList", "call")])
def test_a_module_that_hangs_in_a_call_is_told(
    soft: Soft, tmp_path: Path, loading: Load, function: str, kind: str
) -> None:
    faulty = faulty_module(tmp_path / "faulty", SOFTHSM, [Fault(function, None, hangs())])
    found = only(ask_all(LOADED_PROBES, loading(faulty.path, 1, DRIVER)))
    told(found, "E48", kind, "Close other programs", "关闭其他正在使用 U盾的程序")


def test_a_module_of_an_old_standard_is_a_warning_with_its_version(built: Compile, loading: Load) -> None:
    loaded = loading(built(STUB.format(major=2, minor=11, slots=1)))
    assert loaded.error is None
    found = only(ask_all(LOADED_PROBES, loaded), Status.WARN)
    assert told(found, "E49", "old", "Update the vendor's driver", "升级厂商驱动")["version"] == "2.11"
    assert not [
        one
        for one in ask_all(LOADED_PROBES, loading(built(STUB.format(major=2, minor=20, slots=1), name="new.so")))
        if one.is_problem
    ]


def test_a_module_that_lacks_functions_is_told_with_their_names(
    built: Compile, soft: Soft, tmp_path: Path, loading: Load
) -> None:
    found = only(ask_all(LOADED_PROBES, loading(built(STUB.format(major=2, minor=40, slots=0)))))
    told(found, "E49", "functions", "full PKCS#11 module", "完整的 PKCS#11 模块")
    assert found.evidence["functions"] == ["C_GetSlotList"]
    lacking = [Fault("C_GetInfo", None, returns("CKR_FUNCTION_NOT_SUPPORTED"))]
    faulty = faulty_module(tmp_path / "faulty", SOFTHSM, lacking)
    assert only(ask_all(LOADED_PROBES, loading(faulty.path, driver=DRIVER))).id == "E49"


# --- E50: shown twice -------------------------------------------------------------------------------------------------


def test_a_token_that_shows_through_two_modules_is_a_warning_with_both(
    soft: Soft, tmp_path: Path, loading: Load
) -> None:
    copy = tmp_path / "copy.so"
    shutil.copy(SOFTHSM, copy)
    link = tmp_path / "link.so"
    link.symlink_to(SOFTHSM)
    one, two, same = (loading(path, driver=DRIVER) for path in (SOFTHSM, copy, link))
    assert once((one, same)).status is Status.OK
    found = once((one, two))
    assert found.status is Status.WARN
    evidence = told(found, "E50", "twice", "name the module", "指定模块")
    assert soft.serial in evidence["serials"]
    assert evidence["modules"] == sorted([str(copy), str(SOFTHSM)])


@pytest.mark.parametrize(("asked", "status"), [(True, Status.FAIL), (False, Status.WARN)])
def test_p11_kits_proxy_is_told_from_a_module(soft: Soft, loading: Load, asked: bool, status: Status) -> None:
    (proxy,) = Path("/usr/lib").glob("*-linux-gnu/p11-kit-proxy.so")
    loaded = loading(proxy, asked=asked)
    assert [one for one in ask_all(LOADED_PROBES, loaded) if one.is_problem] == []
    found = once((loading(SOFTHSM, driver=DRIVER), loaded))
    assert found.status is status
    told(found, "E50", "proxy", "p11-kit list-modules", "p11-kit list-modules")
