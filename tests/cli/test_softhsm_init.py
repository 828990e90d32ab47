"""``ushield softhsm init``: soft tokens for tests, created once and found again."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.cli.world import Home

ROOT = Path(__file__).parents[2]


def test_says_where_everything_is(blank: Home) -> None:
    made = blank.json("softhsm", "init", "--dir", "softhsm")
    assert made["softhsm2_conf"] == str(blank.file("softhsm/softhsm2.conf"))
    assert [token["label"] for token in made["tokens"]] == ["ushield-demo", "ushield-checker"]
    for token in made["tokens"]:
        assert token.keys() == {"label", "serial", "uri", "pin_file", "so_pin_file"}
        assert token["serial"] in token["uri"]


def test_again_finds_what_is_there(blank: Home) -> None:
    before = blank.json("softhsm", "init", "--dir", "softhsm"), blank.content(blank.token.pin_file)
    assert (blank.json("softhsm", "init", "--dir", "softhsm"), blank.content(blank.token.pin_file)) == before


def test_makes_again_what_is_missing(bare: Home) -> None:
    lost = bare.softhsm_init().token
    shelf = bare.file("softhsm/tokens")
    for token in shelf.iterdir():
        token.rename(bare.file(f"lost-{token.name}"))
    found = bare.softhsm_init().token
    assert found.label == lost.label
    assert found.serial != lost.serial
    bare.ushield("pin", "verify", "--token", found.uri, "--pin-source", found.pin_file)


def test_pins_are_for_their_owner_only(blank: Home) -> None:
    for token in blank.tokens:
        for name in (token.pin_file, token.so_pin_file):
            assert blank.file(name).stat().st_mode & 0o777 == 0o600
    assert blank.file("softhsm").stat().st_mode & 0o077 == 0


def test_pins_are_random_digits(blank: Home) -> None:
    pins = [blank.content(name).strip() for token in blank.tokens for name in (token.pin_file, token.so_pin_file)]
    assert [(len(pin), pin.isdigit()) for pin in pins] == [(6, True), (8, True)] * 2
    assert len(set(pins)) == 4


def test_the_pins_are_right(blank: Home) -> None:
    for token in blank.tokens:
        blank.ushield("pin", "verify", "--token", token.uri, "--pin-source", token.pin_file)


def test_stdout_is_the_line_to_run(tmp_path: Path) -> None:
    home = Home(tmp_path)
    done = home.ushield("softhsm", "init", "--dir", "a folder")
    assert done.out == f"export SOFTHSM2_CONF={shlex.quote(f'{tmp_path}/a folder/softhsm2.conf')}\n"
    assert "TEST ONLY" in done.err
    assert "仅供测试" in home.ushield("--lang", "zh", "softhsm", "init", "--dir", "a folder").err


def test_lives_in_the_state_folder_unless_told(tmp_path: Path) -> None:
    made = Home(tmp_path).json("softhsm", "init")
    assert made["softhsm2_conf"] == str(tmp_path / "state/ushield/softhsm/softhsm2.conf")
    assert made["test_only"] is True


def test_softhsm_is_not_installed(bare: Home) -> None:
    shipped = (ROOT / "drivers/softhsm2.toml").read_text()
    bare.write("own/softhsm2.toml", re.sub(r"(?s)linux = \[.*?\]", 'linux = ["/nowhere/libsofthsm2.so"]', shipped))
    details = bare.fails(3, "SOFTHSM_NOT_INSTALLED", "--drivers", "own", "softhsm", "init", "--dir", "softhsm")
    assert details["searched"] == ["/nowhere/libsofthsm2.so"]


def test_a_folder_that_cannot_be_made(bare: Home) -> None:
    bare.write("taken", "")
    assert bare.fails(12, "STATE_FOLDER_UNUSABLE", "softhsm", "init", "--dir", "taken/softhsm")["path"]
    assert bare.fails(2, "USAGE", "softhsm", "init", "--dir", "taken")["argument"] == "--dir"
