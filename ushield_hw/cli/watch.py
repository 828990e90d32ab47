"""``ushield watch``."""

from __future__ import annotations

import select
import signal
import sys
import threading

import click

from ushield_hw import messages
from ushield_hw.cli import exits, options, output, signals
from ushield_hw.cli.help import Command
from ushield_hw.token.token import Token
from ushield_hw.token.watch import EventKind, TokenEvent, TokenWatch, watch_tokens

_PATIENCE_S = 1.5


@click.command("watch", cls=Command, help=messages.text("help.watch"))
@click.option("--for", "for_s", type=click.FloatRange(min=0), metavar="SECONDS", help=options.say("for"))
@click.option("--count", type=click.IntRange(min=1), metavar="N", help=options.say("count"))
@click.option("--json", "as_json", is_flag=True, help=options.say("json_lines"))
def watch_command(for_s: float | None, count: int | None, as_json: bool) -> None:
    """Print insertions and removals of tokens."""
    signals.let_go(signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    try:
        with watch_tokens(options.settings()) as watch:
            _end_with_stdout(watch)
            if for_s is not None:
                _end_after(watch, for_s)
            _show(watch, count, as_json=as_json)
    except KeyboardInterrupt:  # the normal way to end, no error
        click.get_current_context().exit(exits.INTERRUPTED)


def _show(watch: TokenWatch, count: int | None, *, as_json: bool) -> None:
    there, shown, hinted = 0, 0, False
    while not watch.closed and shown != count:
        event = watch.get(_PATIENCE_S)  # poll in slices: a Ctrl-C just before a wait does not interrupt it
        if event is None:
            if not (there or hinted or watch.closed):
                output.hint("watch.waiting")
                hinted = True
            continue
        _print(event, as_json=as_json)
        shown, hinted = shown + 1, False
        there += 1 if event.kind is EventKind.INSERTED else -1


def _print(event: TokenEvent, *, as_json: bool) -> None:
    if as_json:
        output.document(_document(event), one_line=True)
    else:
        output.lines([_line(event)])
    output.finish()


def _document(event: TokenEvent) -> dict[str, object]:
    at = event.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"event": event.kind, "at": at, "token": _token(event.token)}


def _token(token: Token) -> dict[str, object]:
    return {
        "serial": token.serial,
        "label": token.label,
        "uri": token.uri,
        "driver": token.driver.id,
        "module": str(token.module),
    }


def _line(event: TokenEvent) -> str:
    token, at = event.token, event.at.astimezone()
    name = token.label or token.serial
    what = messages.text(f"watch.{event.kind.value}", name=name, serial=token.serial, driver=token.driver.id)
    return f"{at:%H:%M:%S}  {what}  {token.uri}"


def _end_after(watch: TokenWatch, seconds: float) -> None:
    timer = threading.Timer(seconds, watch.close)
    timer.daemon = True
    timer.start()


def _end_with_stdout(watch: TokenWatch) -> None:
    """End when stdout is closed, as in ``ushield watch | head -1``; the next event may be days away."""

    def wait() -> None:
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)
        if any(state & (select.POLLERR | select.POLLHUP) for _, state in poller.poll()):
            watch.close()

    threading.Thread(target=wait, name="reader of stdout", daemon=True).start()
