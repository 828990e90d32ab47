"""Manual pages (man 7 man) of the command and each of its subcommands, made from the help pages.

Run it as: ``python -m ushield_hw.cli.manual FOLDER LANGUAGE``; it writes ``man1`` or ``zh_CN/man1`` there. One language
a process: the texts of options are made when their commands are imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from ushield_hw import __version__, messages
from ushield_hw.cli import topics
from ushield_hw.cli.app import root
from ushield_hw.cli.help import SHORT, examples, option_rows, subcommands

_FOLDERS: Final[dict[messages.Language, str]] = {"en": "man1", "zh": "zh_CN/man1"}
_SECTIONS: Final[dict[messages.Language, dict[str, str]]] = {
    "en": {
        "name": "NAME",
        "synopsis": "SYNOPSIS",
        "description": "DESCRIPTION",
        "options": "OPTIONS",
        "commands": "COMMANDS",
        "examples": "EXAMPLES",
        "exit-codes": "EXIT STATUS",
        "environment": "ENVIRONMENT",
        "config": "CONFIGURATION",
        "see": "SEE ALSO",
    },
    "zh": {
        "name": "名称",
        "synopsis": "概要",
        "description": "描述",
        "options": "选项",
        "commands": "命令",
        "examples": "示例",
        "exit-codes": "退出码",
        "environment": "环境变量",
        "config": "配置",
        "see": "参见",
    },
}


def write(folder: Path, language: messages.Language) -> None:
    """Write the page of every command.

    Args:
        folder: the folder, such as ``/usr/share/man``.
        language: the language of the pages.
    """
    messages.set_language(language)
    place = folder / _FOLDERS[language]
    place.mkdir(parents=True, exist_ok=True)
    for context in _contexts():
        page = "\n".join(_page(context, _SECTIONS[language])) + "\n"
        (place / f"{_name(context)}.1").write_text(page, encoding="utf-8")


def _contexts() -> Iterator[click.Context]:
    """Yield the context of the command and of every subcommand."""
    top = root()
    waiting: list[click.Context] = [top.context_class(top, info_name="ushield", **top.context_settings)]
    while waiting:
        context = waiting.pop(0)
        yield context
        command = context.command
        if isinstance(command, click.Group):
            found = subcommands(command, context)
            waiting += [one.context_class(one, info_name=name, parent=context) for name, one in found]


def _name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(context: click.Context, sections: dict[str, str]) -> Iterator[str]:
    command, text = context.command, context.command.help or ""
    date = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    yield f'.TH "{_name(context).upper()}" 1 "{date:%Y-%m-%d}" "ushield {__version__}" "ushield"'
    yield f".SH {sections['name']}"
    yield _escaped(f"{_name(context)} - {text.splitlines()[0].rstrip('.。')}")
    yield f".SH {sections['synopsis']}"
    yield rf"\fB{_escaped(context.command_path)}\fR {_escaped(' '.join(command.collect_usage_pieces(context)))}"
    yield f".SH {sections['description']}"
    yield from map(_escaped, (*text.splitlines(), *(command.epilog or "").splitlines()))
    yield from _list(sections["options"], option_rows(context))
    if isinstance(command, click.Group):
        found = subcommands(command, context)
        rows = [(f"{context.command_path} {name}", one.get_short_help_str(SHORT)) for name, one in found]
        yield from _list(sections["commands"], rows)
    yield from _examples(context, sections["examples"])
    if context.parent is None:
        for topic, rows_of in topics.TOPICS.items():
            yield from _list(sections[topic], list(rows_of().items()))
    parents = [_name(context.parent)] if context.parent is not None else []
    yield from (
        f".SH {sections['see']}",
        ", ".join(rf"\fB{_escaped(name)}\fR(1)" for name in parents or ["softhsm2-util"]),
    )


def _list(heading: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    if rows:
        yield f".SH {heading}"
    for name, text in rows:
        yield from (".TP", rf"\fB{_escaped(name)}\fR", _escaped(text))


def _examples(context: click.Context, heading: str) -> Iterator[str]:
    if found := examples(context):
        yield from (f".SH {heading}", ".nf", *map(_escaped, found), ".fi")


def _escaped(text: str) -> str:
    """Return a text for roff: no request at the start of a line, hyphens that can be copied."""
    made = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{made}" if made[:1] in {".", "'"} else made


if __name__ == "__main__":
    write(Path(sys.argv[1]), "zh" if sys.argv[2] == "zh" else "en")
