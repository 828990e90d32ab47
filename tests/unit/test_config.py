"""Settings: the source of each value, and which setting is allowed in which source."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ushield_hw.config import Settings, data_dir, load_settings
from ushield_hw.errors import InputError

pytestmark = pytest.mark.unit


@pytest.fixture
def system_file(tmp_path: Path) -> Path:
    """The path of a system file that does not exist yet."""
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc/config.toml"


@pytest.fixture
def roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this user's files look root-owned, whichever user runs the tests."""
    real = Path.stat

    def stat(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = list(real(self, follow_symlinks=follow_symlinks))
        found[4] = 0 if found[4] in {0, os.geteuid()} else 4711
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", stat)


def settings(home: Path, system_file: Path, **environment: str) -> Settings:
    return load_settings({"HOME": str(home), **environment}, system_file)


def own(home: Path, content: str) -> Path:
    file = home / ".config/ushield/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    return file


def refused(home: Path, system_file: Path, code: str) -> InputError:
    with pytest.raises(InputError) as caught:
        settings(home, system_file)
    assert caught.value.code == code
    return caught.value


def unsafe(home: Path, system_file: Path) -> tuple[Path, object, Path]:
    """Return which file is rejected, why, and the path component at fault."""
    details = refused(home, system_file, "CONFIG_UNSAFE").details
    return Path(str(details["file"])), details["problem"], Path(str(details["place"]))


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_nothing_set(tmp_path: Path, system_file: Path) -> None:
    found = settings(tmp_path, system_file)
    assert found.state_dir == tmp_path / ".local/state/ushield"
    assert found.drivers == (data_dir("drivers"),)
    assert (found.profile, found.demo, found.lang, found.log_file) == ("standard", False, None, None)
    assert {origin for _, _, origin in found.rows()} == {"default"}


@pytest.mark.parametrize(
    ("environment", "state_dir"),
    [
        ({"HOME": "/home/u"}, "/home/u/.local/state/ushield"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "/var/s"}, "/var/s/ushield"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "relative"}, "/home/u/.local/state/ushield"),
        ({"STATE_DIRECTORY": "/var/lib/bank:/var/lib/other"}, "/var/lib/bank/ushield"),
        ({"HOME": "/home/u", "STATE_DIRECTORY": "/var/lib/bank"}, "/var/lib/bank/ushield"),
        ({"HOME": "relative"}, None),
        ({}, None),
    ],
)
def test_the_state_folder(environment: dict[str, str], state_dir: str | None, system_file: Path) -> None:
    assert load_settings(environment, system_file).state_dir == (Path(state_dir) if state_dir else None)


def test_the_checkouts_data_is_used_and_no_stale_copy() -> None:
    checkout = Path(__file__).parents[2]
    assert data_dir("drivers") == checkout / "drivers"
    assert data_dir("softhsm-config") == checkout / "softhsm-config"


# --- files ------------------------------------------------------------------------------------------------------------

EVERYTHING = """\
lang = "zh"
profile = "demo"
state_dir = "/var/lib/bank"
log_file = "/var/log/bank.log"
drivers = ["/etc/bank/drivers"]
warn_days = 14
urgent_days = [5, 2]
change_first_pin = true
[timeouts]
pin_s = 30
confirm_s = 60
busy_s = 9
[journal]
masked = true
keep_days = 400
"""


def test_every_key_of_a_persons_file(tmp_path: Path, system_file: Path) -> None:
    file = own(tmp_path, EVERYTHING)
    found = settings(tmp_path, system_file)
    assert (found.lang, found.demo, found.warn_days) == ("zh", True, 14)
    assert (found.pin_timeout_s, found.confirm_timeout_s, found.busy_timeout_s) == (30, 60, 9)
    assert (found.state_dir, found.log_file) == (Path("/var/lib/bank"), Path("/var/log/bank.log"))
    assert (found.journal_masked, found.journal_keep_days) == (True, 400)
    assert found.drivers == (Path("/etc/bank/drivers"), data_dir("drivers"))
    assert {name for name, _, origin in found.rows() if origin == "default"} == {"consent", "module_files"}
    assert found.origin("lang") == str(file)


def test_a_folder_of_descriptors_needs_no_file(tmp_path: Path, system_file: Path) -> None:
    folder = tmp_path / "config/ushield/drivers"
    folder.mkdir(parents=True)
    found = settings(tmp_path, system_file, XDG_CONFIG_HOME=str(tmp_path / "config"))
    assert found.drivers == (folder, data_dir("drivers"))
    assert found.origin("drivers") == str(folder.parent)


@pytest.mark.usefixtures("roots")
def test_the_persons_file_wins_over_the_systems(tmp_path: Path, system_file: Path) -> None:
    system_file.write_text('lang = "en"\nwarn_days = 7\n[modules]\nfiles = ["/opt/p11.so"]\n')
    file = own(tmp_path, 'lang = "zh"\n')
    found = settings(tmp_path, system_file)
    assert (found.lang, found.origin("lang")) == ("zh", str(file))
    assert (found.warn_days, found.origin("warn_days")) == (7, str(system_file))
    assert (found.module_files, found.origin("module_files")) == ((Path("/opt/p11.so"),), str(system_file))


def test_a_person_cannot_take_back_that_the_first_pin_must_be_changed(tmp_path: Path, system_file: Path) -> None:
    system_file.write_text("change_first_pin = true\n")
    file = own(tmp_path, 'lang = "zh"\n')
    assert settings(tmp_path, system_file).change_first_pin
    file.write_text("change_first_pin = false\n")
    details = refused(tmp_path, system_file, "CONFIG_SYSTEM_ONLY").details
    assert details == {"file": str(file), "key": "change_first_pin"}


def test_modules_are_for_the_system_file_only(tmp_path: Path, system_file: Path) -> None:
    file = own(tmp_path, '[modules]\nfiles = ["/home/u/evil.so"]\n')
    assert refused(tmp_path, system_file, "CONFIG_SYSTEM_ONLY").details == {"file": str(file), "key": "modules"}


@pytest.mark.usefixtures("roots")
@pytest.mark.parametrize("mode", [0o646, 0o777])
def test_a_system_file_that_others_may_change(tmp_path: Path, system_file: Path, mode: int) -> None:
    system_file.touch()
    system_file.chmod(mode)
    assert unsafe(tmp_path, system_file) == (system_file, "path_writable", system_file)


@pytest.mark.usefixtures("roots")
def test_a_system_folder_that_others_may_change(tmp_path: Path, system_file: Path) -> None:
    system_file.touch()
    system_file.parent.chmod(0o777)
    assert unsafe(tmp_path, system_file) == (system_file, "path_writable", system_file.parent)


def test_a_system_file_that_is_not_roots(tmp_path: Path, system_file: Path) -> None:
    system_file.touch()
    if os.geteuid() == 0:
        os.chown(system_file, 4711, -1)
    assert unsafe(tmp_path, system_file)[:2] == (system_file, "path_owner")


def test_a_persons_file_that_others_may_change(tmp_path: Path, system_file: Path) -> None:
    file = own(tmp_path, "warn_days = 3\n")
    file.chmod(0o646)
    assert unsafe(tmp_path, system_file) == (file, "path_writable", file)
    file.chmod(0o644)
    file.parent.parent.chmod(0o757)
    assert unsafe(tmp_path, system_file) == (file, "path_writable", file.parent.parent)


def test_a_persons_file_is_a_pipe(tmp_path: Path, system_file: Path) -> None:
    file = own(tmp_path, "")
    file.unlink()
    os.mkfifo(file, 0o600)
    assert unsafe(tmp_path, system_file) == (file, "path_not_a_file", file)


def test_what_is_left_out_is_listed(tmp_path: Path, system_file: Path) -> None:
    file = own(tmp_path, "warn_days = 3\n")
    file.chmod(0o666)
    found = load_settings({"HOME": str(tmp_path)}, system_file, lambda error: error.code == "CONFIG_UNSAFE")
    assert (found.warn_days, [error.details["file"] for error in found.left_out]) == (30, [str(file)])
    file.chmod(0o600)
    file.write_text("[")
    with pytest.raises(InputError):
        load_settings({"HOME": str(tmp_path)}, system_file, lambda error: error.code == "CONFIG_UNSAFE")


@pytest.mark.usefixtures("roots")
def test_consent_is_the_administrators(tmp_path: Path, system_file: Path) -> None:
    content = '[drivers]\nfolders = ["/opt/drivers"]\nconsent = ["bank-key"]\n'
    system_file.write_text(content)
    found = settings(tmp_path, system_file)
    assert (found.consent, found.drivers) == (("bank-key",), (Path("/opt/drivers"), data_dir("drivers")))
    file = own(tmp_path, content)
    assert refused(tmp_path, system_file, "CONFIG_SYSTEM_ONLY").details["key"] == "drivers.consent"
    file.write_text('[drivers]\nfolders = ["/home/u/drivers"]\n')
    assert settings(tmp_path, system_file).drivers[0] == Path("/home/u/drivers")


@pytest.mark.parametrize(
    ("content", "key", "problem"),
    [
        ('lang = "fr"', "lang", "bad_form"),
        ('profile = "loose"', "profile", "bad_form"),
        ('state_dir = "var"', "state_dir", "bad_form"),
        ('log_file = "log"', "log_file", "bad_form"),
        ('drivers = ["mine"]', "drivers[0]", "bad_form"),
        ("drivers = 1", "drivers", "not_a_list"),
        ("warn_days = 0", "warn_days", "out_of_range"),
        ("urgent_days = 7", "urgent_days", "not_a_list"),
        ("urgent_days = [7, true]", "urgent_days", "not_an_integer"),
        ("urgent_days = [-1]", "urgent_days", "out_of_range"),
        ("timeouts = 5", "timeouts", "not_a_table"),
        ("[timeouts]\npin_s = 4", "timeouts.pin_s", "out_of_range"),
        ('[timeouts]\nconfirm_s = "long"', "timeouts.confirm_s", "not_an_integer"),
        ("[timeouts]\ncard_s = 9", "timeouts.card_s", "unknown_key"),
        ("colour = 1", "colour", "unknown_key"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, system_file: Path, content: str, key: str, problem: str) -> None:
    file = own(tmp_path, content)
    details = refused(tmp_path, system_file, "CONFIG_INVALID").details
    assert (details["file"], details["key"], details["problem"]) == (str(file), key, problem)


@pytest.mark.parametrize("content", ["[", "lang = ", "\x00"])
def test_a_file_that_is_no_toml(tmp_path: Path, system_file: Path, content: str) -> None:
    file = own(tmp_path, content)
    assert refused(tmp_path, system_file, "CONFIG_UNREADABLE").details["file"] == str(file)


def test_a_file_that_is_no_utf_8(tmp_path: Path, system_file: Path) -> None:
    own(tmp_path, "").write_bytes(b'lang = "\xff"')
    refused(tmp_path, system_file, "CONFIG_UNREADABLE")


# --- flags ------------------------------------------------------------------------------------------------------------


def test_flags_win() -> None:
    found = Settings(lang="en").with_flags(lang="zh", log_file=None)
    assert (found.lang, found.origin("lang")) == ("zh", "flag")
    assert found.origin("log_file") == "default"


def test_every_setting_has_a_row() -> None:
    names = [name for name, _, _ in Settings().rows()]
    assert set(names) == set(Settings.__dataclass_fields__) - {"origins", "lenient", "left_out"}
    assert all(re.fullmatch("[a-z_]+", name) for name in names)
