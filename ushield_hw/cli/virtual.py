"""``ushield virtual start``: a virtual U-shield in a pcscd reader, shown in the terminal and on a local page."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import click

from ushield_hw import messages
from ushield_hw.cli import exits, options, output
from ushield_hw.cli.help import Group
from ushield_hw.cli.layout import columns
from ushield_hw.errors import InputError
from ushield_hw.system.storage import state_folder

if TYPE_CHECKING:
    from ushield_hw.testing.page import Page
    from ushield_hw.testing.shield import VirtualShield

_KEYS: Final = {
    **dict.fromkeys((b"\r", b"\n", b"o", b"O"), "ok"),
    **dict.fromkeys((b"c", b"C", b"\x1b"), "c"),
    **dict.fromkeys((b"\x1b[A", b"\x1bOA", b"k"), "up"),
    **dict.fromkeys((b"\x1b[B", b"\x1bOB", b"j"), "down"),
    **dict.fromkeys((b"e", b"E"), "plug"),
    **dict.fromkeys((b"q", b"Q", b"\x04"), "quit"),
}
_COLUMNS, _ROWS = 28, 8
_BEAT_S: Final = 1.0


@click.group("virtual", cls=Group, help=messages.text("help.virtual"))
def virtual_command() -> None:
    """Commands for virtual tokens, for tests."""


@virtual_command.command(
    "start", help=messages.text("help.virtual.start"), context_settings={"ignore_unknown_options": False}
)
@click.option("--model", type=click.Choice(["display", "button", "none"]), default="display", help=options.say("model"))
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help=options.say("virtual_dir"))
@click.option("--page", "port", type=click.IntRange(0, 65535), help=options.say("page"))
@click.option("--answer", type=click.Choice(["ok", "refuse", "timeout"]), help=options.say("answer"))
@click.option("--after", "after_s", type=click.FloatRange(0), default=0.0, metavar="SECONDS", help=options.say("after"))
@click.option(
    "--patience", "timeout_s", type=click.FloatRange(0, min_open=True), default=60.0, help=options.say("wait")
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@options.as_json()
def _start(
    model: str,
    folder: Path | None,
    port: int | None,
    answer: Any,
    after_s: float,
    timeout_s: float,
    command: tuple[str, ...],
    as_json: bool,
) -> int:
    from ushield_hw.testing.page import Page
    from ushield_hw.testing.shield import VirtualShield

    signal.signal(signal.SIGTERM, _end)
    keep = (folder or state_folder(options.settings().state_dir, "virtual") / model).absolute()
    with VirtualShield(model=model, keep=keep, timeout_s=timeout_s, lang=messages.language()) as shield:
        if shield.card.model.value != model:
            raise InputError("VIRTUAL_OTHER_MODEL", path=str(keep), model=shield.card.model.value)
        shield.answer(answer, after_s)
        with Page(shield, port) if port is not None else nullcontext() as page:
            if command:
                return _run(command, shield)
            _tell(shield, page, as_json=as_json)
            try:
                _stay(shield)
            except KeyboardInterrupt:  # the normal way to end, no error
                return exits.INTERRUPTED
    return 0


def _tell(shield: VirtualShield, page: Page | None, *, as_json: bool) -> None:
    if as_json:
        output.document(_document(shield, page), one_line=True)
        output.finish()
        return
    output.hint("softhsm.test_only")
    output.note(messages.text("virtual.token", serial=shield.serial, pin_file=shield.pin_file, ca=shield.ca_pem))
    output.note(f"  {shield.uri}")
    if page is not None:
        output.hint("virtual.page", url=page.url)
    output.lines(f"export {name}={shlex.quote(value)}" for name, value in shield.host_env.items())
    output.finish()  # the reader of a pipe waits for this line


def _document(shield: VirtualShield, page: Page | None) -> dict[str, object]:
    return {
        "serial": shield.serial,
        "uri": shield.uri,
        "model": shield.card.model,
        "pin_file": str(shield.pin_file),
        "so_pin_file": str(shield.so_pin_file),
        "ca": str(shield.ca_pem),
        "env": shield.host_env,
        "page": page.url if page else None,
        "test_only": True,
    }


def _run(command: Sequence[str], shield: VirtualShield) -> int:
    """Run a command while the token is inserted, and return its exit code."""
    facts = {"USHIELD_VIRTUAL_URI": shield.uri, "USHIELD_VIRTUAL_CA": str(shield.ca_pem)}
    environment = {**os.environ, **shield.host_env, **facts, "USHIELD_VIRTUAL_PIN_FILE": str(shield.pin_file)}
    try:
        code = subprocess.run(command, env=environment, check=False).returncode
    except OSError as error:
        raise InputError("COMMAND_NOT_RUN", command=command[0], reason=error.strerror) from error
    return code if code >= 0 else 128 - code


def _end(number: int, frame: FrameType | None) -> None:
    """End cleanly on SIGTERM: the token is removed and its pcscd stopped."""
    raise SystemExit(0)


def _stay(shield: VirtualShield) -> None:
    """Run until q, Ctrl-C or SIGTERM."""
    if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        _at_terminal(shield)
    else:
        while True:  # poll in slices: a signal just before a wait does not interrupt it
            time.sleep(_BEAT_S)


def _at_terminal(shield: VirtualShield) -> None:
    output.hint("virtual.keys")
    changed, reading = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)[::-1]
    shield.card.panel.watch(lambda: _ring(changed))
    face = _Face(shield)
    with _keys() as keyboard:
        while True:
            face.draw()
            ready = select.select([keyboard, reading], [], [], _BEAT_S)[0]
            if reading in ready:
                os.read(reading, 4096)
            if keyboard in ready and not _press(os.read(keyboard, 16), shield):
                return


def _ring(descriptor: int) -> None:
    try:
        os.write(descriptor, b".")
    except BlockingIOError:
        return  # the pipe is full, so the reader is woken anyway


def _press(typed: bytes, shield: VirtualShield) -> bool:
    """Handle a key; return False to end."""
    what: Any = _KEYS.get(typed)
    if what == "quit" or not typed:
        return False
    if what == "plug":
        (shield.eject if shield.plugged else shield.insert)()
    elif what is not None:
        shield.press(what)
    return True


class _Face:
    """Draws the token in the terminal, always in the same place."""

    def __init__(self, shield: VirtualShield) -> None:
        self._shield = shield
        self._drawn: list[str] = []

    def draw(self) -> None:
        """Redraw if the content has changed."""
        rows = self._rows()
        if rows == self._drawn:
            return
        up = f"\x1b[{len(self._drawn)}A" if self._drawn else ""
        output.note(up + "\n".join(f"\x1b[2K{row}" for row in rows))
        self._drawn = rows

    def _rows(self) -> list[str]:
        shield, place = self._shield, self._shield.card.panel.place()
        shown = [messages.shown(row) for row in shield.screen()]
        if place is None:
            shown = ["", f"  {messages.text(self._status())}"]
        shown += [""] * (_ROWS - len(shown))
        edge = "─" * (_COLUMNS + 2)
        inside = [f"│ {row}{' ' * (_COLUMNS - columns(row))} │" for row in shown]
        state = f" {place[0]}/{place[1]}  {place[2]:.0f} s   [OK ↵] [C] [▲] [▼]" if place else ""
        count = messages.text("virtual.count", n=shield.signatures)
        return [f"╭{edge}╮", *inside, f"╰{edge}╯{state}", f"  {count} · {messages.text(self._outcome())}"]

    def _status(self) -> str:
        return "virtual.ready" if self._shield.plugged else "virtual.out"

    def _outcome(self) -> str:
        return f"virtual.outcome.{self._shield.outcome.value}"


@contextmanager
def _keys() -> Iterator[int]:
    """Read single keys without echo; restores the terminal afterwards."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield keyboard
    finally:
        termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)
