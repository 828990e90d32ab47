"""Every block of the documentation runs, or is well-formed; the conventions are in ``tests/docs/blocks.py``."""

from __future__ import annotations

import configparser
import json
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import LANGUAGES, OUTPUT, Block, blocks, commands, fits, outside_fences, pages
from tests.docs.reader import Reader
from tests.project.tree import ROOT

RUNNABLE = [page for page in pages() if any(block.language in ("console", "python") for block in blocks(page))]


def locale(page: str) -> str:
    return "zh_CN.UTF-8" if ".zh" in page else "C.UTF-8"


@pytest.mark.parametrize("page", RUNNABLE)
def test_a_page_can_be_followed(page: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    read = blocks(page)
    with Reader(home, locale(page)) as reader:
        for block, following in pairwise([*read, Block(0, "", "", "")]):
            if block.file is not None:
                reader.write(block.file, block.body)
            elif block.language == "console":
                follow(reader, page, block)
            elif block.language == "python":
                run(reader, page, block, following)


def follow(reader: Reader, page: str, block: Block) -> None:
    for one in commands(block):
        code, said = reader.command(one.words)
        where = f"{page}:{one.line}: $ {one.words}"
        assert code == one.exit_code, f"{where}\nexit {code}\n{said}"
        assert not one.output or fits(one.output, said), f"{where}\n--- page\n{one.output}\n--- here\n{said}"


def run(reader: Reader, page: str, block: Block, following: Block) -> None:
    ok, said = reader.python(block.body)
    assert ok, f"{page}:{block.line}\n{said}"
    if following.title in OUTPUT:
        assert fits(following.body, said), f"{page}:{following.line}\n--- page\n{following.body}\n--- here\n{said}"


# --- form -------------------------------------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize("page", pages())
def test_blocks_are_fenced_and_well_formed(page: str) -> None:
    assert indented(page) == [], "use a fenced block"
    for block in blocks(page):
        where = f"{page}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: {block.language!r}"
        assert block.title not in OUTPUT or block.language == "text", where
        parse(block, where)


def parse(block: Block, where: str) -> None:
    try:
        if block.language == "toml":
            tomllib.loads(block.body)
        elif block.language == "json":
            json.loads(block.body)
        elif block.language == "yaml":
            assert yaml.safe_load(block.body) is not None
        elif block.language == "ini":
            configparser.ConfigParser(strict=False, interpolation=None).read_string(f"[top]\n{block.body}")
        elif block.language == "console":
            list(commands(block))
        elif block.language == "python":
            compile(block.body, where, "exec")
    except (ValueError, yaml.YAMLError, configparser.Error) as error:
        pytest.fail(f"{where}: {error}")


def indented(page: str) -> list[str]:
    """Return the lines of blocks that are only indented, outside lists, notes and tabs."""
    found, opener = [], ""
    lines = outside_fences(page)
    for before, line in pairwise(["", *lines]):
        if line and not line.startswith(" "):
            opener = line
        inside = opener.startswith(("-", "*", "===", "!!!", "???", ":::")) or opener[:2].rstrip(".").isdigit()
        if line.startswith("    ") and not before.strip() and not inside:
            found.append(line)
    return found


@pytest.mark.unit
@pytest.mark.parametrize("page", pages())
def test_a_script_that_is_also_an_example_is_that_example(page: str) -> None:
    examples = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py")}
    shown = [block for block in blocks(page) if block.title in examples]
    assert [block.title for block in shown if block.body != examples[block.title]] == []


@pytest.mark.unit
@pytest.mark.parametrize(
    ("expected", "said", "same"),
    [
        ("a ... c", "a b c\n", True),
        ("a ... c", "a b d\n", False),
        ("a\n...\nd", "a\nb\nc\nd\n", True),
        ("a\n...\nd", "a\nd\n", True),
        ("a\nd", "a\nb\nd\n", False),
        ("a", "a\nb\n", False),
        ("1.5", "1x5\n", False),
        ("…\nlast", "first\nlast\n", True),
    ],
)
def test_an_output_is_compared(expected: str, said: str, same: bool) -> None:
    assert fits(expected, said) is same


@pytest.mark.unit
def test_a_console_block_has_commands_outputs_and_exit_codes() -> None:
    block = Block(10, "console", "", "$ one \\\n    two\nsaid\n(exit 4)\n$ three\n")
    assert [(c.line, c.words, c.output, c.exit_code) for c in commands(block)] == [
        (11, "one \\\n    two", "said", 4),
        (15, "three", "", 0),
    ]
