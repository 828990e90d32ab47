"""User interaction at a terminal: PIN prompts without echo and confirmations, each with a timeout.

Prompts use the terminal itself (``/dev/tty``), so that they work while stdin and stdout are files.
"""

from __future__ import annotations

import os
import select
import signal
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from ushield_hw import messages
from ushield_hw.cli import output, signals
from ushield_hw.cli.pin_text import pin_state_text
from ushield_hw.errors import ConfirmationTimedOut, PinFormatError
from ushield_hw.interaction import ConfirmRequest, PinKind, PinRequest, TokenAction

_LONGEST: Final = 1024
_SLICE_S: Final = 0.2
_YES: Final = {"y", "yes", "是", "确认"}


class Terminal:
    """Asks the user at the controlling terminal; without one it refuses, as ``Silent`` does.

    Args:
        pin_timeout_s: timeout of a PIN prompt in seconds.
        confirm_timeout_s: timeout of a confirmation in seconds.
    """

    def __init__(self, pin_timeout_s: float, confirm_timeout_s: float) -> None:
        self._pin_timeout_s = pin_timeout_s
        self._confirm_timeout_s = confirm_timeout_s

    @staticmethod
    def present() -> bool:
        """Return whether there is a controlling terminal."""
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            return False
        return True

    def request_pin(self, ask: PinRequest) -> str | None:
        """Prompt for a PIN without echo, twice for a new one. Return None on timeout or empty input."""
        if not self.present():
            return None
        say = messages.text(f"prompt.pin_{ask.kind.value}", label=ask.label, serial=ask.serial)
        state = pin_state_text(ask.state) if ask.kind in {PinKind.USER, PinKind.CONTEXT} else ""
        pin = self.secret(f"{say}{f' ({state})' if state else ''}:")
        if ask.kind is PinKind.NEW and pin is not None:
            again = self.secret(messages.text("prompt.pin_again") + ":")
            if again != pin:
                output.hint("prompt.pin_differs")
                return self.request_pin(ask)
        return pin

    def confirm_last_try(self, ask: PinRequest) -> bool:
        """Ask whether the last attempt may be used."""
        return self.confirm(messages.text("prompt.last_try", label=ask.label, serial=ask.serial))

    def confirm_order(self, ask: ConfirmRequest) -> bool:
        """Show the order and ask for confirmation."""
        kind = ask.type.split(".")[-1].split("/")[0]
        shown = [messages.text(f"prompt.confirm_{kind}"), *output.table(ask.lines, "  ")]
        return self.confirm("\n".join([*shown, messages.text("prompt.sign")]))

    def compare_on_token(self, ask: ConfirmRequest) -> None:
        """Show what the token's screen must show."""
        output.note("\n".join([messages.text("prompt.compare"), *output.table(ask.lines, "  ")]))

    def waiting_for_token(self, action: TokenAction) -> None:
        """Show what to do on the token."""
        signals.waits(action)
        output.hint(f"prompt.waiting_{action.kind}", seconds=f"{action.timeout_s or 0:g}")

    def confirm(self, question: str) -> bool:
        """Ask a yes/no question; input typed before the question is discarded. Return False without a terminal.

        Args:
            question: the text to show.

        Raises:
            ConfirmationTimedOut: no answer before the timeout.
        """
        if not self.present():
            return False
        return self._answer(question).lower() in _YES

    def ask(self, question: str) -> str:
        """Ask for a line of text; input typed before the question is discarded.

        Args:
            question: the text to show.

        Returns:
            The answer without surrounding spaces, in the form that orders require (NFC).

        Raises:
            ConfirmationTimedOut: no answer before the timeout.
        """
        from unicodedata import normalize

        return normalize("NFC", self._answer(question))

    def _answer(self, question: str) -> str:
        with _tty() as tty, _prompt(tty, f"{question} ", echo=True):
            answer = _line(tty, time.monotonic() + self._confirm_timeout_s)
            if answer is None:
                _write(tty, "\n")
                raise ConfirmationTimedOut("CONFIRMATION_TIMED_OUT_ON_HOST", waited_s=self._confirm_timeout_s)
        return answer.decode("utf-8", "replace").strip()

    def secret(self, prompt: str) -> str | None:
        """Ask for a secret without echo. Return None on timeout or empty input.

        Args:
            prompt: the text to show.

        Raises:
            PinFormatError: ``PIN_CHARACTERS``: it is not UTF-8.
        """
        with _tty() as tty, _prompt(tty, f"{prompt} ", echo=False):
            answer = _line(tty, time.monotonic() + self._pin_timeout_s)
            _write(tty, "\n")
        try:
            return answer.decode() if answer else None
        except UnicodeDecodeError as error:  # a PIN sent in another encoding would be wrong and use an attempt
            raise PinFormatError("PIN_CHARACTERS", min=None, max=None) from error


@contextmanager
def _tty() -> Iterator[int]:
    descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _prompt(tty: int, text: str, *, echo: bool) -> Iterator[None]:
    """Show a prompt and discard input typed before it.

    The terminal modes are always restored, also while the user suspends the program (Ctrl-Z). After that the prompt is
    shown again, because the shell has used the terminal in between.
    """
    before = termios.tcgetattr(tty)
    asking = list(before)
    asking[0] = asking[0] | termios.ICRNL
    asking[3] = asking[3] | termios.ICANON | termios.ISIG
    asking[3] = asking[3] | termios.ECHO if echo else asking[3] & ~termios.ECHO

    def ask(*_: object) -> None:
        termios.tcsetattr(tty, termios.TCSAFLUSH, asking)  # discards pending input
        _write(tty, text)

    def put_back() -> None:
        with suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(tty, termios.TCSAFLUSH, before)

    with _stoppable(put_back, ask):
        try:
            ask()
            yield
        except KeyboardInterrupt:
            _write(tty, "\n")  # following output starts on a new line
            raise
        finally:
            put_back()


@contextmanager
def _stoppable(put_back: Callable[[], None], ask: Callable[..., None]) -> Iterator[None]:
    """Restore the terminal when the user suspends the program (Ctrl-Z), and show the prompt again when it continues."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        put_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # the process stops here
        signal.signal(number, stop)

    known = {number: signal.getsignal(number) for number in (signal.SIGTSTP, signal.SIGCONT)}
    if known[signal.SIGTSTP] is signal.SIG_DFL:  # SIG_IGN: job control is disabled
        signal.signal(signal.SIGTSTP, stop)
    signal.signal(signal.SIGCONT, ask)
    try:
        yield
    finally:
        for number, handler in known.items():
            signal.signal(number, handler)


def _write(tty: int, text: str) -> None:
    with suppress(OSError):  # the terminal may be gone, then there is no answer either
        os.write(tty, text.encode("utf-8", "replace"))


def _line(tty: int, deadline: float) -> bytes | None:
    """Return a line typed before the deadline: empty if the terminal is gone, None after the deadline."""
    data = b""
    while not data.endswith(b"\n") and len(data) < _LONGEST:
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        # Poll in slices: a Ctrl-C just before select() does not interrupt it and is only handled after it.
        if not select.select([tty], [], [], min(left, _SLICE_S))[0]:
            continue
        try:
            part = os.read(tty, _LONGEST)
        except OSError:  # the terminal hung up
            part = b""
        if not part:
            return b""
        data += part
    return data.rstrip(b"\r\n")
