"""``ushield config show`` and the effect of settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.world import Home


@pytest.fixture
def desk(tmp_path: Path) -> Home:
    """A home without tokens."""
    return Home(tmp_path)


def configure(home: Home, content: str) -> str:
    return str(home.file(home.write("config/ushield/config.toml", content)))


def test_every_setting_and_where_it_comes_from(desk: Home) -> None:
    file = configure(desk, 'profile = "demo"\n[timeouts]\npin_s = 30\n')
    shown = desk.json("--log-file", "log.txt", "config", "show", "--origin")["settings"]
    assert shown["profile"] == {"value": "demo", "origin": file}
    assert shown["pin_timeout_s"] == {"value": 30, "origin": file}
    assert shown["confirm_timeout_s"] == {"value": 120, "origin": "default"}
    assert shown["log_file"] == {"value": "log.txt", "origin": "flag"}
    assert shown["state_dir"]["value"] == str(desk.file("state/ushield"))


def test_without_origins(desk: Home) -> None:
    shown = desk.json("config", "show")["settings"]
    assert (shown["profile"], shown["warn_days"], shown["lang"]) == ("standard", 30, None)


def test_for_a_person(desk: Home) -> None:
    file = configure(desk, "warn_days = 10\n")
    rows = desk.ushield("config", "show", "--origin").out.splitlines()
    assert [row.split() for row in rows if row.startswith("warn_days")] == [["warn_days", "10", f"[{file}]"]]


def test_folders_of_descriptors(desk: Home) -> None:
    desk.file("config/ushield/drivers").mkdir(parents=True)
    desk.file("mine").mkdir()
    shown = desk.json("--drivers", "mine", "config", "show", "--origin")["settings"]["drivers"]
    assert shown["value"][:2] == [str(desk.file("mine")), str(desk.file("config/ushield/drivers"))]
    assert shown["origin"] == "flag"
    assert desk.json("config", "show", "--origin")["settings"]["drivers"]["origin"] == str(desk.file("config/ushield"))


@pytest.mark.parametrize(
    ("content", "code", "key"),
    [
        ('colour = "red"', "CONFIG_INVALID", "colour"),
        ("warn_days = 0", "CONFIG_INVALID", "warn_days"),
        ("[timeouts]\npin_s = 1", "CONFIG_INVALID", "timeouts.pin_s"),
        ('state_dir = "relative"', "CONFIG_INVALID", "state_dir"),
        ('[modules]\nfiles = ["/lib/evil.so"]', "CONFIG_SYSTEM_ONLY", "modules"),
    ],
)
def test_a_wrong_key_is_named(desk: Home, content: str, code: str, key: str) -> None:
    file = configure(desk, content)
    details = desk.fails(2, code, "list")
    assert (details["file"], details["key"]) == (file, key)


def test_a_file_that_is_no_toml(desk: Home) -> None:
    assert desk.fails(2, "CONFIG_UNREADABLE", "list")["file"] if configure(desk, "[") else None


# --- language ---------------------------------------------------------------------------------------------------------


def sentence(home: Home, *words: str, **environment: str) -> str:
    message: str = home.json(*words, "info", exits=3, **environment)["error"]["message"]
    return message


def test_the_language_is_the_locales(bare: Home) -> None:
    assert sentence(bare).isascii()
    assert not sentence(bare, LANG="zh_CN.UTF-8").isascii()
    assert sentence(bare, LANG="zh_CN.UTF-8", LC_ALL="en_US.UTF-8").isascii()


def test_then_the_configurations(bare: Home) -> None:
    configure(bare, 'lang = "zh"')
    assert not sentence(bare).isascii()


def test_then_the_flags(bare: Home) -> None:
    configure(bare, 'lang = "zh"')
    assert sentence(bare, "--lang", "en").isascii()
    assert sentence(bare, "--lang=en").isascii()
    assert not sentence(bare, "--lang", "zh", LANG="en_US.UTF-8").isascii()


def test_codes_and_keys_are_the_same_in_both(bare: Home) -> None:
    en, zh = (bare.json("--lang", lang, "info", exits=3)["error"] for lang in ("en", "zh"))
    assert (en["code"], en["details"]) == (zh["code"], zh["details"])


# --- the log ----------------------------------------------------------------------------------------------------------


def test_a_log_that_cannot_be_opened(desk: Home) -> None:
    assert desk.fails(2, "LOG_FILE_UNUSABLE", "--log-file", "nowhere/log", "list")["path"] == "nowhere/log"
