"""The root command: global options, lazy loading of commands, and conversion of every error to an exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ushield_hw import config, messages
from ushield_hw.cli import exits, output, signals
from ushield_hw.cli.help import Group
from ushield_hw.errors import InputError, UShieldError

if TYPE_CHECKING:
    import logging

# Command name -> module, in the order of the help page.
_COMMANDS: Final = {
    "list": "tokens",
    "info": "tokens",
    "watch": "watch",
    "doctor": "doctor",
    "pin": "pin",
    "cert": "cert",
    "key": "key",
    "show": "orders",
    "sign": "orders",
    "verify": "orders",
    "journal": "journal",
    "driver": "driver",
    "softhsm": "softhsm",
    "virtual": "virtual",
    "config": "config",
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


@dataclass(frozen=True, slots=True)
class App:
    """The context object of every command."""

    settings: config.Settings


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
    root = _root()
    if instruction := os.environ.get(COMPLETION_VARIABLE):  # the shell requests completions
        from click.shell_completion import shell_complete

        return shell_complete(root, {}, "ushield", COMPLETION_VARIABLE, instruction)
    try:
        with root.make_context("ushield", arguments) as context:
            result = root.invoke(context)
    except click.exceptions.Exit as end:
        result = end.exit_code
    output.finish()
    return result if isinstance(result, int) else 0


def _language(arguments: Sequence[str]) -> messages.Language | None:
    """Return the value of ``--lang`` before parsing: help texts are created while commands are imported."""
    for n, argument in enumerate(arguments):
        value = argument.partition("=")[2] or (arguments[n + 1] if n + 1 < len(arguments) else "")
        if argument.split("=")[0] == "--lang" and value in messages.LANGUAGES:
            return value
    return None


def _usage(error: click.ClickException) -> InputError:
    """Convert click's errors to ``InputError``, which is available in both languages."""
    name = type(error).__name__
    facts: dict[str, Any] = {"argument": getattr(error, "option_name", None) or _parameter(error) or ""}
    codes = {"NoSuchOption": "USAGE_NO_SUCH_OPTION", "MissingParameter": "USAGE_MISSING"}
    if name == "NoSuchCommand" or "No such command" in error.format_message():
        return InputError("USAGE_NO_SUCH_COMMAND", known=_commands(error), **facts)
    return InputError(codes.get(name, "USAGE"), reason=error.format_message(), **facts)


def _commands(error: click.ClickException) -> list[str]:
    """Return the valid command names at the place of an unknown one."""
    context = getattr(error, "ctx", None)
    if isinstance(context, click.Context) and isinstance(context.command, click.Group):
        return context.command.list_commands(context)
    return list(_COMMANDS)


def _parameter(error: click.ClickException) -> str | None:
    parameter = getattr(error, "param", None)
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.human_readable_name if parameter is not None else None


def _note_bug() -> None:
    import logging

    logging.getLogger("ushield_hw").debug("internal error", exc_info=True)


def _log(settings: config.Settings, verbosity: int) -> None:
    import logging  # not needed for a help page

    logging.raiseExceptions = False  # a log that cannot be written must not affect the command or print anything
    logger = logging.getLogger("ushield_hw")
    logger.setLevel(logging.DEBUG)
    form = _escaping(logging.Formatter)("%(asctime)s %(levelname)s %(message)s")
    if verbosity:
        shown = logging.StreamHandler()
        shown.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)
        shown.setFormatter(form)
        logger.addHandler(shown)
    if settings.log_file is not None:
        try:
            kept = logging.FileHandler(_private(settings.log_file), encoding="utf-8", delay=False)
        except OSError as error:
            raise InputError("LOG_FILE_UNUSABLE", path=str(settings.log_file), reason=error.strerror) from error
        kept.setFormatter(form)
        logger.addHandler(kept)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


def _escaping(base: type[logging.Formatter]) -> type[logging.Formatter]:
    """Return a formatter that escapes control characters and line breaks, because log lines quote devices and peers."""

    class Escaping(base):  # type: ignore[misc, valid-type]
        def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
            record.message = messages.shown(record.message)
            text: str = super().formatMessage(record)
            return text

        def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
            return "\n".join(map(messages.shown, super().formatException(ei).splitlines()))

    return Escaping


def _private(file: Path) -> Path:
    """Create a new log file with mode 0600, independent of the umask."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return file
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)
    return file


def _root() -> click.Group:
    """Create the root command with help in the current language."""
    file, folder = click.Path(path_type=Path, dir_okay=False), click.Path(path_type=Path, file_okay=False, exists=True)
    say = messages.text
    options = [
        click.Option(["--lang"], type=click.Choice(messages.LANGUAGES), help=say("help.option.lang")),
        click.Option(["--drivers"], type=folder, metavar="DIR", help=say("help.option.drivers")),
        click.Option(["-v", "--verbose"], count=True, help=say("help.option.verbose")),
        click.Option(["--log-file"], type=file, metavar="FILE", help=say("help.option.log_file")),
        click.Option(["--version"], is_flag=True, is_eager=True, help=say("help.option.version"), callback=_version),
    ]
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
    settings = config.load_settings(tolerated=lenient).with_flags(lang=lang, log_file=log_file)
    settings = replace(settings, lenient=lenient is not _no_error)
    if drivers is not None:
        settings = settings.with_flags(drivers=(drivers.absolute(), *settings.drivers))
    if lang is None and settings.lang is not None:
        messages.set_language(settings.lang)  # type: ignore[arg-type]
    _log(settings, verbose)
    click.get_current_context().obj = App(settings)
