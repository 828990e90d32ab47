"""Which module files may be loaded: those of descriptors, of root-owned p11-kit files, and of the administrator."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ushield_hw.backend.module import _modules
from ushield_hw.config import Settings
from ushield_hw.drivers.catalogue import GENERIC, Catalogue
from ushield_hw.drivers.family import Discover, Driver, ModuleSpec
from ushield_hw.drivers.installed import Installed, chosen, discoverable, installed
from ushield_hw.errors import DriverNotFound

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("roots")]


@pytest.fixture(autouse=True)
def unopened() -> Iterator[None]:
    """Close modules of previous tests: the registry keeps one module per path."""
    _modules.clear()
    yield
    _modules.clear()


@pytest.fixture
def roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this user's files look root-owned, whichever user runs the tests."""
    real = Path.stat

    def stat(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = list(real(self, follow_symlinks=follow_symlinks))
        found[4] = 0 if found[4] == os.geteuid() else 4711
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", stat)


class Machine:
    """A simulated machine: libraries, descriptors, p11-kit's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.descriptors, self.p11_kit, self.lib = folder / "drivers", folder / "p11-kit", folder / "lib"
        for place in (self.descriptors, self.p11_kit, self.lib):
            place.mkdir()

    def library(self, name: str) -> Path:
        (self.lib / name).touch()
        return self.lib / name

    def describe(self, name: str, *paths: Path, discover: str = "always") -> None:
        listed = ", ".join(f'"{path}"' for path in paths)
        head = f'id = "{name}"\nvendor = "V"\nproduct = "P"\nkind = "token"\ninterface = "pkcs11"\n'
        module = f'confidence = "low"\nsources = []\n[module]\nlinux = [{listed}]\ndiscover = "{discover}"\n'
        (self.descriptors / f"{name}.toml").write_text(head + module)

    def module_file(self, name: str, content: str) -> Path:
        file = self.p11_kit / f"{name}.module"
        file.write_text(content)
        return file

    def found(self, *files: Path) -> list[tuple[Path, str, str]]:
        settings = Settings(module_files=files)
        entries = installed(Catalogue([self.descriptors]), settings, [self.p11_kit, self.folder / "nowhere"])
        return [(entry.path, entry.driver.id, entry.named_by) for entry in entries]

    def chosen(self, path: Path, *files: Path) -> Installed:
        return chosen(Catalogue([self.descriptors]), Settings(module_files=files), path)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# --- descriptors ------------------------------------------------------------------------------------------------------


def test_what_a_descriptor_names_and_is_there(machine: Machine) -> None:
    there = machine.library("a.so")
    machine.describe("a", there, machine.lib / "missing.so")
    assert machine.found() == [(there, "a", "a")]


def test_descriptors_come_first_by_id(machine: Machine) -> None:
    one, two, three = (machine.library(name) for name in ("1.so", "2.so", "3.so"))
    machine.describe("b", one)
    machine.describe("a", two)
    machine.module_file("x", f"module: {three}")
    assert [path for path, _, _ in machine.found()] == [two, one, three]


def test_each_file_once(machine: Machine) -> None:
    there = machine.library("a.so")
    link = machine.lib / "link.so"
    link.symlink_to(there)
    machine.describe("a", there)
    machine.describe("b", link)
    file = machine.module_file("x", f"module: {link}")
    assert machine.found(link) == [(there, "a", "a")]
    assert file.exists()


def test_named_modules_are_installed_but_not_looked_at(machine: Machine) -> None:
    machine.describe("a", machine.library("a.so"), discover="named")
    machine.describe("b", machine.library("b.so"))
    entries = installed(Catalogue([machine.descriptors]), Settings(), [])
    assert [entry.driver.id for entry in entries] == ["a", "b"]
    assert [entry.driver.id for entry in discoverable(entries)] == ["b"]
    assert entries[0].driver.module.discover is Discover.NAMED


# --- p11-kit ----------------------------------------------------------------------------------------------------------


def test_a_module_file_of_roots(machine: Machine) -> None:
    there = machine.library("p.so")
    file = machine.module_file("p", f"# a comment: x\n\nmodule: {there}\ncritical: yes\n")
    assert machine.found() == [(there, "generic", str(file))]


def test_a_module_that_a_descriptor_knows_by_name(machine: Machine) -> None:
    machine.describe("known", Path("/opt/elsewhere/p.so"))
    there = machine.library("p.so")
    file = machine.module_file("p", f"module: {there}")
    assert machine.found() == [(there, "known", str(file))]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "remote: |bash",
        "module:",
        "#module: {}",
        "module: {}\nenable-in: firefox",
        "module: {}.missing",
        "module: relative-and-nowhere.so",
        "\xff\xfe",
    ],
)
def test_module_files_that_name_nothing_for_us(machine: Machine, content: str) -> None:
    machine.module_file("p", content.format(machine.library("p.so")))
    assert machine.found() == []


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_module_file_that_others_may_change(machine: Machine, mode: int) -> None:
    machine.module_file("p", f"module: {machine.library('p.so')}").chmod(mode)
    assert machine.found() == []


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_folder_that_others_may_change(machine: Machine, mode: int) -> None:
    machine.module_file("p", f"module: {machine.library('p.so')}")
    machine.p11_kit.chmod(mode)
    assert machine.found() == []


def test_module_files_that_are_not_roots(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.module_file("p", f"module: {machine.library('p.so')}")
    monkeypatch.setattr(os, "geteuid", lambda: 4712)  # this user's files now belong to another user
    assert installed(Catalogue([]), Settings(), [machine.p11_kit]) == ()


def test_a_link_that_leads_nowhere(machine: Machine) -> None:
    (machine.p11_kit / "lost.module").symlink_to("nowhere")
    there = machine.library("p.so")
    machine.module_file("p", f"module: {there}")
    assert [path for path, _, _ in machine.found()] == [there]


def test_a_folder_named_like_a_module_file(machine: Machine) -> None:
    (machine.p11_kit / "folder.module").mkdir()
    assert machine.found() == []


# --- modules named by the administrator -------------------------------------------------------------------------------


def test_what_the_system_file_names(machine: Machine) -> None:
    there = machine.library("a.so")
    assert machine.found(there, machine.lib / "missing.so") == [(there, "generic", "config")]


# --- module selection by URI ------------------------------------------------------------------------------------------


def test_chosen_from_a_descriptor(machine: Machine) -> None:
    there = machine.library("a.so")
    machine.describe("a", there, discover="named")
    assert machine.chosen(there).driver.id == "a"


def test_chosen_by_another_name_of_the_file(machine: Machine) -> None:
    there = machine.library("a.so")
    (machine.lib / "link.so").symlink_to(there)
    machine.describe("a", there)
    assert machine.chosen(machine.lib / "link.so").driver.id == "a"


def test_chosen_from_the_system_file(machine: Machine) -> None:
    there = machine.library("a.so")
    assert machine.chosen(there, there).driver is GENERIC


def test_a_name_alone_opens_no_door(machine: Machine) -> None:
    """A file elsewhere with the name of a known module is not loaded."""
    machine.describe("a", Path("/opt/a/a.so"))
    stranger = machine.library("a.so")
    with pytest.raises(DriverNotFound) as caught:
        machine.chosen(stranger)
    assert (caught.value.code, caught.value.details["path"]) == ("MODULE_NOT_INSTALLED", str(stranger))


# --- the module's own configuration -----------------------------------------------------------------------------------


@pytest.fixture
def opensc(tmp_path: Path) -> Driver:
    """A driver that extends its module's own configuration, which is in the test's folder."""
    module = ModuleSpec(
        config_env="OWN_CONF",
        config_adds="\nlock = true;\n",
        config_extends=(str(tmp_path / "missing.conf"), str(tmp_path / "own.conf")),
        config_unless=r"(?m)^\s*lock",
    )
    return Driver("own", "V", "P", Path(), module=module)


def environment(driver: Driver, tmp_path: Path) -> Mapping[str, str]:
    module = Installed(tmp_path / "module.so", driver, "own").module(Settings(state_dir=tmp_path / "state"))
    return module.environment


def test_what_the_descriptor_adds_goes_behind_the_module_s_own(opensc: Driver, tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text("# mine\n  # lock = false;\n")
    found = environment(opensc, tmp_path)
    assert Path(found["OWN_CONF"]).read_text() == "# mine\n  # lock = false;\n\nlock = true;\n"


def test_without_a_configuration_of_its_own_the_addition_is_all(opensc: Driver, tmp_path: Path) -> None:
    assert Path(environment(opensc, tmp_path)["OWN_CONF"]).read_text() == "\nlock = true;\n"


def test_a_matter_that_the_system_has_settled_is_left_alone(opensc: Driver, tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text("lock = false;\n")
    assert environment(opensc, tmp_path) == {}


def test_a_user_s_own_choice_of_configuration_is_left_alone(
    opensc: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_CONF", "/home/me/own.conf")
    assert environment(opensc, tmp_path) == {}


def test_without_a_state_folder_the_module_runs_as_it_is(opensc: Driver, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    assert environment(opensc, tmp_path) == {}
