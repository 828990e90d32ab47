"""``ushield help``: pages of commands, and the topics that no command's page has."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.cli.world import Home
from ushield_hw.cli import exits, topics
from ushield_hw.cli.layout import columns
from ushield_hw.config import load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home without tokens."""
    return Home(tmp_path_factory.mktemp("desk"))


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("topic", list(topics.TOPICS))
def test_a_topic_has_a_text_for_everything_and_fits(desk: Home, topic: str, lang: str) -> None:
    page = desk.ushield("--lang", lang, "help", topic).out
    assert "topic." not in page
    wide = [line for line in page.splitlines()[1:] if columns(line) > 80 and "/" not in line.split()[0]]
    assert wide == [], "only the path of a file may be longer"
    assert all(name in page for name in desk.json("help", topic)[topic])


def test_every_exit_code_of_the_design_is_explained(desk: Home) -> None:
    assert {int(code) for code in desk.json("help", "exit-codes")["exit-codes"]} == set(exits.ALL)


def test_every_key_of_the_configuration_is_explained(tmp_path: Path) -> None:
    """A file with all the keys of the topic is accepted, and each key that the reader knows is in the topic."""
    values = {"lang": '"en"', "profile": '"demo"', "state_dir": '"/s"', "log_file": '"/l"', "urgent_days": "[7]"}
    values |= {"change_first_pin": "true", "journal.masked": "true"}
    lists = dict.fromkeys(("drivers.folders", "drivers.consent", "modules.files"), "[]")
    text = "\n".join(f"{key} = {(values | lists).get(key, '30')}" for key in topics.KEYS)
    tomllib.loads(text)
    file = tmp_path / "config.toml"
    file.write_text(text)
    settings = load_settings({}, file)
    assert settings.lang == "en"
    source = (ROOT / "ushield_hw/config.py").read_text()
    read = set(
        re.findall(r'\b(?:table|limits|modules|journal|inner)\.(?:text|texts|integers?|boolean)\("(\w+)"', source)
    )
    assert read <= {key.split(".")[-1] for key in topics.KEYS} | {"drivers"}


def test_every_variable_that_is_read_is_explained() -> None:
    found = subprocess.run(
        ["git", "grep", "-hoE", r"environ(ment)?(\.get\(|\[)\"[A-Z_]+\"", "ushield_hw/config.py", "ushield_hw/cli"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    read = set(re.findall(r'"([A-Z_]+)"', found)) - {"TERM", "TZ", "SOURCE_DATE_EPOCH"}
    assert read - set(topics.VARIABLES) == set()


def test_the_page_of_a_command(desk: Home) -> None:
    assert (
        desk.ushield("--lang", "en", "help", "pin", "change").out
        == desk.ushield("--lang", "en", "pin", "change", "--help").out
    )


def test_without_words_the_topics_are_listed(desk: Home) -> None:
    page = desk.ushield("--lang", "en", "help").out
    assert all(f"ushield help {name}" in page for name in topics.TOPICS)


def test_an_unknown_word(desk: Home) -> None:
    error = desk.fails(2, "USAGE_NO_SUCH_COMMAND", "help", "exit-code")
    assert "exit-codes" in error["known"]
