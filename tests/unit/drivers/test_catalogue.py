"""Driver descriptors: every shipped one is valid, and errors in others are located."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.drivers.descriptors import LEAST, USB_AGAIN, WHOLE
from ushield_hw import messages
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import TokenInfo
from ushield_hw.config import data_dir
from ushield_hw.drivers.catalogue import GENERIC, Catalogue
from ushield_hw.drivers.descriptor import parse
from ushield_hw.drivers.family import (
    ConfirmKind,
    ConfirmText,
    Discover,
    Driver,
    HashOn,
    Interface,
    PinFlags,
    Unblock,
    candidates,
)
from ushield_hw.drivers.match import Binding, TokenPattern
from ushield_hw.errors import DescriptorError, DriverNotFound, InputError
from ushield_hw.messages import LANGUAGES

pytestmark = pytest.mark.unit


def shield(text: str) -> Driver:
    return parse(Path("shield.toml"), text.encode())


def refused(text: str) -> DescriptorError:
    with pytest.raises(DescriptorError) as caught:
        shield(text)
    return caught.value


# --- reading a descriptor ---------------------------------------------------------------------------------------------


def test_every_key() -> None:
    driver = shield(WHOLE)
    assert driver.module.isolation is Isolation.PROCESS
    assert driver.module.discover is Discover.NAMED
    assert (driver.module.config_env, driver.module.config_template) == ("SHIELD_CONF", "shield.conf")
    assert driver.module.init_reserved == "configdir='/etc/shield'"
    assert (driver.confirm.kind, driver.confirm.text) == (ConfirmKind.DISPLAY, ConfirmText.MESSAGE)
    assert driver.confirm.codes == {"CKR_FUNCTION_REJECTED": "rejected", "CKR_0x80000001": "timed-out"}
    assert (driver.pin.flags, driver.pin.unblock) == (PinFlags.TRUSTED, Unblock.SET_PIN_UNLOGGED)
    assert (driver.module.config_adds, driver.module.config_extends) == ("lock = true", ("/etc/shield.conf",))
    assert driver.module.config_unless == "(?m)^lock"
    assert driver.sign.hash_on is HashOn.TOKEN
    assert driver.sign.always_authenticate
    assert driver.tokens == (TokenPattern("Example*", "Shield ?"),)
    assert (driver.display.format, driver.display.columns) == ("xml-tdm", 16)
    assert not driver.capabilities.generate
    assert (driver.transport, driver.bank_token) == ("ccid", True)
    assert driver.module.names == ("libshield_bank*.so", "libshield*.so", "libshield.dylib", "shield.dll")
    assert (driver.module.skf, driver.module.also_via) == (("libshield_skf.so",), ("opensc",))
    usb, (masked, regular) = driver.usb[0], driver.atrs
    assert (usb.binding, usb.pinpad, usb.source, usb.confidence) == (
        Binding.HID,
        True,
        "https://bank.example/usb",
        "low",
    )
    assert (masked.name, masked.also_in, masked.confidence) == ("Shield, first edition", ("opensc",), "medium")
    assert regular.matches(bytes.fromhex("3b9f9502"))
    assert not regular.matches(bytes.fromhex("3b9f9503"))


def test_the_least_there_may_be() -> None:
    driver = shield(LEAST)
    assert driver.module.isolation is Isolation.PROCESS
    assert driver.confirm.kind is ConfirmKind.NONE
    assert (driver.pin.policy_tries, driver.pin.unblock) == (None, Unblock.NONE)
    assert driver.module_files() == []


@pytest.mark.parametrize("line", [row for row in LEAST.splitlines() if row], ids=lambda row: row.split()[0])
def test_what_must_be_there(line: str) -> None:
    error = refused(LEAST.replace(line, ""))
    assert error.details == {"file": "shield.toml", "key": line.split(maxsplit=1)[0], "problem": "missing_key"}


@pytest.mark.parametrize(
    ("old", "new", "key", "problem"),
    [
        ('id = "shield"', 'id = "Shield"', "id", "bad_form"),
        ('id = "shield"', 'id = "other"', "id", "not_the_file_name"),
        ('vendor = "Example"', 'vendor = " "', "vendor", "blank"),
        ('vendor = "Example"', "vendor = 7", "vendor", "not_a_string"),
        ('kind = "token"', 'kind = "toaster"', "kind", "not_a_choice"),
        ('interface = "pkcs11"', 'interface = "usb"', "interface", "not_a_choice"),
        ('confidence = "high"', 'confidence = "sure"', "confidence", "bad_form"),
        ('sources = ["https://bank.example"]', 'sources = "x"', "sources", "not_a_list"),
        ('notes = ["A note."]', "notes = [1]", "notes[0]", "not_a_string"),
        ("[sign]", "[singing]", "singing", "unknown_key"),
        ('"/opt/shield/libshield*.so"', '"libshield.so"', "module.linux[0]", "path_relative"),
        ("%WINDIR%\\System32", "System32", "module.windows[0]", "path_relative"),
        ('names = ["', 'names = ["/', "module.names[0]", "bad_form"),
        ('skf = ["', 'skf = ["/', "module.skf[0]", "bad_form"),
        ('also_via = ["opensc"]', 'also_via = ["Open SC"]', "module.also_via[0]", "bad_form"),
        ("bank_token = true", 'bank_token = "yes"', "bank_token", "not_a_boolean"),
        ('isolation = "process"', 'isolation = "none"', "module.isolation", "not_a_choice"),
        ("deadline_s = 60", "deadline_s = 0", "module.deadline_s", "out_of_range"),
        ("deadline_s = 60", "deadline_s = 6.5", "module.deadline_s", "not_an_integer"),
        ("relist = true", "relist = 1", "module.relist", "not_a_boolean"),
        ("relist = true", "reload = true", "module.reload", "unknown_key"),
        ('env = "SHIELD_CONF"', 'env = "shield conf"', "module.config.env", "bad_form"),
        ('template = "shield.conf"', 'temp = "x"', "module.config.temp", "unknown_key"),
        ('env = "SHIELD_CONF"\n', "", "module.config.adds", "needs_env"),
        ('unless = "(?m)^lock"', 'unless = "("', "module.config.unless", "not_a_pattern"),
        ("general = true", 'via = "opensc"', "module.via", "via_and_paths"),
        ('manufacturer = "Example*"\nmodel = "Shield ?"\n', "", "match.token[0].manufacturer", "matches_everything"),
        ("always_authenticate = true", "always_authenticate = 1", "sign.always_authenticate", "not_a_boolean"),
        ('kind = "display"', 'kind = "button"', "confirm.text", "needs_display"),
        ("CKR_FUNCTION_REJECTED", "CKR_NONSENSE", "confirm.codes.CKR_NONSENSE", "not_a_ckr"),
        ('"rejected"', '"refused"', "confirm.codes.CKR_FUNCTION_REJECTED", "not_a_choice"),
        ('flags = "trusted"', 'flags = "yes"', "pin.flags", "not_a_choice"),
        ("policy_tries = 6", "policy_tries = 101", "pin.policy_tries", "out_of_range"),
        ('via = "set-pin-unlogged"', 'via = "magic"', "pin.unblock.via", "not_a_choice"),
        ('rsa_padding = "pss"', 'rsa_padding = "oaep"', "sign.rsa_padding", "not_a_choice"),
        ("columns = 16", "columns = 1", "display.columns", "out_of_range"),
        ("generate = false", 'generate = "no"', "capabilities.generate", "not_a_boolean"),
        ('vid = "1a2b"', 'vid = "0x1a2b"', "match.usb[0].vid", "bad_form"),
        ('binding = "hid"', 'binding = "usb"', "match.usb[0].binding", "not_a_choice"),
        ("pinpad = true", "pinpad = 3", "match.usb[0].pinpad", "not_a_boolean"),
        ('confidence = "low"', 'confidence = "poor"', "match.usb[0].confidence", "bad_form"),
        ("[[match.atr]]", USB_AGAIN + "[[match.atr]]", "match.usb[1].pid", "repeated"),
        ('atr = "3b9f9501"\nregex', 'atr = "3b9f95"\nmask = "ffff00"\nregex', "match.atr[1].regex", "mask_and_regex"),
        ('atr = "3b9f9501"\nregex = "3b9f950[12]"', 'atr = "3b9f95"\nmask = "ffff00"', "match.atr[1].atr", "repeated"),
        ("3b9f950[12]", "3b9f950[", "match.atr[1].regex", "not_a_pattern"),
        ("3b9f950[12]", "3b9f950[23]", "match.atr[1].regex", "misses_its_atr"),
        ('atr = "3b9f95"', 'atr = "3b9f9"', "match.atr[0].atr", "bad_form"),
        ('mask = "ffff00"', 'mask = "ffff"', "match.atr[0].mask", "length_differs"),
        ("[[match.usb]]", "[[match.pci]]", "match.pci", "unknown_key"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, key: str, problem: str) -> None:
    assert old in WHOLE
    error = refused(WHOLE.replace(old, new))
    assert (error.details["file"], error.details["key"], error.details["problem"]) == ("shield.toml", key, problem)
    for language in LANGUAGES:
        assert messages.known(f"problem.{problem}", language)


@pytest.mark.parametrize("raw", [b"[", b"\xff\xfe", b'id = "a"\nid = "b"'])
def test_what_is_no_toml(raw: bytes) -> None:
    with pytest.raises(DescriptorError) as caught:
        parse(Path("shield.toml"), raw)
    assert (caught.value.details["file"], caught.value.details["problem"]) == ("shield.toml", "not_toml")


# --- the catalogue ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The user's folder and the shipped one: ``shield`` is in both, ``base`` only in the second."""
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    own.mkdir()
    shipped.mkdir()
    (own / "shield.toml").write_text(LEAST.replace("Shield 1", "Mine"))
    (shipped / "shield.toml").write_text(LEAST.replace("Shield 1", "Theirs"))
    (shipped / "base.toml").write_text(LEAST.replace('"shield"', '"base"'))
    return own, shipped


def test_the_first_folder_wins(folders: tuple[Path, Path]) -> None:
    assert Catalogue(folders).get("shield").product == "Mine"
    assert Catalogue(folders[::-1]).get("shield").product == "Theirs"
    assert Catalogue(folders).ids() == ["base", "shield"]


def test_the_loser_need_not_be_valid(folders: tuple[Path, Path]) -> None:
    (folders[1] / "shield.toml").write_text("[")
    assert {driver.id for driver in Catalogue(folders)} == {"base", "shield"}


def test_ones_own_come_first(folders: tuple[Path, Path]) -> None:
    assert [driver.id for driver in Catalogue(folders)] == ["shield", "base"]


def test_a_wrong_one_is_found_when_it_is_needed(folders: tuple[Path, Path]) -> None:
    (folders[0] / "shield.toml").write_text("[")
    catalogue = Catalogue(folders)
    assert catalogue.get("base").id == "base"
    with pytest.raises(DescriptorError):
        catalogue.get("shield")


def test_one_that_cannot_be_read(folders: tuple[Path, Path]) -> None:
    (folders[0] / "lost.toml").symlink_to("nowhere")
    with pytest.raises(DescriptorError) as caught:
        Catalogue(folders).ids()
    assert (caught.value.details["file"], caught.value.details["problem"]) == (
        str(folders[0] / "lost.toml"),
        "unreadable",
    )


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert Catalogue([tmp_path / "nowhere"]).ids() == []


def test_an_id_nobody_has(folders: tuple[Path, Path]) -> None:
    with pytest.raises(DriverNotFound) as caught:
        Catalogue(folders).get("nonsense")
    assert caught.value.details["searched"] == [str(folder) for folder in folders]


# --- lookup by module, USB id and ATR ---------------------------------------------------------------------------------


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Three families; the module of ``shield`` is installed under two names."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libshield.so.1").touch()
    (tmp_path / "lib/libshield.so").symlink_to("libshield.so.1")
    described = {
        "shield": f'["{tmp_path}/lib/libshield.so"]',
        "star": f'["{tmp_path}/lib/star-*.so"]',
        "other": '["/opt/other/libother.so"]',
    }
    for name, paths in described.items():
        text = LEAST.replace('"shield"', f'"{name}"') + f"[module]\nlinux = {paths}\n"
        (tmp_path / f"{name}.toml").write_text(text)
    return Catalogue([tmp_path])


def owner(catalogue: Catalogue, path: Path) -> str | None:
    driver = catalogue.for_module(path)
    return driver.id if driver else None


def test_for_module_by_path(catalogue: Catalogue, tmp_path: Path) -> None:
    assert owner(catalogue, tmp_path / "lib/libshield.so") == "shield"


def test_for_module_by_where_a_link_leads(catalogue: Catalogue, tmp_path: Path) -> None:
    assert owner(catalogue, tmp_path / "lib/libshield.so.1") == "shield"


def test_for_module_by_name_wherever_it_lies(catalogue: Catalogue) -> None:
    assert owner(catalogue, Path("/elsewhere/libother.so")) == "other"
    assert owner(catalogue, Path("/elsewhere/star-7.so")) == "star"


def test_for_module_under_another_name_than_its_links(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "lib/libreal.so.7").touch()
    (tmp_path / "lib/libshield.so").unlink()
    (tmp_path / "lib/libshield.so").symlink_to("libreal.so.7")
    assert owner(catalogue, tmp_path / "lib/libreal.so.7") == "shield"


def test_for_module_of_nobody(catalogue: Catalogue) -> None:
    assert owner(catalogue, Path("/elsewhere/nothing.so")) is None
    assert GENERIC.module.isolation is Isolation.PROCESS


def test_for_module_that_two_name_is_ones_own(tmp_path: Path) -> None:
    for folder, name in (("own", "z-mine"), ("shipped", "a-theirs")):
        (tmp_path / folder).mkdir()
        text = LEAST.replace('"shield"', f'"{name}"') + '[module]\nlinux = ["/opt/lib.so"]\n'
        (tmp_path / folder / f"{name}.toml").write_text(text)
    assert owner(Catalogue([tmp_path / "own", tmp_path / "shipped"]), Path("/opt/lib.so")) == "z-mine"


def test_module_files_each_once(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "lib/star-1.so").touch()
    (tmp_path / "lib/star-2.so").symlink_to("star-1.so")
    (tmp_path / "lib/star-3.so").mkdir()
    (found,) = catalogue.get("star").module_files()
    assert found.resolve() == tmp_path / "lib/star-1.so"


@pytest.mark.parametrize("interface", [Interface.SKF, Interface.CSP])
def test_only_pkcs11_is_driven(tmp_path: Path, interface: Interface) -> None:
    (tmp_path / "lib.so").touch()
    text = LEAST.replace('"pkcs11"', f'"{interface.value}"') + f'[module]\nlinux = ["{tmp_path}/lib.so"]\n'
    assert shield(text).module_files() == []


ELF32, ELF64 = b"\x7fELF\x01", b"\x7fELF\x02"


@pytest.mark.parametrize(
    ("first", "second", "found"), [(ELF32, ELF64, ["b"]), (ELF64, b"", ["a", "b"]), (ELF32, ELF32, ["a", "b"])]
)
def test_a_module_of_another_architecture_is_left_out_where_there_is_one_of_ours(
    tmp_path: Path, first: bytes, second: bytes, found: list[str]
) -> None:
    (tmp_path / "a").write_bytes(first)
    (tmp_path / "b").write_bytes(second)
    driver = shield(LEAST + f'[module]\nlinux = ["{tmp_path}/a", "{tmp_path}/b"]\n')
    assert [file.name for file in driver.module_files()] == found


def test_a_pattern_of_folders_is_looked_up_again_when_one_is_added(tmp_path: Path) -> None:
    pattern = f"{tmp_path}/*-linux-gnu/lib.so"
    assert list(candidates(pattern)) == []
    (tmp_path / "b-linux-gnu").mkdir()
    os.utime(tmp_path, (1, 1))
    assert list(candidates(pattern)) == [f"{tmp_path}/b-linux-gnu/lib.so"]
    (tmp_path / "a-linux-gnu").mkdir()
    os.utime(tmp_path, (2, 2))
    assert list(candidates(pattern)) == [f"{tmp_path}/{name}-linux-gnu/lib.so" for name in "ab"]


def test_ones_own_is_parsed_even_where_its_module_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[")
    with pytest.raises(DescriptorError):
        list(Catalogue([tmp_path, data_dir("drivers")]).installed())


# --- families that share a module -------------------------------------------------------------------------------------


def said(manufacturer: str = "Example Ltd", model: str = "Shield 2", label: str = "mine") -> TokenInfo:
    return TokenInfo(0, label, manufacturer, model, "1", 0, 6, 8, (1, 0))


@pytest.fixture
def shared(tmp_path: Path) -> Catalogue:
    """A general driver, and a family that uses its module."""
    general = (
        LEAST.replace('id = "shield"', 'id = "general"') + '[module]\nlinux = ["/lib/general.so"]\ndeadline_s = 7\n'
    )
    family = LEAST + '[module]\nvia = "general"\n[confirm]\nkind = "button"\n[[match.token]]\nmodel = "Shield *"\n'
    (tmp_path / "general.toml").write_text(general)
    (tmp_path / "shield.toml").write_text(family)
    return Catalogue([tmp_path])


def test_a_token_is_of_the_family_that_it_says(shared: Catalogue) -> None:
    found = shared.family(shared.get("general"), said())
    assert (found.id, found.confirm.kind) == ("shield", ConfirmKind.BUTTON)
    assert found.module == shared.get("general").module  # the general driver defines the module options


@pytest.mark.parametrize(
    "rows",
    [
        '[[match.token]]\nmanufacturer = "Example*"\n',
        "[[match.token]]\nmanufacturer = 'Other'\n[[match.token]]\nmodel = 'Shield *'\n",
        '[[match.token]]\nmanufacturer = "\\u0045xample*"\n',
        '[match]\ntoken = [{ manufacturer = "Other" }, { label = "mine" }]\n',
        '[[ match . token ]]\nmodel = "Shield ?"\n',
    ],
)
def test_a_family_is_found_however_its_rows_are_written(tmp_path: Path, rows: str) -> None:
    general = LEAST.replace('id = "shield"', 'id = "general"')
    (tmp_path / "general.toml").write_text(general)
    (tmp_path / "shield.toml").write_text(LEAST + f"[module]\nvia = 'general'\n{rows}")
    catalogue = Catalogue([tmp_path])
    assert catalogue.family(catalogue.get("general"), said()).id == "shield"


def test_other_tokens_are_of_the_general_family(shared: Catalogue) -> None:
    general = shared.get("general")
    assert shared.family(general, said(model="Sword 2")) is general
    assert shared.family(GENERIC, said()) is GENERIC


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        (TokenPattern("Example*"), True),
        (TokenPattern("example*"), False),  # case-sensitive
        (TokenPattern("Example*", "Shield ?"), True),
        (TokenPattern("Example*", "Shield"), False),
        (TokenPattern(label="mine"), True),
        (TokenPattern(label="yours"), False),
    ],
)
def test_every_part_of_a_pattern_must_fit(pattern: TokenPattern, matches: bool) -> None:
    assert pattern.matches(said()) is matches


# --- keys honoured in descriptors outside the package -----------------------------------------------------------------


def outside(folder: Path, *consent: str) -> Driver:
    (folder / "shield.toml").write_text(WHOLE.replace('isolation = "process"', 'isolation = "in-process"'))
    return Catalogue([folder], consent).get("shield")


def test_without_consent_its_module_is_limited(tmp_path: Path) -> None:
    module = outside(tmp_path).module
    assert (module.isolation, module.config_adds, module.init_reserved) == (Isolation.PROCESS, None, None)
    assert not outside(tmp_path).consented


def test_with_consent_it_counts_in_full(tmp_path: Path) -> None:
    driver = outside(tmp_path, "shield")
    assert driver == parse(driver.file, driver.file.read_bytes())
    assert (driver.consented, driver.module.isolation) == (True, Isolation.IN_PROCESS)
    assert not outside(tmp_path, "other").consented


def test_a_link_to_the_shipped_folder_is_not_the_package(tmp_path: Path) -> None:
    (tmp_path / "drivers").symlink_to(data_dir("drivers"))
    assert not Catalogue([tmp_path / "drivers"]).get("softhsm2").consented
    assert Catalogue([data_dir("drivers")]).get("softhsm2").consented


def test_what_others_could_change_is_left_out_where_that_is_wanted(folders: tuple[Path, Path]) -> None:
    file = folders[0] / "shield.toml"
    file.chmod(0o666)
    with pytest.raises(InputError) as caught:
        Catalogue(folders).ids()
    assert (caught.value.code, caught.value.details["file"]) == ("CONFIG_UNSAFE", str(file))
    catalogue = Catalogue(folders, lenient=True)
    assert catalogue.get("shield").product == "Theirs"
    assert [error.details["file"] for error in catalogue.left_out] == [str(file)]
