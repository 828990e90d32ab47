"""Help pages in the current language; click's own texts are English only."""

from __future__ import annotations

import click

from ushield_hw import messages


def _format_usage(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    pieces = " ".join(command.collect_usage_pieces(context))
    formatter.write_usage(context.command_path, pieces, prefix=messages.text("help.usage") + " ")


def _format_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    rows = [record for option in options if (record := option.get_help_record(context))]
    if rows:
        with formatter.section(messages.text("help.options")):
            formatter.write_dl(rows)


def _in_our_words(option: click.Option | None) -> click.Option | None:
    if option is not None:
        option.help = messages.text("help.option.help")
    return option


class Command(click.Command):
    """A command whose help page is in the current language."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line."""
        _format_usage(self, ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options section."""
        _format_options(self, ctx, formatter)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return click's help option with translated text."""
        return _in_our_words(super().get_help_option(ctx))


class Group(click.Group):
    """A group of commands whose help page is in the current language."""

    command_class = Command

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line."""
        _format_usage(self, ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options and commands sections."""
        _format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return click's help option with translated text."""
        return _in_our_words(super().get_help_option(ctx))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands section."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section(messages.text("help.commands")):
            formatter.write_dl([(name, command.get_short_help_str(80)) for name, command in found if command])
