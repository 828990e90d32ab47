"""``ushield config show``."""

from __future__ import annotations

import click

from ushield_hw import messages
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Group
from ushield_hw.config import Settings, places
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.errors import UShieldError
from ushield_hw.system.storage import existing_folder


@click.group("config", cls=Group, help=messages.text("help.config"))
def config_command() -> None:
    """Settings commands."""


@config_command.command("show", help=messages.text("help.config.show"))
@click.option("--origin", is_flag=True, help=options.say("origin"))
@options.as_json()
def _show(origin: bool, as_json: bool) -> None:
    settings = options.settings()
    rows, problems = settings.rows(), left_out(settings)
    if as_json:
        found = {name: {"value": value, "origin": source} for name, value, source in rows}
        shown = found if origin else {name: value for name, value, _ in rows}
        files = {str(path): path.exists() for path in places()}
        output.document(
            {"settings": shown, "files": files, "problems": [error.to_command_json() for error in problems]}
        )
        return
    for error in problems:
        output.note(f"{error.message} {error.command_remedy}")
    table = [(name, f"{_text(value)}{f'   [{source}]' if origin else ''}") for name, value, source in rows]
    output.lines(output.table(table))
    output.lines(["", *file_lines()])


def file_lines() -> list[str]:
    """Return the lines that name the configuration files and whether each exists."""
    state = {True: messages.text("config.file_there"), False: messages.text("config.file_absent")}
    return [messages.text("config.files"), *(f"  {path} ({state[path.exists()]})" for path in places())]


def left_out(settings: Settings) -> list[UShieldError]:
    """Return the errors of configuration files that were ignored, and of an unusable state folder."""
    found: list[UShieldError] = [*settings.left_out, *Catalogue.of(settings).left_out]
    try:
        existing_folder(settings.state_dir, ".")
    except UShieldError as error:
        found.append(error)
    return found


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
