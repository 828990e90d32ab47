"""The root command: global options, lazy loading of commands, and conversion of every error to an exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

from ushield_hw import config, messages
from ushield_hw.cli import exits, global_options, output, signals
from ushield_hw.cli.help import Group, MissingParameters, name_of
from ushield_hw.errors import InputError, UShieldError

# Command name -> module, in the order of the help page.
_COMMANDS: Final = {
    "list": "tokens",
    "info": "tokens",
    "watch": "watch",
    "doctor": "doctor",
    "pin": "pin",
    "cert": "cert",
    "key": "key",
    "order": "order",
    "show": "orders",
    "sign": "orders",
    "verify": "orders",
    "journal": "journal",
    "driver": "driver",
    "softhsm": "softhsm",
    "virtual": "virtual",
    "config": "config",
    "help": "topics",
    "completion": "completion",
    "demo": "demo",
    "bank": "bank",
}


_IN_WORKERS: Final = {"doctor"}
"""Commands that load every module in a worker process, whatever its descriptor says."""


def _no_error(error: InputError) -> bool:
    return False


def _any_error(error: InputError) -> bool:
    return True


def _unsafe(error: InputError) -> bool:
    return error.code == "CONFIG_UNSAFE"


_LENIENT: Final[dict[str, Callable[[InputError], bool]]] = {"list": _unsafe, "doctor": _unsafe, "config": _any_error}
"""Commands that ignore unusable configuration and report it, with the errors they tolerate."""

COMPLETION_VARIABLE: Final = "_USHIELD_COMPLETE"


class _Root(Group):
    """Imports commands on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        if cmd_name in _IN_WORKERS:  # start the fork server while the command is imported
            from ushield_hw.backend.spawn import warm

            with suppress(UShieldError):  # a command that needs a worker reports the error again
                warm()
        module = import_module(f"ushield_hw.cli.{_COMMANDS[cmd_name]}")
        found: click.Command = getattr(module, f"{cmd_name}_command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(messages.text("help.commands")):
            formatter.write_dl([(name, messages.text(f"help.{name}")) for name in _COMMANDS])


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code. Errors are printed, not raised.

    Args:
        argv: the arguments without the program name.
    """
    output.begin()
    arguments = list(argv)
    as_json = "--json" in arguments
    messages.set_language(_language(arguments))
    try:
        return _run(arguments)
    except BrokenPipeError:  # the reader of stdout has closed the pipe
        output.silence()
        return 0
    except BaseException as error:
        return _ended(error, as_json)


def _ended(error: BaseException, as_json: bool) -> int:
    """Print the error that ended a command and return its exit code; after the command's success it is a warning."""
    said, code = _said(error)
    if code == exits.INTERRUPTED:
        signals.let_go()
    if output.is_achieved():
        output.afterwards(said)
        return 0
    if isinstance(error, click.ClickException) and type(error).__name__ == "NoArgsIsHelpError":
        output.note(error.format_message())  # its text is the help page
    else:
        output.failure(said, as_json=as_json and not isinstance(error, output.StdoutLost))
    return code


def _said(error: BaseException) -> tuple[UShieldError, int]:
    if isinstance(error, UShieldError):
        return error, exits.code_of(error)
    if isinstance(error, click.ClickException):
        return _usage(error), exits.USAGE
    if isinstance(error, signals.Interrupted):
        return error.error, exits.INTERRUPTED
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return UShieldError("INTERRUPTED"), exits.INTERRUPTED
    if not isinstance(error, Exception):
        raise error
    _note_bug()
    return UShieldError(), exits.INTERNAL


def _run(arguments: list[str]) -> int:
    command = root()
    if instruction := os.environ.get(COMPLETION_VARIABLE):  # the shell requests completions
        from click.shell_completion import shell_complete

        return shell_complete(command, {}, "ushield", COMPLETION_VARIABLE, instruction)
    try:
        with command.make_context("ushield", arguments) as context:
            result = command.invoke(context)
    except click.exceptions.Exit as end:
        result = end.exit_code
    output.finish()
    return result if isinstance(result, int) else 0


def _language(arguments: Sequence[str]) -> messages.Language | None:
    """Return the value of ``--lang`` before parsing: help texts are created while commands are imported."""
    for n, argument in enumerate(arguments):
        value = argument.partition("=")[2] or (arguments[n + 1] if n + 1 < len(arguments) else "")
        if argument.split("=")[0] == "--lang" and (found := global_options.language_of(value)) is not None:
            return found
    return None


def _usage(error: click.ClickException) -> InputError:
    """Convert click's errors to ``InputError``, which is available in both languages."""
    name = type(error).__name__
    facts: dict[str, Any] = {"argument": getattr(error, "option_name", None) or _parameter(error) or ""}
    if isinstance(error, MissingParameters):
        names = [name_of(parameter) for parameter in error.parameters]
        return InputError("USAGE_MISSING", argument=", ".join(names), missing=names, command=_command(error))
    if isinstance(error, click.NoSuchOption):
        alike = _alike(error.option_name, _options(error))
        return InputError("USAGE_NO_SUCH_OPTION", command=_command(error), **facts, **alike)
    if name == "NoSuchCommand" or "No such command" in error.format_message():
        known, wanted = _commands(error), _wanted(error)
        return InputError(
            "USAGE_NO_SUCH_COMMAND", known=known, **{**facts, "argument": wanted}, **_alike(wanted, known)
        )
    return InputError("USAGE", reason=error.format_message(), **facts)


def _command(error: click.UsageError) -> str:
    """Return the command whose help page is meant."""
    return error.ctx.command_path if error.ctx is not None else "ushield"


def _wanted(error: click.ClickException) -> str:
    """Return the unknown command's name."""
    named = getattr(error, "command_name", None)
    return str(named) if named else error.format_message().partition("'")[2].partition("'")[0]


def _options(error: click.UsageError) -> list[str]:
    """Return the options at the place of an unknown one."""
    if error.ctx is None:
        return []
    return [name for one in error.ctx.command.get_params(error.ctx) for name in one.opts if name.startswith("--")]


def _alike(wanted: str, known: Sequence[str]) -> dict[str, str]:
    """Return the name that was probably meant, as the problem and the suggestion of an error."""
    from difflib import get_close_matches

    found = get_close_matches(wanted, known, 1, 0.7)
    return {"problem": "usage_alike", "suggestion": found[0]} if found else {}


def _commands(error: click.ClickException) -> list[str]:
    """Return the valid command names at the place of an unknown one."""
    context = getattr(error, "ctx", None)
    if isinstance(context, click.Context) and isinstance(context.command, click.Group):
        return context.command.list_commands(context)
    return list(_COMMANDS)


def _parameter(error: click.ClickException) -> str | None:
    parameter = getattr(error, "param", None)
    return None if parameter is None else name_of(parameter)


def _note_bug() -> None:
    import logging

    logging.getLogger("ushield_hw").debug("internal error", exc_info=True)


def root() -> click.Group:
    """Create the root command with help in the current language."""
    say = messages.text
    version = click.Option(
        ["--version"], is_flag=True, is_eager=True, help=say("help.option.version"), callback=_version
    )
    options = [*global_options.options(), version]
    context = {"help_option_names": ["-h", "--help"], "terminal_width": _width()}
    return _Root("ushield", params=options, callback=_start, context_settings=context, help=say("help.ushield"))


def _width() -> int:
    """Return the width of help pages; click would import shutil for this, which imports all archive modules."""
    try:
        columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(1).columns
    except (OSError, ValueError):
        columns = 80
    return max(40, min(columns - 2, 110))


def _version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from ushield_hw import __version__

        click.echo(f"ushield {__version__}")
        context.exit()


def _start(lang: str | None, drivers: Path | None, verbose: int, log_file: Path | None, version: bool) -> None:
    lenient = _LENIENT.get(click.get_current_context().invoked_subcommand or "", _no_error)
    loaded = replace(config.load_settings(tolerated=lenient), lenient=lenient is not _no_error)
    app = click.get_current_context().obj = global_options.App(loaded, loaded)
    global_options.apply(app, lang=lang, drivers=drivers, verbose=verbose, log_file=log_file)
