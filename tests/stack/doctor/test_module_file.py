"""Layer E on real files: each cause is made, is the one thing that is found, and is told in both languages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Any, Final

import pytest

from tests.project.tree import ROOT
from tests.soft import DRIVER, SETTINGS, SOFTHSM, Soft
from ushield_hw import messages
from ushield_hw.doctor.finding import Finding, Status, ask_all
from ushield_hw.doctor.image import processor
from ushield_hw.doctor.machine import Machine
from ushield_hw.doctor.module_file import FILE_PROBES, LOADED_PROBES, PROBES, module_files, once
from ushield_hw.doctor.packages import LIBRARIES
from ushield_hw.doctor.subjects import Loaded, ModuleFile, load
from ushield_hw.drivers import GENERIC, Driver
from ushield_hw.installed import installed
from ushield_hw.testing.faulty import Fault, crashes, faulty_module, hangs, returns

pytestmark = pytest.mark.stack

Compile = Callable[..., Path]
Load = Callable[..., Loaded]

# As root: without root's right to read what nobody may read.
POWERLESS: Final = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
LIST: Final = "unsigned long C_GetFunctionList(void **list) { *list = 0; return 0; }\n"
CALLER: Final = "int C_GetFunctionList(void *); int use(void) { return C_GetFunctionList(0); }"
CONSTRUCTOR: Final = (
    "#include <signal.h>\n#include <unistd.h>\n__attribute__((constructor)) static void begin(void) { %s }\n"
)
# A module that has all functions of PKCS#11 2.x, of which only the first three do anything.
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


@pytest.fixture
def machine() -> Machine:
    """This machine, as the doctor sees it."""
    return Machine(SETTINGS)


@pytest.fixture
def built(tmp_path: Path) -> Compile:
    """Make a shared object of a C source; returns its path."""

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
    """Put every question about a file that somebody named."""
    (file,) = module_files(machine, path)
    return ask_all(FILE_PROBES, file, str(path))


def only(findings: list[Finding], status: Status = Status.FAIL) -> Finding:
    """Return the one finding that is not good."""
    (found,) = (finding for finding in findings if finding.matters)
    assert found.status is status
    return found


def told(finding: Finding, id: str, kind: str, en: str, zh: str) -> dict[str, Any]:
    """Assert what a finding is and that its remedy has these words; return its evidence."""
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
    """Return the loader's words for not loading a module."""
    assert loaded.error is not None
    return str(loaded.error.details["reason"])


def elsewhere(*words: str) -> list[dict[str, Any]]:
    """Return the findings of a process with fewer rights."""
    done = subprocess.run([*words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return list(json.loads(done.stdout))


def rebuilt(found: list[dict[str, Any]]) -> list[Finding]:
    return [Finding(one["id"], one["probe"], Status(one["status"]), one["subject"], one["evidence"]) for one in found]


# --- nothing wrong ----------------------------------------------------------------------------------------------------


def test_every_module_installed_here_is_found_in_order(machine: Machine) -> None:
    files = module_files(machine)
    assert SOFTHSM in {file.path.resolve() for file in files}
    for file in files:
        findings = ask_all(FILE_PROBES, file)
        assert [one.to_json() for one in findings if one.status is not Status.OK] == []
    assert len(files) == len(installed(machine.catalogue, SETTINGS))


def test_a_module_that_loads_is_found_in_order(soft: Soft, loading: Load) -> None:
    loaded = loading(SOFTHSM, driver=DRIVER)
    findings = ask_all(LOADED_PROBES, loaded)
    assert [(one.id, one.status) for one in findings] == [(id, Status.OK) for id in ("E47", "E48", "E49")]
    assert once((loaded,)).status is Status.OK
    assert once(()).status is Status.SKIP


def test_every_cause_of_the_layer_has_a_probe_and_texts_in_both_languages() -> None:
    assert [one.id for one in PROBES] == [f"E{number}" for number in range(40, 51)]
    ids = [f"doctor.{one.id}.{part}" for one in PROBES for part in ("cause", "remedy")]
    assert [id for id in ids for language in messages.LANGUAGES if not messages.known(id, language)] == []


# --- E40: it is not there ---------------------------------------------------------------------------------------------


def test_a_path_with_a_wrong_end_is_answered_with_the_modules_beside_it(machine: Machine, tmp_path: Path) -> None:
    real = tmp_path / "libbank.so.2"
    shutil.copy(SOFTHSM, real)
    (tmp_path / "libbank.txt").write_text("its licence")
    found = only(look(machine, tmp_path / "libbank.so"))
    assert told(found, "E40", "found", str(real), str(real))["found"] == [str(real)]


def test_a_module_in_another_folder_than_was_said_is_found(machine: Machine) -> None:
    found = only(look(machine, Path("/usr/lib/nowhere") / SOFTHSM.name))
    evidence = told(found, "E40", "found", "Use one of these files", "请改用下列文件")
    assert SOFTHSM in {Path(path).resolve() for path in evidence["found"]}
    assert evidence["package"] == "softhsm2"


def test_a_module_whose_package_is_not_installed_is_answered_with_the_package(tmp_path: Path) -> None:
    bare = Machine(replace(SETTINGS, drivers=()), root=tmp_path)
    file = ModuleFile(bare, tmp_path / "opensc-pkcs11.so", asked=True)
    found = only(ask_all(FILE_PROBES, file))
    told(found, "E40", "package", "sudo apt-get install opensc-pkcs11", "sudo apt-get install opensc-pkcs11")


def test_a_path_that_nobody_knows_is_said_to_be_not_there(machine: Machine, tmp_path: Path) -> None:
    found = only(look(machine, tmp_path / "no-such-thing.so"))
    assert told(found, "E40", "nothing", "install the vendor's driver", "安装厂商提供的驱动")["found"] == []


def test_a_link_that_leads_nowhere_is_named_with_its_target(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "module.so").symlink_to(tmp_path / "removed.so")
    found = only(look(machine, tmp_path / "module.so"))
    evidence = told(found, "E40", "link", "Install the vendor's driver again", "重新安装厂商驱动")
    assert evidence["target"] == str(tmp_path / "removed.so")


def test_a_token_that_is_plugged_in_without_its_driver_is_told_by_its_product(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/usb/devices/1-2"
    device.mkdir(parents=True)
    for name, value in {"idVendor": "055c", "idProduct": "f618", "product": "Bank Key", "bDeviceClass": "00"}.items():
        (device / name).write_text(f"{value}\n")
    folder = tmp_path / "drivers"
    folder.mkdir()
    (folder / "bank-key.toml").write_text(
        'id = "bank-key"\nvendor = "Example"\nproduct = "Key 2"\nkind = "token"\ninterface = "pkcs11"\n'
        'confidence = "low"\nsources = ["https://example.org/"]\n'
        '[[match.usb]]\nvid = "055c"\npid = "f618"\n[module]\nlinux = ["/opt/example/lib/libkey2.so"]\n'
        '[pin]\nflags = "none"\n[pin.unblock]\nvia = "none"\n'
    )
    settings = replace(SETTINGS, drivers=(folder,))
    recorded = Machine(settings, root=tmp_path)
    assert [usb.vid for usb in recorded.usb or ()] == ["055c"]
    file = next(file for file in module_files(recorded) if file.driver.id == "bank-key")
    found = only(ask_all(FILE_PROBES, file))
    assert told(found, "E40", "driver", "Example Key 2", "Example Key 2")["places"] == ["/opt/example/lib/libkey2.so"]
    place = tmp_path / "opt/example/lib/libkey2.so"
    place.parent.mkdir(parents=True)
    shutil.copy(SOFTHSM, place)
    (file,) = (file for file in module_files(Machine(settings, root=tmp_path)) if file.driver.id == "bank-key")
    assert (file.path, FILE_PROBES[0](file).status) == (place, Status.OK)


# --- E41: it may not be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_file_that_may_not_be_read_is_told_with_the_place_and_the_right_that_is_missing(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / "vendor/lib/module.so"
    path.parent.mkdir(parents=True)
    shutil.copy(SOFTHSM, path)
    place = path if what == "file" else tmp_path / "vendor"
    place.chmod(0)
    try:
        answer = elsewhere(*POWERLESS, sys.executable, "-m", "tests.stack.doctor.look", str(path))
    finally:
        place.chmod(0o755)
    right = "a+r" if what == "file" else "a+x"
    evidence = told(only(rebuilt(answer)), "E41", what, f"sudo chmod {right} {place}", f"sudo chmod {right} {place}")
    assert (evidence["place"], evidence["mode"][1:]) == (str(place), "---------")


def test_a_module_on_a_disk_that_allows_no_programs_is_told_with_the_disk(tmp_path: Path) -> None:
    own = () if os.geteuid() == 0 else ("--map-root-user",)
    script = 'mount -t tmpfs -o noexec none "$1" && cp "$2" "$1/m.so" && exec "$3" -m tests.stack.doctor.look "$1/m.so"'
    words = ["sh", "-c", script, "sh", str(tmp_path), str(SOFTHSM), sys.executable]
    answer = elsewhere("unshare", *own, "--mount", *words)
    told(only(rebuilt(answer)), "E41", "noexec", f"remount,exec {tmp_path}", f"remount,exec {tmp_path}")


def test_a_module_that_others_could_change_is_told_with_the_place(machine: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    shutil.copy(SOFTHSM, folder / "module.so")
    folder.chmod(0o777)
    found = only(look(machine, folder / "module.so"))
    told(found, "E41", "untrusted_writable", f"sudo chmod go-w {folder}", f"sudo chmod go-w {folder}")


def test_a_module_of_another_user_is_told_with_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "module.so"
    shutil.copy(SOFTHSM, path)
    place: Path = path
    own: tuple[str, ...] = ()
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    else:  # nobody can give a file away, but where we are root, root's own folders belong to nobody
        place, own = Path("/"), ("unshare", "--map-root-user")
    answer = elsewhere(*own, sys.executable, "-m", "tests.stack.doctor.look", str(path))
    words = f"sudo chown root:root {place}"
    assert told(only(rebuilt(answer)), "E41", "untrusted_owner", words, words)["uid"] == 65534


# --- E42 to E44: what the file is -------------------------------------------------------------------------------------

PE_64: Final = b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0\x64\x86" + bytes(16) + b"\x02\x20" + bytes(200)
MACH_O: Final = b"\xcf\xfa\xed\xfe\x0c\0\0\1\0\0\0\0\6\0\0\0" + bytes(200)


@pytest.mark.parametrize(
    ("content", "kind", "en", "zh"),
    [
        (PE_64, "foreign", "a driver for Windows", "Windows 版驱动"),
        (MACH_O, "foreign", "a driver for macOS", "macOS 版驱动"),
        (b"<!DOCTYPE html><title>Log in</title>", "text", "a page that was saved", "误存的网页"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "lfs-pointer", "git lfs pull", "git lfs pull"),
        (b"#!/bin/sh\nexit 0\n", "script", "run it", "请先运行它"),
        (b"PK\3\4" + bytes(99), "archive", "unpack it", "解压"),
        (bytes(300), "unknown", "install the driver again", "重新安装驱动"),
    ],
)
def test_a_file_that_is_no_library_is_told_for_what_it_is(
    machine: Machine, tmp_path: Path, content: bytes, kind: str, en: str, zh: str
) -> None:
    path = tmp_path / "module.so"
    path.write_bytes(content)
    told(only(look(machine, path)), "E42", kind, en, zh)


def test_a_folder_is_told_from_a_file(machine: Machine, tmp_path: Path) -> None:
    told(only(look(machine, tmp_path)), "E42", "not-a-file", f"ls {tmp_path}", f"ls {tmp_path}")


@pytest.mark.parametrize("options", [(), ("-c",), ("-no-pie",)])
def test_a_program_or_an_object_file_is_no_library(machine: Machine, built: Compile, options: tuple[str, ...]) -> None:
    path = built("int main(void) { return 0; }", *options, shared=False)
    told(only(look(machine, path)), "E42", "program", "not its manager program", "而不是它的管理工具程序")


def test_half_a_download_is_told_with_what_is_missing(machine: Machine, tmp_path: Path) -> None:
    path, whole = tmp_path / "module.so", SOFTHSM.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    evidence = told(only(look(machine, path)), "E43", "truncated", f"sha256sum {path}", f"sha256sum {path}")
    assert evidence["size"] == len(whole) // 2
    assert 0 < evidence["missing"] <= len(whole) // 2 + 1


def test_an_empty_file_is_told(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "module.so"
    path.touch()
    told(only(look(machine, path)), "E43", "empty", "df -h", "磁盘是否已满")


def test_a_library_of_nothing_but_its_header_is_damaged(machine: Machine, tmp_path: Path) -> None:
    path, whole = tmp_path / "module.so", SOFTHSM.read_bytes()
    path.write_bytes(whole[:4096] + bytes(len(whole) - 4096))  # as a disk that was full, or a sparse copy, leaves it
    told(only(look(machine, path)), "E43", "damaged", "fresh download", "重新下载")


def test_a_library_that_lacks_only_what_debuggers_read_still_loads_and_is_a_warning(
    machine: Machine, soft: Soft, tmp_path: Path, loading: Load
) -> None:
    path = tmp_path / "module.so"
    path.write_bytes(SOFTHSM.read_bytes()[:-64])  # the last section header
    told(only(look(machine, path), Status.WARN), "E43", "tail", "sha256sum", "sha256sum")
    assert loading(path).error is None


@pytest.mark.parametrize(("number", "module"), [(183, "aarch64"), (258, "loongarch64"), (0x9916, "sw_64")])
def test_a_library_for_another_processor_is_told_with_both(
    machine: Machine, tmp_path: Path, number: int, module: str
) -> None:
    path, raw = tmp_path / "module.so", bytearray(SOFTHSM.read_bytes())
    raw[18:20] = number.to_bytes(2, sys.byteorder)  # e_machine
    path.write_bytes(raw)
    found = only(look(machine, path))
    python = processor(machine.architecture)
    evidence = told(found, "E44", "processor", f"the vendor's driver for {python}", f"厂商为 {python} 提供的驱动")
    assert (evidence["module"], evidence["python"]) == ([module], python)


def test_a_32_bit_library_is_told_from_one_of_another_processor(machine: Machine, tmp_path: Path) -> None:
    header = b"\x7fELF\1\1\1" + bytes(9) + b"\3\0\3\0\1\0\0\0" + bytes(28)
    path = tmp_path / "module.so"
    path.write_bytes(header)
    machine.__dict__["architecture"] = "x86_64"
    by_id = {finding.id: finding for finding in look(machine, path)}
    told(by_id["E44"], "E44", "bits", "SysWOW64", "SysWOW64")
    assert by_id["E45"].status is Status.SKIP


# --- E45, E46: what it needs and offers -------------------------------------------------------------------------------


def needing(built: Compile, soname: str, *options: str) -> Path:
    """Build a module that needs a library of this name, which is not there any more."""
    library = built("int there;", f"-Wl,-soname,{soname}", name="libthere.so")
    module = built(LIST + "extern int there; int *use(void) { return &there; }", str(library), *options)
    library.unlink()
    return module


# One that this machine does not have, with its package.
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


def test_a_library_that_lies_beside_the_module_is_pointed_out(machine: Machine, built: Compile, loading: Load) -> None:
    path = needing(built, "libbankvendor.so.3")
    beside = built("int there;", name="libbankvendor.so.3")
    told(only(look(machine, path)), "E45", "found", str(beside), "ldconfig")
    assert loading(path).error is not None


@pytest.mark.parametrize("tag", ["enable", "disable"])  # DT_RUNPATH, DT_RPATH
def test_a_library_beside_a_module_that_says_so_is_found_as_the_loader_does(
    machine: Machine, built: Compile, loading: Load, tag: str
) -> None:
    path = needing(built, "libbankvendor.so.3", "-Wl,-rpath,$ORIGIN", f"-Wl,--{tag}-new-dtags")
    built("int there;", name="libbankvendor.so.3")
    assert [one for one in look(machine, path) if one.matters] == []
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


@pytest.mark.parametrize(("inner", "missing"), [("$ORIGIN/sub", []), ("/nowhere", ["liblow.so.1"])])
def test_folders_of_a_library_between_are_its_own_and_leave_those_above_in_force(
    machine: Machine, built: Compile, loading: Load, inner: str, missing: list[str]
) -> None:
    built("int there;", name="libdeep.so").parent.joinpath("sub").mkdir()
    folder = built("int there;", "-Wl,-soname,libdeep.so.1", name="libdeep.so.1").parent
    link = f"-Wl,-rpath-link,{folder}:{folder / 'sub'}"
    below = "extern int there; int *low(void) { return &there; }"
    low = built(below, str(folder / "libdeep.so.1"), "-Wl,-soname,liblow.so.1", name="sub/liblow.so.1")
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
    assert [one for one in look(machine, path) if one.matters] == []
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
    assert [one for one in look(machine, path) if one.matters] == []
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
            "同一款 U 盾的 PKCS#11 模块",
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
    assert [one for one in look(machine, path) if one.matters] == []
    assert loading(path, driver=DRIVER).error is None


# --- E47 to E49: what becomes of it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "reason"),
    [("raise(SIGSEGV);", "SIGSEGV (signal 11)"), ("raise(SIGABRT);", "SIGABRT (signal 6)"), ("_exit(7);", "exit 7")],
)
def test_a_module_that_crashes_while_it_is_loaded_is_told_with_the_signal(
    machine: Machine, built: Compile, loading: Load, end: str, reason: str
) -> None:
    path = built(LIST + CONSTRUCTOR % end)
    assert [one for one in look(machine, path) if one.matters] == []  # the file says nothing of it
    found = only(ask_all(LOADED_PROBES, loading(path)))
    assert told(found, "E47", "crashed", "send the vendor this finding", "发给厂商")["reason"] == reason


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
    assert "nowhere" in told(found, "E47", "refused", "the loader's own words", "加载器的报错")["reason"]


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
    told(found, "E48", kind, "Close other programs", "关闭其他正在使用 U 盾的程序")


def test_a_module_of_an_old_standard_is_a_warning_with_its_version(built: Compile, loading: Load) -> None:
    loaded = loading(built(STUB.format(major=2, minor=11, slots=1)))
    assert loaded.error is None
    found = only(ask_all(LOADED_PROBES, loaded), Status.WARN)
    assert told(found, "E49", "old", "Update the vendor's driver", "升级厂商驱动")["version"] == "2.11"
    assert not [
        one
        for one in ask_all(LOADED_PROBES, loading(built(STUB.format(major=2, minor=20, slots=1), name="new.so")))
        if one.matters
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


# --- E50: twice -------------------------------------------------------------------------------------------------------


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
    assert [one for one in ask_all(LOADED_PROBES, loaded) if one.matters] == []
    found = once((loading(SOFTHSM, driver=DRIVER), loaded))
    assert found.status is status
    told(found, "E50", "proxy", "p11-kit list-modules", "p11-kit list-modules")
