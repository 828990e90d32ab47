"""The options of every command: language, descriptors, log. They are accepted before and after the command's name."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ushield_hw import config, messages
from ushield_hw.errors import InputError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

NAMES: Final = frozenset({"lang", "drivers", "verbose", "log_file"})


@dataclass
class App:
    """The context object of every command.

    Attributes:
        loaded: the settings of files and environment.
        settings: the same with the options of the command line.
        given: the global options that were given so far.
    """

    loaded: config.Settings
    settings: config.Settings
    given: dict[str, Any] = field(default_factory=dict)


class LanguageType(click.ParamType[messages.Language]):
    """A language, also as a locale's name: ``zh``, ``zh_CN``, ``zh-CN``, ``zh_CN.UTF-8``."""

    name = "language"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the metavariable."""
        return "|".join(messages.LANGUAGES)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> messages.Language:
        """Return the language of a name."""
        found = language_of(value)
        if found is None:
            self.fail(f"{value!r}: {', '.join(messages.LANGUAGES)}", param, ctx)
        return found

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Return the languages."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in messages.LANGUAGES if name.startswith(incomplete)]


def language_of(name: str) -> messages.Language | None:
    """Return the language of a locale's name, or None if there are no texts in it.

    Args:
        name: ``zh``, ``zh_CN``, ``zh-Hans-CN``, ``zh_CN.UTF-8``, ``en-GB`` …
    """
    code = name.replace("-", "_").partition(".")[0].partition("_")[0].lower()
    return next((language for language in messages.LANGUAGES if language == code), None)


def options(*, callback: Callable[[click.Context, click.Parameter, Any], None] | None = None) -> list[click.Option]:
    """Return the global options.

    Args:
        callback: called with the value of each option, which is then not passed to the command; the options are then
            not listed on the help page.
    """
    file, folder = click.Path(path_type=Path, dir_okay=False), click.Path(path_type=Path, file_okay=False, exists=True)
    how: dict[str, Any] = {} if callback is None else {"callback": callback, "expose_value": False, "hidden": True}
    say = messages.text
    return [
        click.Option(["--lang"], type=LanguageType(), help=say("help.option.lang"), **how),
        click.Option(["--drivers"], type=folder, metavar="DIR", help=say("help.option.drivers"), **how),
        click.Option(["-v", "--verbose"], count=True, help=say("help.option.verbose"), **how),
        click.Option(["--log-file"], type=file, metavar="FILE", help=say("help.option.log_file"), **how),
    ]


def after_the_command(taken: frozenset[str]) -> list[click.Option]:
    """Return the global options for a command.

    Args:
        taken: the option names of the command itself, which keep their meaning.
    """
    return [option for option in options(callback=_given_later) if taken.isdisjoint(option.opts)]


def _given_later(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    app = context.find_object(App)
    if value and app is not None and not context.resilient_parsing:
        apply(app, **{str(parameter.name): value})


def apply(app: App, **given: Any) -> None:
    """Apply global options to the settings, the language and the log.

    Args:
        app: the context object.
        **given: the options by name; those that were not given are None or 0.
    """
    before = dict(app.given)
    app.given.update({name: value for name, value in given.items() if value})
    now = app.given
    settings = app.loaded.with_flags(lang=now.get("lang"), log_file=now.get("log_file"))
    if "drivers" in now:
        settings = settings.with_flags(drivers=(now["drivers"].absolute(), *settings.drivers))
    app.settings = replace(settings, lenient=app.loaded.lenient)
    if settings.lang is not None:
        messages.set_language(settings.lang)  # type: ignore[arg-type]
    if not before or (before.get("verbose"), before.get("log_file")) != (now.get("verbose"), now.get("log_file")):
        _log(app.settings, now.get("verbose", 0))


def _log(settings: config.Settings, verbosity: int) -> None:
    import logging  # not needed for a help page

    logging.raiseExceptions = False  # a log that cannot be written must not affect the command or print anything
    logger = logging.getLogger("ushield_hw")
    logger.setLevel(logging.DEBUG)
    form = _escaping(logging.Formatter)("%(asctime)s %(levelname)s %(message)s")
    for earlier in list(logger.handlers):
        logger.removeHandler(earlier)
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
