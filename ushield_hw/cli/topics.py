"""``ushield help``: the help page of a command, or a topic: exit codes, environment variables, configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import click

from ushield_hw import messages
from ushield_hw.cli import exits, options, output
from ushield_hw.cli.config import file_lines
from ushield_hw.cli.help import Command
from ushield_hw.errors import InputError

VARIABLES: Final = (
    "HOME",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "STATE_DIRECTORY",
    "LC_ALL",
    "LC_MESSAGES",
    "LANG",
    "NO_COLOR",
    "FORCE_COLOR",
    "COLUMNS",
    "SOFTHSM2_CONF",
    "PCSCLITE_CSOCK_NAME",
    "OPENSC_CONF",
)
KEYS: Final = (
    "lang",
    "profile",
    "state_dir",
    "log_file",
    "warn_days",
    "urgent_days",
    "change_first_pin",
    "timeouts.pin_s",
    "timeouts.confirm_s",
    "timeouts.busy_s",
    "journal.masked",
    "journal.keep_days",
    "drivers.folders",
    "drivers.consent",
    "modules.files",
)


def exit_codes() -> dict[str, str]:
    """Return the meaning of every exit code."""
    return {str(code): messages.text(f"topic.exit.{code}") for code in exits.ALL}


def environment() -> dict[str, str]:
    """Return the meaning of every environment variable that the command uses itself."""
    return {name: messages.text(f"topic.environment.{name}") for name in VARIABLES}


def configuration() -> dict[str, str]:
    """Return the meaning of every key of a configuration file."""
    return {key: messages.text(f"topic.config.{key}") for key in KEYS}


TOPICS: Final[Mapping[str, Callable[[], dict[str, str]]]] = {
    "exit-codes": exit_codes,
    "environment": environment,
    "config": configuration,
}


@click.command("help", cls=Command, help=messages.text("help.help"))
@click.argument("words", metavar="[TOPIC | COMMAND]...", nargs=-1)
@options.as_json()
@click.pass_context
def help_command(context: click.Context, words: tuple[str, ...], as_json: bool) -> None:
    """Show the help page of a command or a topic."""
    if len(words) == 1 and words[0] in TOPICS:
        _show(words[0], as_json=as_json)
        return
    output.lines(_page(context.find_root(), words).splitlines())
    if not words:
        output.lines(["", messages.text("help.topics"), *(f"  ushield help {name}" for name in TOPICS)])


def _show(topic: str, *, as_json: bool) -> None:
    rows = TOPICS[topic]()
    if as_json:
        output.document({topic: rows})
        return
    output.lines([messages.text(f"topic.{topic}"), ""])
    table = click.get_current_context().make_formatter()
    with table.indentation():
        table.write_dl(list(rows.items()))
    output.lines(table.getvalue().splitlines())
    if topic == "config":
        output.lines(["", *file_lines()])


def _page(root: click.Context, words: tuple[str, ...]) -> str:
    """Return the help page of a command.

    Raises:
        InputError: ``USAGE_NO_SUCH_COMMAND``.
    """
    context = root
    for word in words:
        group = context.command
        found = group.get_command(context, word) if isinstance(group, click.Group) else None
        if found is None:
            known = group.list_commands(context) if isinstance(group, click.Group) else []
            raise InputError("USAGE_NO_SUCH_COMMAND", argument=word, known=[*known, *TOPICS])
        context = found.context_class(found, info_name=word, parent=context)
    return context.get_help()
