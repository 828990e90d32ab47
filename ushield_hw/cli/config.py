"""``ushield config show``."""

from __future__ import annotations

import click

from ushield_hw import messages
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Group


@click.group("config", cls=Group, help=messages.text("help.config"))
def config_command() -> None:
    """Settings."""


@config_command.command("show", help=messages.text("help.config.show"))
@click.option("--origin", is_flag=True, help=options.say("origin"))
@options.as_json()
def _show(origin: bool, as_json: bool) -> None:
    rows = options.settings().rows()
    if as_json:
        found = {name: {"value": value, "origin": source} for name, value, source in rows}
        output.document({"settings": found if origin else {name: value for name, value, _ in rows}})
        return
    shown = [(name, f"{_text(value)}{f'   [{source}]' if origin else ''}") for name, value, source in rows]
    output.lines(output.table(shown))


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
