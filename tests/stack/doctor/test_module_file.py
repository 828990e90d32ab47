"""Layer E on real files: each cause is produced, is the only one reported, and has its texts in both languages."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.soft import SETTINGS, SOFTHSM, Soft
from tests.stack.doctor.modules import Compile, Load, elsewhere, look, only, rebuilt, told
from ushield_hw import messages
from ushield_hw.doctor.finding import Status, ask_all
from ushield_hw.doctor.inspect.image import processor
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes.module_file import FILE_PROBES, PROBES, module_files
from ushield_hw.doctor.subjects import ModuleFile
from ushield_hw.drivers.installed import installed

pytestmark = pytest.mark.stack

# For root: drop the capabilities that bypass file permissions.
POWERLESS: Final = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()

# --- nothing wrong ----------------------------------------------------------------------------------------------------


def test_every_module_installed_here_is_found_in_order(machine: Machine) -> None:
    files = module_files(machine)
    assert SOFTHSM in {file.path.resolve() for file in files}
    for file in files:
        findings = ask_all(FILE_PROBES, file)
        assert [one.to_json() for one in findings if one.status is not Status.OK] == []
    assert len(files) == len(installed(machine.catalogue, SETTINGS))


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


def test_a_path_that_nobody_knows_is_answered_with_what_is_installed(machine: Machine, tmp_path: Path) -> None:
    found = only(look(machine, tmp_path / "no-such-thing.so"))
    evidence = told(found, "E40", "others", str(SOFTHSM.parent.name), "本机已安装的模块")
    assert SOFTHSM in {Path(path).resolve() for path in evidence["installed"]}
    bare = Machine(replace(SETTINGS, drivers=()), root=tmp_path)
    found = only(ask_all(FILE_PROBES, ModuleFile(bare, tmp_path / "no-such-thing.so", asked=True)))
    told(found, "E40", "nothing", "no PKCS#11 module is installed", "本机没有安装任何 PKCS#11 模块")


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


BY = '[module]\nlinux = ["/opt/example/lib/libkey2.so"]\nalso_via = ["general"]\n'
GENERAL = (
    'id = "general"\nvendor = "Any"\nproduct = "Cards"\nkind = "token"\ninterface = "pkcs11"\nconfidence = "low"\n'
    'sources = ["https://example.org/"]\n[module]\nlinux = ["/opt/general/libgeneral.so"]\ngeneral = true\n'
)


@pytest.mark.parametrize(
    ("also", "module", "row", "missing"),
    [
        ("", "", "", True),
        (BY, "", "", True),
        (BY, "/opt/general/libgeneral.so", "", False),  # another vendor's module also shows its tokens
        ("", "/opt/general/libgeneral.so", "", True),
        ("", "", "reader = true\n", False),  # a generic reader is not a token
    ],
)
def test_a_driver_is_missing_only_where_a_token_is_there_that_nothing_else_drives(
    tmp_path: Path, also: str, module: str, row: str, missing: bool
) -> None:
    device, folder = tmp_path / "sys/bus/usb/devices/1-2", tmp_path / "drivers"
    device.mkdir(parents=True)
    for name, value in {"idVendor": "055c", "idProduct": "f618", "product": "Bank Key", "bDeviceClass": "00"}.items():
        (device / name).write_text(f"{value}\n")
    folder.mkdir()
    (folder / "general.toml").write_text(GENERAL)
    (folder / "bank-key.toml").write_text(
        'id = "bank-key"\nvendor = "Example"\nproduct = "Key 2"\nkind = "token"\ninterface = "pkcs11"\n'
        f'confidence = "low"\nsources = ["https://example.org/"]\n{also or BY.partition("also_via")[0]}'
        f'[[match.usb]]\nvid = "055c"\npid = "f618"\nbinding = "ccid"\n{row}'
    )
    if module:
        (tmp_path / module.lstrip("/")).parent.mkdir(parents=True)
        shutil.copy(SOFTHSM, tmp_path / module.lstrip("/"))
    recorded = Machine(replace(SETTINGS, drivers=(folder,)), root=tmp_path)
    wanted = [file.driver.id for file in module_files(recorded) if not file.path.exists()]
    assert wanted == (["bank-key"] if missing else [])


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
    else:  # only root can chown a file; inside a user namespace, files of the real root belong to nobody
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
        (b"<!DOCTYPE html><title>Log in</title>", "text", "a web page that was saved", "误存的网页"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "lfs-pointer", "git lfs pull", "git lfs pull"),
        (b"#!/bin/sh\nexit 0\n", "script", "run it", "请先运行它"),
        (b"PK\3\4" + bytes(99), "archive", "unpack it", "解压"),
        (bytes(300), "unknown", "install the driver again", "重新安装驱动"),
    ],
    ids=["dll", "dylib", "text", "lfs-pointer", "script", "archive", "unknown"],
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
    path.write_bytes(whole[:4096] + bytes(len(whole) - 4096))  # as a full disk or a sparse copy leaves it
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


# --- files of other systems -------------------------------------------------------------------------------------------


# Synthetic headers: not tested on Windows or macOS.
@pytest.mark.parametrize(
    ("names", "architecture", "expected"),
    [
        (b"C_GetFunctionList\0", "AMD64", None),
        (b"C_GetFunctionList\0", "AMD64-32", ("E44", "bits", "SysWOW64", "SysWOW64")),
        (b"CPAcquireContext\0", "AMD64", ("E46", "csp", "PKCS#11 DLL", "PKCS#11 DLL")),
        (b"SKF_EnumDev\0", "AMD64", ("E46", "skf", "does not support SKF libraries", "不支持 SKF 库")),
    ],
)
def test_a_windows_dll_is_judged_by_its_header_and_a_hint(
    machine: Machine, tmp_path: Path, names: bytes, architecture: str, expected: tuple[str, str, str, str] | None
) -> None:
    path = tmp_path / "bank.dll"
    path.write_bytes(PE_64 + names)
    machine.system, machine.architecture = "win32", architecture
    findings = {finding.id: finding for finding in look(machine, path)}
    assert findings["E45"].status is Status.SKIP
    if expected is None:
        assert [one for one in findings.values() if one.is_problem] == []
    else:
        told(findings[expected[0]], *expected)
        assert findings["E46"].status is not Status.FAIL  # a hint is not proof


def test_a_macos_library_is_judged_by_its_header(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "libbank.dylib"
    path.write_bytes(MACH_O + b"C_GetFunctionList\0")
    machine.system, machine.architecture = "darwin", "arm64"
    assert [one for one in look(machine, path) if one.is_problem] == []
    machine.architecture = "x86_64"
    told(only(look(machine, path)), "E44", "processor", "driver for x86_64", "x86_64")
