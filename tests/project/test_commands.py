"""Every command shown in a text or a page is accepted by the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Final

import click
import pytest

from hatch_build import read_language, singular
from tests.project.tree import ROOT
from ushield_hw.cli.app import root

pytestmark = pytest.mark.unit

_ushield: Final = root()
_FILLED: Final = {"uri": "pkcs11:serial=1", "usb": "096e:0807", "atr": "3b00"}
_WORD: Final = re.compile(r"""'[^']*'|"[^"]*"|[!-~]+|\S""")
_ENDS: Final = ".,;:)）。，；：、`“”…"
_ARGUMENT: Final = re.compile(r"""['"].*|[A-Z][A-Z0-9_.]*(?:\.\w+)?|[\w./~-]+\.(?:json|p7m|pem|toml|so|zip|html)|-""")
_GENERATED: Final = {"diagnosis.md", "side-by-side.md"}  # from the texts, and from what programs print
PAGES: Final = [
    *(ROOT / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in _GENERATED),
]
# Required alternatives that the command itself checks: one of these must be given.
_ONE_OF: Final = {"cert renew": {"--out", "--in", "--bank", "--abandon"}}


def texts() -> Iterator[tuple[str, str]]:
    """Yield every text of both languages, and the lines of every page that show a command."""
    for language in ("en", "zh"):
        for message in read_language(ROOT, language):
            forms = [message.string] if isinstance(message.string, str) else message.string or ()
            yield from ((f"{language} {singular(message)}", str(form)) for form in forms)
    for page in PAGES:
        fenced = False
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            fenced ^= line.lstrip().startswith("```")
            if not line.endswith("\\"):  # continued on the next line
                yield f"{page.name}:{number}", f"    {line.lstrip()}" if fenced else line


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands in a text: their words, up to where the sentence continues. An example is a whole line."""
    examples = [line for line in text.splitlines() if line.startswith("$ ushield ")]
    yield from (shlex.split(line)[2:] for line in examples)
    text = "\n".join(line for line in text.splitlines() if line not in examples)
    filled = re.sub(r"\{(\w+)\}", lambda found: _FILLED.get(found[1], "X"), text.replace("{{", "").replace("}}", ""))
    for found in re.finditer(r"(?<![\w/.-])ushield (?=[a-z-])", filled):
        shown = filled[found.end() :].split("`")[0]
        words = (
            [] if re.search(r"…|\.\.\.| \| \w+ \| ", shown) else list(_words(shown))
        )  # a part of one, or a list of them
        if words and _below(_ushield, words[0]):
            yield words


def named_only(where: str, text: str, words: list[str]) -> bool:
    """Tell whether a page only mentions a command by name; in a text every command is meant to be run."""
    command: click.Command | None = _ushield
    for word in words:
        command = None if command is None else _below(command, word)
    return ":" in where and not re.match(r"    (?:\$ )?(?:\.venv/bin/)?ushield ", text) and command is not None


def _words(rest: str) -> Iterator[str]:
    """Yield the parts of the command: its names, its options with their values, and its arguments."""
    command: click.Command = _ushield
    wants = False
    for found in _WORD.finditer(rest.partition("|")[0].partition("#")[0]):
        word = found[0]
        if not word.isascii() and word[0] not in "'\"":
            return
        plain = word if word[0] in "'\"" and word[-1] == word[0] else word.rstrip(_ENDS + "'\"")
        inner = plain.strip("'\"")
        if (below := _below(command, plain)) is not None:
            command = below
        elif wants or plain.startswith("-"):
            wants = not wants and plain.startswith("-") and "=" not in plain and _takes_value(command, plain)
        elif not _ARGUMENT.fullmatch(plain) and plain not in _choices(command):
            return
        yield inner
        after = rest[found.end() : found.end() + 1]
        if plain != word or (after and not after.isspace()):
            return


def _below(command: click.Command, name: str) -> click.Command | None:
    """Return a subcommand of a group."""
    return command.get_command(click.Context(command), name) if isinstance(command, click.Group) else None


def _choices(command: click.Command) -> set[str]:
    """Return the possible values of a command's arguments."""
    kinds = [one.type for one in command.params if isinstance(one, click.Argument)]
    return {str(word) for kind in kinds if isinstance(kind, click.Choice) for word in kind.choices}


def _takes_value(command: click.Command, option: str) -> bool:
    known = [
        one for one in command.params if isinstance(one, click.Option) and option in (*one.opts, *one.secondary_opts)
    ]
    return bool(known) and not known[0].is_flag


def problem(words: list[str]) -> str:
    """Return the command line's objection to a command; empty if there is none."""
    command: click.Command = _ushield
    rest, names = list(words), []
    while rest and (below := _below(command, rest[0])) is not None:
        names.append(rest.pop(0))
        command = below
    if isinstance(command, click.Group):
        return "" if not rest else f"no such command: {rest[0]}"
    try:
        with click.Context(_ushield, info_name="ushield") as parent:
            command.make_context(" ".join(names), rest, parent=parent)
    except click.exceptions.Exit:
        return ""
    except click.UsageError as error:
        return type(error).__name__ + ": " + error.format_message()
    needed = _ONE_OF.get(" ".join(names), set())
    return "" if not needed or needed & set(words) else f"one of {sorted(needed)} is missing"


def test_every_command_in_a_text_is_whole() -> None:
    wrong = {
        f"{where}: ushield {shlex.join(words)}": said
        for where, text in texts()
        for words in commands(text)
        if not named_only(where, text, words) and (said := problem(words))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("text", "found", "right"),
    [
        ("Run ushield cert renew --token '{uri}'. Then", [["cert", "renew", "--token", "pkcs11:serial=1"]], False),
        ("ushield cert renew --out REQUEST.p7m, and", [["cert", "renew", "--out", "REQUEST.p7m"]], True),
        ("看 ushield list 显示的内容", [["list"]], True),
        ("ushield driver match --usb {usb}.", [["driver", "match", "--usb", "096e:0807"]], True),
        ("ushield sign ORDER.json --no-such", [["sign", "ORDER.json", "--no-such"]], False),
        ("what ushield does", [], True),
    ],
)
def test_a_command_is_found_and_judged(text: str, found: list[list[str]], right: bool) -> None:
    assert list(commands(text)) == found
    assert all(not problem(words) for words in found) is right
