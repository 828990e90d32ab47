"""The fenced blocks of the documentation, and the commands with their expected output in them.

Conventions of the pages, which ``tests/docs/test_blocks.py`` enforces:

- ``console``: a line that starts with ``$ `` is a command, which continues while its lines end with a backslash. The
  lines up to the next command are its output; without any, the output is not compared. ``...`` matches anything within
  a line; alone on a line it matches any number of lines. A command that fails is followed by ``(exit N)``.
- ``python``: runs in one interpreter for each page. A ``text`` block with the title ``Output`` or ``输出`` that follows
  it is what it prints.
- a block whose title is a file name is written to that file instead of being run.
- ``text``: cannot run here, or is not meant to. ``toml``, ``json``, ``yaml`` and ``ini`` must be well-formed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Final

from tests.project.tree import ROOT

LANGUAGES: Final = {"console", "python", "text", "toml", "json", "yaml", "ini"}
OUTPUT: Final = {"Output", "输出"}
# Written by programs: make causes, make bench, make side-by-side. Commands in them are data.
GENERATED: Final = {"docs/diagnosis.md", "docs/benchmarks.md", "docs/side-by-side.md"}

_FENCE: Final = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_TITLE: Final = re.compile(r'title="([^"]*)"')
_FILE: Final = re.compile(r"[\w/-]*[\w-]\.\w+")
_EXIT: Final = re.compile(r"\(exit (\d+)\)")
_ANYTHING: Final = re.compile(r"\.\.\.|…")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: number of its first line in the page.
        language: the word after the backticks.
        title: its title.
        body: its text without indentation.
    """

    line: int
    language: str
    title: str
    body: str

    @property
    def file(self) -> str | None:
        """The file that it is written to."""
        return self.title if _FILE.fullmatch(self.title) else None


@dataclass(frozen=True)
class Command:
    """A command of a console block, its expected output, and its exit code."""

    line: int
    words: str
    output: str
    exit_code: int


def pages() -> list[str]:
    """Return the pages of the documentation that people write, relative to the root."""
    found = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    outside = ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md", "drivers/README.md"]
    return [page for page in [*outside, *found] if page not in GENERATED]


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    made = []
    for found in _FENCE.finditer(text):
        language, _, rest = found[3].strip().partition(" ")
        title = _TITLE.search(rest)
        line = text.count("\n", 0, found.start()) + 1
        made.append(Block(line, language, title[1] if title else "", dedent(found[4])))
    return made


def outside_fences(page: str) -> list[str]:
    """Return the lines of a page outside fenced blocks."""
    return _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8")).splitlines()


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a console block."""
    lines = block.body.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    assert starts and starts[0] == 0, f"line {block.line}: a console block starts with a command"
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        last = start
        while lines[last].endswith("\\"):
            last += 1
        output = [line for line in lines[last + 1 : end] if not _EXIT.fullmatch(line)]
        exits = [int(found[1]) for line in lines[last + 1 : end] if (found := _EXIT.fullmatch(line))]
        words = "\n".join(lines[start : last + 1])[2:]
        yield Command(block.line + 1 + start, words, "\n".join(output).strip("\n"), exits[0] if exits else 0)


def fits(expected: str, said: str) -> bool:
    """Tell whether an output is the expected one, in which ``...`` matches anything."""
    parts = []
    for line in expected.splitlines():
        if _ANYTHING.fullmatch(line.strip()):
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append(r"[^\n]*?".join(re.escape(part) for part in _ANYTHING.split(line.rstrip())) + r"[ ]*\n")
    return re.fullmatch("".join(parts), said.strip("\n") + "\n") is not None


def path_of(page: str) -> Path:
    """Return the path of a page."""
    return ROOT / page
