"""Help pages in the current language, with examples, wrapped by columns; click's own are English only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import click

from ushield_hw import messages
from ushield_hw.cli.global_options import after_the_command
from ushield_hw.cli.layout import columns, folded, padded

_LEFT_MOST: Final = 30  # columns of the left column of a list
SHORT: Final = 200  # characters; longer than any first sentence
_LEFT_LEAST: Final = 8
_GAP: Final = 2


class _Formatter(click.HelpFormatter):
    """Wraps by columns, not by characters: a Chinese character takes two."""

    def write_heading(self, heading: str) -> None:
        """Write a heading."""
        self.write(f"{'':>{self.current_indent}}{heading}{messages.text('help.colon')}\n")

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the usage line."""
        lead = f"{prefix or ''}{prog} "
        self._write_folded(lead + args, " " * columns(lead))

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        indent = " " * self.current_indent
        for paragraph in text.split("\n"):
            self._write_folded(indent + paragraph.strip() if paragraph.strip() else "", indent)

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write a list of terms and their texts."""
        rows = list(rows)
        widths = [columns(left) for left, _ in rows]
        left_width = max((width for width in widths if width <= _LEFT_MOST), default=0)
        left_width = max(left_width, _LEFT_LEAST) + _GAP
        indent = " " * self.current_indent
        hanging = " " * (self.current_indent + left_width)
        for (left, right), width in zip(rows, widths, strict=True):
            if width > left_width - _GAP:
                self.write(f"{indent}{left}\n")
                self._write_folded(hanging + right, hanging)
            else:
                self._write_folded(f"{indent}{padded(left, left_width)}{right}", hanging)

    def _write_folded(self, text: str, indent: str) -> None:
        for line in folded(text, self.width, indent):
            self.write(f"{line}\n")


class _Context(click.Context):
    formatter_class = _Formatter


class _Localized(click.Command):
    """What the help pages of commands and groups have in common."""

    context_class = _Context

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters, with the global options unless this is the root command, which lists them."""
        own = super().get_params(ctx)
        if ctx.parent is None:
            return own
        return [*own, *after_the_command(frozenset(name for one in own for name in one.opts))]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line."""
        pieces = " ".join(self.collect_usage_pieces(ctx))
        formatter.write_usage(ctx.command_path, pieces, prefix=messages.text("help.usage") + " ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options section."""
        with formatter.section(messages.text("help.options")):
            formatter.write_dl(option_rows(ctx))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the notes of the command and its examples."""
        super().format_epilog(ctx, formatter)
        if found := examples(ctx):
            with formatter.section(messages.text("help.examples")):
                for line in found:
                    formatter.write(f"  {line}\n")

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return click's help option with translated text."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = messages.text("help.option.help")
        return option


class MissingParameters(click.UsageError):
    """Several parameters that the command needs were not given; click reports only the first."""

    def __init__(self, parameters: Sequence[click.Parameter], ctx: click.Context) -> None:
        self.parameters = parameters
        super().__init__(", ".join(name_of(parameter) for parameter in parameters), ctx)


def name_of(parameter: click.Parameter) -> str:
    """Return the name of a parameter as a user writes it."""
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.human_readable_name


class Command(_Localized):
    """A command whose help page is in the current language."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            MissingParameters: required ones are missing; names all of them.
        """
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            raise MissingParameters(list(self._missing(ctx, given)) or [error.param], ctx) from error  # type: ignore[list-item]

    def _missing(self, ctx: click.Context, args: list[str]) -> Iterator[click.Parameter]:
        values, _, _ = self.make_parser(ctx).parse_args(list(args))
        for parameter in self.get_params(ctx):
            value, _ = parameter.consume_value(ctx, values)
            if parameter.required and parameter.value_is_missing(value):
                yield parameter


class Group(_Localized, click.Group):
    """A group of commands whose help page is in the current language."""

    command_class = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options and commands sections."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands section."""
        with formatter.section(messages.text("help.commands")):
            formatter.write_dl([(name, command.get_short_help_str(SHORT)) for name, command in subcommands(self, ctx)])


def subcommands(group: click.Group, ctx: click.Context) -> list[tuple[str, click.Command]]:
    """Return the names and commands of a group."""
    found = [(name, group.get_command(ctx, name)) for name in group.list_commands(ctx)]
    return [(name, command) for name, command in found if command is not None]


def option_rows(ctx: click.Context) -> list[tuple[str, str]]:
    """Return the options of a command that are listed, each with its text."""
    options = [one for one in ctx.command.get_params(ctx) if isinstance(one, click.Option) and not one.hidden]
    return [(_left(option, ctx), _right(option, ctx)) for option in options]


def examples(ctx: click.Context) -> list[str]:
    """Return the lines of a command's examples."""
    name = f"examples.{'.'.join(ctx.command_path.split()[1:]) or 'ushield'}"
    return messages.text(name).splitlines() if messages.known(name) else []


def _left(option: click.Option, ctx: click.Context) -> str:
    """Return the names of an option and its metavariable, which is the same in every language."""
    names = ", ".join(sorted(option.opts, key=len))
    if option.is_flag or option.count:
        return names
    return f"{names} {option.metavar or _metavar(option.type, option, ctx)}"


def _metavar(kind: click.ParamType[Any], option: click.Option, ctx: click.Context) -> str:
    if isinstance(kind, click.Path):
        return "PATH" if kind.file_okay and kind.dir_okay else "FILE" if kind.file_okay else "DIR"
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        return "N"
    if _many(kind):
        return str(option.name).upper()
    return option.make_metavar(ctx)


def _many(kind: click.ParamType[Any]) -> str:
    """Return the values of a choice if they are too long for the left column."""
    values = " | ".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else ""
    return values if columns(values) > _LEFT_MOST else ""


def _right(option: click.Option, ctx: click.Context) -> str:
    """Return the text of an option, with its default and whether it is required."""
    extra: dict[str, Any] = dict(option.get_help_extra(ctx))
    notes = [_many(option.type)] if _many(option.type) else []
    if "default" in extra:
        notes.append(messages.text("help.default", value=extra["default"]))
    if "required" in extra:
        notes.append(messages.text("help.required"))
    text = option.help or ""
    return f"{text} [{messages.text('help.separator').join(notes)}]" if notes else text
