"""What the command does at Ctrl-C, SIGTERM, SIGHUP and SIGQUIT.

Everywhere but around a signature the signal becomes an exception in the main thread, so that whatever must be undone is
undone: terminal modes, half-written files, logins. A signal that the command was started with ignored, as nohup and a
shell's background jobs do, stays ignored.

Around a signature the command may not end before it knows what became of it. The main thread may be inside a vendor's
module, where Python runs no handlers; so a second thread hears of signals through a pipe that the interpreter's own
handler writes to.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ushield_hw import messages
from ushield_hw.backend.signatures import SIGNATURES
from ushield_hw.cli import exits, output
from ushield_hw.errors import OutcomeUnknown, UShieldError

if TYPE_CHECKING:
    from ushield_hw.interaction import TokenAction

NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_PATIENCE_S: Final = 2.0  # for the token's answer after Ctrl-C
_ENDING_S: Final = 1.0  # for the call to end that was cancelled
_SLICE_S: Final = 0.05


class NothingSigned(UShieldError):
    """Interrupted before the token was asked for a signature."""

    code = "INTERRUPTED"

    @property
    def message(self) -> str:
        """One sentence, in the language in force."""
        return messages.text("INTERRUPTED.unsigned")

    def _remedy_id(self) -> str:
        return "INTERRUPTED.unsigned.remedy"


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command. ``error``: what is said about it."""

    def __init__(self, error: UShieldError | None = None) -> None:
        self.error = error or UShieldError("INTERRUPTED")
        super().__init__(self.error.code)


def catch() -> dict[signal.Signals, Any]:
    """Turn the signals into :class:`Interrupted` from now on, but for those that are ignored.

    Returns:
        What there was, for :func:`give_back`.
    """
    return {number: signal.signal(number, _raise) for number in _ours()}


def give_back(before: dict[signal.Signals, Any]) -> None:
    """Handle the signals as before :func:`catch`: the process belongs to the program that called the command."""
    for number, handler in before.items():
        signal.signal(number, handler)


def let_go(*numbers: signal.Signals) -> None:
    """Have these signals end the process at once, all if none is given: there is nothing to undo."""
    for number in _ours():
        if number in (numbers or NUMBERS):
            signal.signal(number, signal.SIG_DFL)


def ignore() -> None:
    """Have no signal change the exit code any more."""
    for number in _ours():
        signal.signal(number, signal.SIG_IGN)


def _ours() -> list[signal.Signals]:
    if threading.current_thread() is not threading.main_thread():
        return []  # a program that calls the command in a thread handles signals itself
    return [number for number in NUMBERS if signal.getsignal(number) not in {signal.SIG_IGN, None}]


def _raise(number: int, frame: FrameType | None) -> None:
    if _current is None or not _current.token_was_asked:
        raise Interrupted


class Signing:
    """The time from the start of a command that signs an order until the signed order is written.

    Until the token is asked, a signal ends the command: nothing was signed. While the token works, the first Ctrl-C
    asks it to stop, where that reaches it, and gives it two seconds to answer; then, and at a second Ctrl-C or any
    other signal, the command ends with what is true: it is not known whether the token has signed. Once it has
    answered, nothing ends the command before its answer is kept and written.

    Args:
        tx_id: of the order.
        as_json: whether errors are printed as a document.
    """

    def __init__(self, tx_id: str, *, as_json: bool) -> None:
        self._tx_id = tx_id
        self._as_json = as_json
        self._made_before = SIGNATURES.made()
        self._action: TokenAction | None = None
        self._was_interrupted = False
        self._listener: threading.Thread | None = None

    def __enter__(self) -> Self:
        global _current  # noqa: PLW0603 - one command a process
        _current = self
        self._ours, self._theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._theirs, warn_on_full_buffer=False)
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current  # noqa: PLW0603 - one command a process
        _current = None
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        os.close(self._theirs)  # ends the listener
        if self._listener is not None:
            self._listener.join()
        os.close(self._ours)
        if isinstance(error, KeyboardInterrupt) and not self.token_was_asked:
            raise Interrupted(NothingSigned()) from error

    @property
    def token_was_asked(self) -> bool:
        """Whether the main thread has asked a module for a signature since the command began."""
        return SIGNATURES.made() > self._made_before

    def waits(self, action: TokenAction) -> None:
        """Know from now on how the wait for the token is cancelled."""
        self._action = action

    def _listen(self) -> None:
        """Look at each signal that comes while a signature is under way; the main thread sees to the others."""
        while True:
            select.select([self._ours], [], [])
            numbers = os.read(self._ours, 64)
            if not numbers:
                return
            for number in numbers:
                if number in NUMBERS and self._is_asking():
                    self._interrupted(number)

    def _is_asking(self) -> bool:
        """Tell whether the token is being asked, or will have been when the main thread's own handler runs."""
        if not SIGNATURES.any():
            time.sleep(_SLICE_S)
        return SIGNATURES.any()

    def _interrupted(self, number: int) -> None:
        if number == signal.SIGINT and not self._was_interrupted:
            self._was_interrupted = True
            output.hint("sign.interrupted", seconds=f"{_PATIENCE_S:g}")
            if self._action is not None:
                self._action.cancel()
            if self._is_answered():
                return
        self._end()

    def _is_answered(self) -> bool:
        """Wait for the token's answer, or for another signal."""
        until = time.monotonic() + _PATIENCE_S + (_ENDING_S if self._action is not None else 0)
        while time.monotonic() < until:
            if SIGNATURES.over_within(_SLICE_S):
                return True
            if select.select([self._ours], [], [], 0)[0]:
                return False
        return False

    def _end(self) -> None:
        """End the process if the token is still being asked; the journal says that it was."""
        with SIGNATURES.held() as under_way:
            if under_way:
                error = OutcomeUnknown(tx_id=self._tx_id, reason="interrupted")
                with suppress(UShieldError, OSError, ValueError):
                    output.failure(error, as_json=self._as_json)
                os._exit(exits.code_of(error))


_current: Signing | None = None


def waits(action: TokenAction) -> None:
    """Know that the token waits for its owner."""
    if _current is not None:
        _current.waits(action)
