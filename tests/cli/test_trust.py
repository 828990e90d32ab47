"""Files that control modules, confirmation and state are refused where other users could change them."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.world import USHIELD, Home

ROOT = Path(__file__).parents[2]
BUTTON = '\n[confirm]\nkind = "button"\n'
MESSAGE = '\n[confirm]\nkind = "display"\ntext = "message"\n'
REPORTING = (("list",), ("config", "show"))


def descriptor(home: Home, *, adds: str = "") -> Path:
    """Write a SoftHSM2 descriptor into a folder of the home; return the file."""
    shipped = (ROOT / "drivers/softhsm2.toml").read_text()
    return home.file(home.write("drivers/softhsm2.toml", shipped + adds))


def sign(home: Home, *before: str, exits: int = 0) -> Any:
    own = ("--token", home.token.uri, "--pin-source", home.token.pin_file)
    return home.json(*before, "sign", home.order(), *own, "--unattended", "-o", "signed.p7m", exits=exits)


# --- descriptors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["file", "folder", "above"])
def test_a_descriptor_that_others_could_change_signs_nothing(home: Home, which: str) -> None:
    file = descriptor(home)
    place = {"file": file, "folder": file.parent, "above": home.folder}[which]
    place.chmod(0o777)
    error = sign(home, "--drivers", str(file.parent), exits=2)["error"]
    assert (error["code"], error["details"]["place"]) == ("CONFIG_UNSAFE", str(place))
    assert str(place) in error["remedy"]
    assert not home.file("signed.p7m").exists()


def test_list_goes_on_without_it_and_reports_it(home: Home) -> None:
    file = descriptor(home)
    file.chmod(0o666)
    seen = home.json("--drivers", "drivers", "list")
    assert {token["serial"] for token in seen["tokens"]} == {token.serial for token in home.tokens}
    assert ("CONFIG_UNSAFE", str(file)) in [(one["error"], one["module"]) for one in seen["problems"]]
    assert str(file) in home.ushield("--drivers", "drivers", "list").err


def test_doctor_goes_on_without_it_and_reports_it(home: Home) -> None:
    file = descriptor(home)
    file.chmod(0o666)
    home.file("state").mkdir(exist_ok=True)
    report = home.json("--drivers", "drivers", "doctor", "--token", home.token.uri)
    assert [problem["code"] for problem in report["problems"]] == ["CONFIG_UNSAFE"]
    assert str(file) in home.ushield("--drivers", "drivers", "doctor", "--token", home.token.uri).err


def test_a_link_to_a_descriptor_that_others_could_change(home: Home) -> None:
    public = home.file(home.write("public/softhsm2.toml", (ROOT / "drivers/softhsm2.toml").read_text()))
    public.parent.chmod(0o777)
    home.file("drivers").mkdir()
    home.file("drivers/softhsm2.toml").symlink_to(public)
    assert home.fails(2, "CONFIG_UNSAFE", "--drivers", "drivers", "info")["place"] == str(public.parent)


def test_a_pipe_is_no_descriptor(home: Home) -> None:
    home.file("drivers").mkdir()
    os.mkfifo(home.file("drivers/softhsm2.toml"), 0o600)
    assert home.fails(2, "CONFIG_UNSAFE", "--drivers", "drivers", "info")["problem"] == "path_not_a_file"


def test_its_confirmation_is_not_stated_without_consent(home: Home) -> None:
    descriptor(home, adds=BUTTON)
    assert sign(home, "--drivers", "drivers")["confirmation"] == "none"


def test_it_cannot_have_the_token_show_what_is_signed_without_consent(home: Home) -> None:
    descriptor(home, adds=MESSAGE)
    error = sign(home, "--drivers", "drivers", exits=2)["error"]
    assert error["code"] == "DESCRIPTOR_NEEDS_CONSENT"
    assert 'consent = ["softhsm2"]' in error["remedy"]
    assert not home.file("signed.p7m").exists()
    assert home.tries_left() == 6
    assert home.json("--drivers", "drivers", "list")["tokens"]


def test_its_module_runs_in_a_worker_without_consent(home: Home) -> None:
    assert 'isolation = "in-process"' in descriptor(home).read_text()
    assert home.json("info", "--token", home.token.serial)["isolation"] == "in-process"
    assert home.json("--drivers", "drivers", "info", "--token", home.token.serial)["isolation"] == "process"


def test_check_prints_the_line_of_consent(home: Home) -> None:
    file = descriptor(home, adds=BUTTON)
    lines = '[drivers]\nconsent = ["softhsm2"]'
    assert home.json("driver", "check", file)["consent"] == lines
    done = home.ushield("driver", "check", file)
    assert lines in done.out
    assert done.err == ""
    file.chmod(0o666)
    assert str(file) in home.ushield("driver", "check", file).err


def test_check_prints_no_line_where_nothing_needs_consent(home: Home) -> None:
    file = descriptor(home)
    file.write_text(file.read_text().replace('"in-process"', '"process"'))
    assert home.json("driver", "check", file)["consent"] is None


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["config.toml", "drivers"])
def test_configuration_that_others_could_change_is_refused(home: Home, which: str) -> None:
    home.write("config/ushield/config.toml", "warn_days = 3\n")
    home.write("config/ushield/drivers/softhsm2.toml", (ROOT / "drivers/softhsm2.toml").read_text())
    place = home.file(f"config/ushield/{which}")
    place.chmod(0o777)
    assert sign(home, exits=2)["error"]["code"] == "CONFIG_UNSAFE"
    for words in REPORTING:
        document = home.json(*words)
        assert "CONFIG_UNSAFE" in [one.get("code", one.get("error")) for one in document["problems"]]
        assert str(place) in home.ushield(*words).err


def test_config_show_works_with_a_file_that_is_wrong(home: Home) -> None:
    home.write("config/ushield/config.toml", "colour = 1\n")
    shown = home.json("config", "show", "--origin")
    assert shown["settings"]["warn_days"] == {"value": 30, "origin": "default"}
    assert [problem["code"] for problem in shown["problems"]] == ["CONFIG_INVALID"]


# --- the state folder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["state", "state/ushield", "state/ushield/pin"])
def test_a_state_folder_that_others_could_change(home: Home, which: str) -> None:
    home.tries_left()
    home.file("state/ushield/pin").mkdir(parents=True, exist_ok=True)
    home.file(which).chmod(0o777)
    error = sign(home, exits=12)["error"]
    assert (error["code"], error["details"]["place"]) == ("STATE_UNSAFE", str(home.file(which)))
    (token, _) = home.json("list")["tokens"]
    assert [problem["error"] for problem in token["problems"]] == ["STATE_UNSAFE"]


def test_config_show_reports_a_state_folder_that_others_could_change(home: Home) -> None:
    home.file("state/ushield").mkdir(parents=True, exist_ok=True)
    home.file("state").chmod(0o777)
    assert [problem["code"] for problem in home.json("config", "show")["problems"]] == ["STATE_UNSAFE"]


@pytest.mark.parametrize("umask", ["0", "0777"])
def test_whatever_the_umask_is_the_state_is_for_its_owner_alone(home: Home, umask: str) -> None:
    """The command's state is private; an output file follows the umask, as any program's does."""
    own = ["--token", home.token.uri, "--pin-source", home.token.pin_file]
    words = [USHIELD, "--log-file", "log.txt", "sign", home.order(), *own, "--unattended", "-o", "signed.p7m"]
    environment = home.environment | {"XDG_STATE_HOME": str(home.file("a/b"))}
    script = ["sh", "-c", 'umask "$0"; exec "$@"', umask, *words]
    subprocess.run(script, cwd=home.folder, env=environment, check=True, capture_output=True, timeout=60)
    made = [home.file("a"), *home.file("a").rglob("*"), home.file("log.txt")]
    modes = {str(path): stat.S_IMODE(path.stat().st_mode) for path in made}
    assert len(modes) > 5
    assert {path: mode for path, mode in modes.items() if mode != (0o700 if Path(path).is_dir() else 0o600)} == {}


# --- the bank's folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["bank", "bank/bank.json", "bank/bank.sqlite3"])
def test_a_bank_that_others_could_change_is_not_used(home: Home, which: str) -> None:
    home.json("bank", "init", "--dir", "bank")
    made = [home.file("bank"), *home.file("bank").rglob("*")]
    assert [path for path in made if path.stat().st_mode & 0o022] == []
    home.file(which).chmod(0o777)
    details = home.fails(12, "STATE_UNSAFE", "bank", "certs", "list", "--dir", "bank")
    assert (details["path"], details["place"]) == (str(home.file("bank")), str(home.file(which)))
    home.file(which).chmod(0o700)
    home.json("bank", "certs", "list", "--dir", "bank")
