"""``ushield softhsm init``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ushield_hw import messages
from ushield_hw.cli import options, output
from ushield_hw.cli.help import Group
from ushield_hw.system.storage import state_folder
from ushield_hw.testing.softhsm import provision


@click.group("softhsm", cls=Group, help=messages.text("help.softhsm"))
def softhsm_command() -> None:
    """Commands for soft tokens, for tests."""


@softhsm_command.command("init", help=messages.text("help.softhsm.init"))
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help=options.say("dir"))
@options.as_json()
def _init(folder: Path | None, as_json: bool) -> None:
    settings = options.settings()
    made = provision(folder or state_folder(settings.state_dir, "softhsm"), settings)
    output.achieved()
    if as_json:
        output.document({"softhsm2_conf": str(made.conf), "tokens": made.tokens, "test_only": True})
        return
    output.hint("softhsm.test_only")
    for token in made.tokens:
        output.note(messages.text("softhsm.token", label=token.label, serial=token.serial, pin_file=token.pin_file))
        output.note(f"  {token.uri}")
    output.lines([f"export SOFTHSM2_CONF={shlex.quote(str(made.conf))}"])
