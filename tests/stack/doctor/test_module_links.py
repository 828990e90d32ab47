"""A module's dependencies and exports: the doctor's prediction matches what the dynamic loader reports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import pytest

from tests.soft import DRIVER, SOFTHSM, Soft
from tests.stack.doctor.modules import LIST, Compile, Load, look, only, refusal, told
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.inspect.packages import LIBRARIES

pytestmark = pytest.mark.stack

CALLER: Final = "int C_GetFunctionList(void *); int use(void) { return C_GetFunctionList(0); }"

# --- E45, E46: dependencies and exports -------------------------------------------------------------------------------


def needing(built: Compile, soname: str, *options: str) -> Path:
    """Build a module that depends on a library of this name, which is then deleted."""
    library = built("int there;", f"-Wl,-soname,{soname}", name="libthere.so")
    module = built(LIST + "extern int there; int *use(void) { return &there; }", str(library), *options)
    library.unlink()
    return module


# A library that is not installed here, with its package.
ABSENT, PACKAGE = next(known for known in LIBRARIES.items() if not any(Path("/usr/lib").glob(f"*/{known[0]}")))


@pytest.mark.parametrize(
    "case",
    [
        ("libssl.so.1.1", "gone", ("in no package of Debian 12", "适配本系统的驱动")),
        (ABSENT, "packages", (f"apt-get install {PACKAGE}",) * 2),
        ("libbankvendor.so.3", "unknown", ("apt-file search libbankvendor.so.3",) * 2),
    ],
)
def test_a_library_that_is_missing_is_named_with_what_to_install(
    machine: Machine, built: Compile, loading: Load, case: tuple[str, str, tuple[str, str]]
) -> None:
    soname, kind, words = case
    path = needing(built, soname)
    evidence = told(only(look(machine, path)), "E45", kind, *words)
    assert (evidence["missing"], evidence["needed_by"]) == ([soname], [str(path)])
    assert soname in refusal(loading(path))


def test_several_missing_libraries_are_installed_by_one_command(machine: Machine, built: Compile) -> None:
    known = [name for name in LIBRARIES if not any(Path("/usr/lib").glob(f"*/{name}"))][:2]
    first, second = (built(f"int there{at};", f"-Wl,-soname,{name}", name=name) for at, name in enumerate(known))
    calls = "extern int there0, there1; int *use(int at) { return at ? &there1 : &there0; }"
    path = built(LIST + calls, str(first), str(second))
    first.unlink()
    second.unlink()
    packages = " ".join(sorted({LIBRARIES[name] for name in known}))
    told(only(look(machine, path)), "E45", "packages", *(f"sudo apt-get install {packages}",) * 2)


def test_a_library_that_lies_beside_the_module_is_pointed_out(machine: Machine, built: Compile, loading: Load) -> None:
    path = needing(built, "libbankvendor.so.3")
    beside = built("int there;", name="libbankvendor.so.3")
    told(only(look(machine, path)), "E45", "found", str(beside), "ldconfig")
    assert beside.name in refusal(loading(path))
    machine.environ = {"LD_LIBRARY_PATH": f"/nowhere:{beside.parent}"}
    assert [one for one in look(machine, path) if one.is_problem] == []


@pytest.mark.parametrize("tag", ["enable", "disable"])  # DT_RUNPATH, DT_RPATH
def test_a_library_beside_a_module_that_says_so_is_found_as_the_loader_does(
    machine: Machine, built: Compile, loading: Load, tag: str
) -> None:
    path = needing(built, "libbankvendor.so.3", "-Wl,-rpath,$ORIGIN", f"-Wl,--{tag}-new-dtags")
    built("int there;", name="libbankvendor.so.3")
    assert [one for one in look(machine, path) if one.is_problem] == []
    assert "C_GetFunctionList" not in refusal(loading(path))


def test_a_library_below_a_library_is_followed(machine: Machine, built: Compile, tmp_path: Path) -> None:
    deep = built("int there;", "-Wl,-soname,libdeep.so.1", name="libdeep.so.1")
    middle = built(
        "extern int there; int *mid(void) { return &there; }", str(deep), "-Wl,-soname,libmid.so.1", name="libmid.so.1"
    )
    path = built(
        LIST + "extern int *mid(void); int *use(void) { return mid(); }", str(middle), str(deep), "-Wl,-rpath,$ORIGIN"
    )
    deep.unlink()
    evidence = only(look(machine, path)).evidence
    assert evidence["missing"] == ["libdeep.so.1"]
    assert str(middle) in evidence["needed_by"]


@pytest.mark.parametrize(("tag", "missing"), [("enable", ["libdeep.so.1"]), ("disable", [])])  # DT_RUNPATH, DT_RPATH
def test_a_modules_folders_count_for_what_is_below_only_as_the_loader_has_it(
    machine: Machine, built: Compile, loading: Load, tag: str, missing: list[str]
) -> None:
    deep = built("int there;", "-Wl,-soname,libdeep.so.1", name="libdeep.so.1")
    source = "extern int there; int *mid(void) { return &there; }"
    middle = built(source, str(deep), "-Wl,-soname,libmid.so.1", name="libmid.so.1")
    options = (str(middle), "-Wl,-rpath,$ORIGIN", f"-Wl,--{tag}-new-dtags", f"-Wl,-rpath-link,{deep.parent}")
    path = built(LIST + "extern int *mid(void); int *use(void) { return mid(); }", *options)
    found = {one.id: one for one in look(machine, path)}["E45"]
    assert found.evidence.get("missing", []) == missing
    assert ("libdeep.so.1" in refusal(loading(path))) is bool(missing)


@pytest.mark.parametrize(
    ("inner", "place"), [("$ORIGIN/sub", "sub"), ("/nowhere", "sub"), ("/nowhere", ".")], ids=["own", "none", "above"]
)
def test_folders_of_a_library_between_are_its_own_and_leave_those_above_in_force(
    machine: Machine, built: Compile, loading: Load, inner: str, place: str
) -> None:
    folder = built("int there;", "-Wl,-soname,libdeep.so.1", name="libdeep.so.1").parent
    (folder / "sub").mkdir()
    link = f"-Wl,-rpath-link,{folder}:{folder / 'sub'}"
    below = "extern int there; int *low(void) { return &there; }"
    low = built(below, str(folder / "libdeep.so.1"), "-Wl,-soname,liblow.so.1", name=f"{place}/liblow.so.1")
    missing = ["liblow.so.1"] if inner == "/nowhere" else []
    own = ("-Wl,-soname,libmid.so.1", f"-Wl,-rpath,{inner}", "-Wl,--enable-new-dtags", link)
    middle = built("extern int *low(void); int *mid(void) { return low(); }", str(low), *own, name="libmid.so.1")
    options = (str(middle), "-Wl,-rpath,$ORIGIN", "-Wl,--disable-new-dtags", link)
    path = built(LIST + "extern int *mid(void); int *use(void) { return mid(); }", *options)
    assert {one.id: one for one in look(machine, path)}["E45"].evidence.get("missing", []) == missing
    assert ("liblow.so.1" in refusal(loading(path))) is bool(missing)


def test_a_library_of_the_same_name_for_another_processor_is_passed_over(
    machine: Machine, built: Compile, tmp_path: Path, loading: Load
) -> None:
    path = needing(built, "libbankvendor.so.3", "-Wl,-rpath,$ORIGIN/other:$ORIGIN")
    right = built("int there;", name="libbankvendor.so.3")
    (tmp_path / "other").mkdir()
    other = bytearray(right.read_bytes())
    other[18:20] = (0x9916).to_bytes(2, sys.byteorder)  # e_machine
    (tmp_path / "other" / right.name).write_bytes(other)
    assert [one for one in look(machine, path) if one.is_problem] == []
    assert right.name not in refusal(loading(path))
    right.unlink()
    assert only(look(machine, path)).evidence["missing"] == [right.name]
    assert right.name in refusal(loading(path))


def test_a_module_for_a_newer_system_is_told_with_the_version(
    machine: Machine, built: Compile, tmp_path: Path, loading: Load
) -> None:
    def library(version: str) -> Path:
        (tmp_path / "map").write_text(f"{version} {{ global: there; local: *; }};")
        options = (f"-Wl,--version-script={tmp_path / 'map'}", "-Wl,-soname,libthere.so.1")
        return built("int there;", *options, name="libthere.so.1")

    newer = library("THERE_9.9")
    path = built(LIST + "extern int there; int *use(void) { return &there; }", str(newer), "-Wl,-rpath,$ORIGIN")
    assert [one for one in look(machine, path) if one.is_problem] == []
    library("THERE_1.0")
    evidence = told(only(look(machine, path)), "E45", "version", "/etc/os-release", "/etc/os-release")
    assert evidence["versions"] == ["THERE_9.9 (libthere.so.1)"]
    assert "THERE_9.9" in refusal(loading(path))


@pytest.mark.parametrize(
    ("source", "kind", "en", "zh"),
    [
        ("int nothing;", "other", "pkcs11, p11 or cryptoki", "pkcs11、p11 或 cryptoki"),
        (CALLER, "other", "pkcs11, p11 or cryptoki", "pkcs11、p11 或 cryptoki"),
        (
            "int SKF_EnumDev(void) { return 0; }",
            "skf",
            "the PKCS#11 module of the same token",
            "同一款 U盾的 PKCS#11 模块",
        ),
        ("int C_GetInterface(void) { return 0; }", "interface", "a complete module", "完整的模块"),
    ],
)
@pytest.mark.parametrize("style", ["gnu", "sysv"])
def test_a_library_for_something_else_is_told_for_what_it_is(
    machine: Machine, built: Compile, source: str, kind: str, en: str, zh: str, style: str
) -> None:
    path = built(source, f"-Wl,--hash-style={style}")
    told(only(look(machine, path)), "E46", kind, en, zh)


def test_a_thin_module_before_a_real_one_counts_as_the_loader_sees_it(
    machine: Machine, built: Compile, soft: Soft, loading: Load
) -> None:
    path = built("int nothing;", "-Wl,--no-as-needed", str(SOFTHSM), f"-Wl,-rpath,{SOFTHSM.parent}")
    assert [one for one in look(machine, path) if one.is_problem] == []
    assert loading(path, driver=DRIVER).error is None
