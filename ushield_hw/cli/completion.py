"""``ushield completion SHELL``: the shell completion script for commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ushield_hw import messages
from ushield_hw.cli import output
from ushield_hw.cli.app import COMPLETION_VARIABLE
from ushield_hw.cli.help import Command


@click.command("completion", cls=Command, help=messages.text("help.completion"))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the completion script."""
    kind = get_completion_class(shell)
    if kind is not None:
        made = kind(context.find_root().command, {}, "ushield", COMPLETION_VARIABLE)
        output.lines(made.source().splitlines())
