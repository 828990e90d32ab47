"""Help pages, completion and version: complete, in both languages."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import forked
from tests.cli.world import TIMEOUT_S, USHIELD, Home, checked
from ushield_hw.cli.layout import columns

ROOT = Path(__file__).parents[2]
HEADINGS = {"en": ("Usage:", "Options", "Commands"), "zh": ("用法：", "选项", "命令")}
COLONS = {heading: mark for lang, mark in (("en", ":"), ("zh", "：")) for heading in HEADINGS[lang]}
Pages = dict[str, str]

pytestmark = pytest.mark.xdist_group("help")  # the help pages are collected in one process


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home without tokens."""
    return Home(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="session", params=["en", "zh"])
def lang(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def pages(desk: Home, lang: str) -> Pages:
    """Every help page by its command, collected recursively from the top level."""
    return dict(walk(desk, lang))


def shown(home: Home, *command: str) -> str:
    """Return a command's help page, run in a fork: there are a hundred."""
    words = (*command, "--help")
    return checked(forked.run(words, home.folder, home.environment), words, 0).out


def walk(home: Home, lang: str, *command: str) -> Iterator[tuple[str, str]]:
    page = shown(home, "--lang", lang, *command)
    yield " ".join(command), page
    for name, _ in rows(page, HEADINGS[lang][2]):
        yield from walk(home, lang, *command, name)


def rows(page: str, heading: str) -> list[tuple[str, str]]:
    """Return the rows under a heading: the left column and the text to its right."""
    _, found, section = page.partition(f"\n{heading}{COLONS[heading]}\n")
    table = re.split(r"\n\n", section)[0] if found else ""
    joined = re.sub(r"\n {10,}", "  ", table)  # a row that is too long continues on the next line
    return [
        (left, right) for left, _, right in (re.sub(r"^ +", "", row).partition("  ") for row in joined.splitlines())
    ]


def test_every_command_is_there(pages: Pages) -> None:
    assert set(pages) >= {
        *("list", "info", "watch", "show", "sign", "verify", "completion", "demo", "help", "order new"),
        *(f"pin {name}" for name in ("status", "verify", "change", "unblock")),
        *(f"cert {name}" for name in ("list", "request", "enroll", "install", "renew", "export")),
        *(f"driver {name}" for name in ("list", "show", "check", "match")),
        *("softhsm init", "config show"),
        *(f"bank {name}" for name in ("init", "serve", "code", "revoke", "certs list", "certs expiring")),
    }


def test_every_page_is_in_the_language(pages: Pages, lang: str) -> None:
    usage, options, _ = HEADINGS[lang]
    for command, page in pages.items():
        assert page.startswith(f"{usage} ushield {command}".rstrip()), page
        assert f"\n{options}{COLONS[options]}\n" in page


def test_every_command_and_option_has_a_text(pages: Pages, lang: str) -> None:
    for command, page in pages.items():
        for heading in HEADINGS[lang][1:]:
            for left, right in rows(page, heading):
                assert right.strip(), f"{command}: {left}"
                assert lang == "en" or not right.isascii(), f"{command}: {left}: {right}"


def test_no_message_id_shows(pages: Pages) -> None:
    for command, page in pages.items():
        assert re.findall(r"\b(?:help|cli|prompt|list|pin|cert|option)\.[a-z_]+", page) == [], command


def test_no_option_takes_a_pin(pages: Pages) -> None:
    taken = {word for page in pages.values() for word in re.findall(r"--[a-z-]*(?:pin|puk)[a-z-]*", page)}
    assert taken == {"--pin-source", "--new-pin-source", "--so-pin-source", "--puk-source", "--pin-per-signature"}


def test_every_reading_command_has_json(pages: Pages) -> None:
    without = {command for command, page in pages.items() if "--json" not in page}
    assert without == {
        "",
        "order",
        "pin",
        "cert",
        "journal",
        "key",
        "driver",
        "softhsm",
        "virtual",
        "config",
        "completion",
        "demo",
        "bank",
        "bank certs",
    }


def test_short_help(desk: Home) -> None:
    assert desk.ushield("-h").out == desk.ushield("--help").out


@pytest.mark.parametrize("words", [(), ("pin",)])
def test_a_command_that_is_not_whole_shows_its_page(desk: Home, words: tuple[str, ...]) -> None:
    done = desk.ushield(*words, exits=2)
    assert done.err == desk.ushield(*words, "--help").out


def test_version(desk: Home) -> None:
    assert re.fullmatch(r"ushield \d+\.\d+\.\d+\n", desk.ushield("--version").out)


def commands_in_texts() -> set[str]:
    """Return every command that a text tells the user to run, up to its first argument or option."""
    texts = "".join(path.read_text() for path in (ROOT / "ushield_hw/messages").glob("*/*.po"))
    return {re.sub(r" (FILE\b|DIR\b|ID\b|--).*", "", found) for found in re.findall(r"`ushield ([^`]+)`", texts)}


@pytest.mark.parametrize("command", sorted(commands_in_texts()))
def test_what_a_text_tells_to_run_can_be_run(desk: Home, command: str) -> None:
    assert shown(desk, *command.split())


def test_what_the_installed_command_shows_is_the_same(desk: Home, pages: Pages, lang: str) -> None:
    assert desk.ushield("--lang", lang, "sign", "--help").out == pages["sign"]


# --- completion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("ushield pi", {"pin"}), ("ushield pin v", {"verify"}), ("ushield sign --unat", {"--unattended"})],
)
def test_bash_completes(desk: Home, typed: str, offered: set[str]) -> None:
    script = desk.ushield("completion", "bash").out
    words = typed.split()
    ask = f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _ushield_completion ushield; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}"],
        env=desk.environment | {"PATH": f"{Path(USHIELD).parent}:{desk.environment['PATH']}"},
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
        text=True,
    )
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(desk: Home, shell: str) -> None:
    assert "_USHIELD_COMPLETE" in desk.ushield("completion", shell).out


def test_a_shell_nobody_knows(desk: Home) -> None:
    assert desk.ushield("completion", "tcsh", exits=2).out == ""


def test_every_command_has_examples(pages: Pages, lang: str) -> None:
    heading = {"en": "\nExamples:\n", "zh": "\n示例：\n"}[lang]
    groups = {command for command, page in pages.items() if rows(page, HEADINGS[lang][2]) and command}
    assert [command for command, page in pages.items() if command not in groups and heading not in page] == []


def test_pages_fit_eighty_columns(pages: Pages) -> None:
    """Only examples and single words may be longer: both would be useless broken."""
    wide = [
        line
        for page in pages.values()
        for line in re.split(r"\n(?:Examples:|示例：)\n", page)[0].splitlines()
        if columns(line) > 80
    ]
    assert wide == []


@pytest.mark.parametrize("words", [("list", "--lang", "zh"), ("--lang", "zh", "list"), ("list", "--lang=zh_CN.UTF-8")])
def test_the_language_may_follow_the_command(desk: Home, words: tuple[str, ...]) -> None:
    assert "没有找到 U盾" in desk.ushield(*words).err


def test_a_log_option_may_follow_the_command(desk: Home, tmp_path: Path) -> None:
    desk.ushield("list", "--log-file", str(tmp_path / "log"))
    assert (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("lst",), "list"),
        (("pin", "chnge"), "change"),
        (("list", "--jsn"), "--json"),
        (("sign", "--unatended"), "--unattended"),
    ],
)
def test_did_you_mean(desk: Home, words: tuple[str, ...], meant: str) -> None:
    ran = desk.ushield("--lang", "en", *words, exits=2)
    assert f"Did you mean {meant}?" in ran.err


def test_all_missing_parameters_are_named_at_once(desk: Home) -> None:
    ran = desk.ushield("--lang", "en", "sign", exits=2)
    assert "Missing: ORDER.json, --out." in ran.err
    assert "ushield sign --help" in ran.err
