"""Handling of SIGINT, SIGTERM, SIGHUP and SIGQUIT.

Outside of a signature a signal raises an exception in the main thread, so that terminal modes, partly written files and
logins are cleaned up. A signal that was ignored when the command started (nohup, background jobs of a shell) stays
ignored.

During a signature the command must not end before the outcome is known. The main thread may be inside a vendor's
module, where Python runs no handlers. Therefore a second thread receives signals through the wakeup pipe that the
interpreter's C handler writes to.
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

_PATIENCE_S: Final = 2.0  # wait for the token's answer after Ctrl-C
_ENDING_S: Final = 1.0  # wait for a cancelled call to return
_SLICE_S: Final = 0.05


class NothingSigned(UShieldError):
    """The command was interrupted before a signature was requested from the token."""

    code = "INTERRUPTED"

    @property
    def message(self) -> str:
        """The message in the current language."""
        return messages.text("INTERRUPTED.unsigned")

    def _remedy_id(self) -> str:
        return "INTERRUPTED.unsigned.remedy"


class Interrupted(KeyboardInterrupt):
    """A signal ends the command. ``error``: the error to report."""

    def __init__(self, error: UShieldError | None = None) -> None:
        self.error = error or UShieldError("INTERRUPTED")
        super().__init__(self.error.code)


def catch() -> dict[signal.Signals, Any]:
    """Raise :class:`Interrupted` for the signals from now on, except for ignored ones.

    Returns:
        The previous handlers, for :func:`give_back`.
    """
    return {number: signal.signal(number, _raise) for number in _ours()}


def give_back(before: dict[signal.Signals, Any]) -> None:
    """Restore the handlers from before :func:`catch`, because the process belongs to the calling program."""
    for number, handler in before.items():
        signal.signal(number, handler)


def let_go(*numbers: signal.Signals) -> None:
    """Let these signals (default: all) end the process immediately; nothing needs cleanup."""
    for number in _ours():
        if number in (numbers or NUMBERS):
            signal.signal(number, signal.SIG_DFL)


def ignore() -> None:
    """Ignore the signals, so that they cannot change the exit code."""
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
    """The period from the start of a signing command until the signed order is written.

    Before the signature is requested, a signal ends the command: nothing was signed. While the token is signing, the
    first Ctrl-C cancels the call if that is possible and waits two seconds for the result. After that, and at a second
    Ctrl-C or any other signal, the command ends and reports that the outcome is unknown. Once the token has answered,
    the command does not end before the result is stored and written.

    Args:
        tx_id: transaction id of the order.
        as_json: whether errors are printed as JSON.
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
        """Whether the main thread has requested a signature since the command began."""
        return SIGNATURES.made() > self._made_before

    def waits(self, action: TokenAction) -> None:
        """Store the action that can cancel the wait for the token."""
        self._action = action

    def _listen(self) -> None:
        """Handle signals during a signature; the main thread handles all others."""
        while True:
            select.select([self._ours], [], [])
            numbers = os.read(self._ours, 64)
            if not numbers:
                return
            for number in numbers:
                if number in NUMBERS and self._is_asking():
                    self._interrupted(number)

    def _is_asking(self) -> bool:
        """Return whether a signature is in progress, or begins before the main thread's handler can run."""
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
        """Wait until the token answers or another signal arrives."""
        until = time.monotonic() + _PATIENCE_S + (_ENDING_S if self._action is not None else 0)
        while time.monotonic() < until:
            if SIGNATURES.over_within(_SLICE_S):
                return True
            if select.select([self._ours], [], [], 0)[0]:
                return False
        return False

    def _end(self) -> None:
        """End the process if the signature is still in progress; the journal has recorded the request."""
        with SIGNATURES.held() as under_way:
            if under_way:
                error = OutcomeUnknown(tx_id=self._tx_id, reason="interrupted")
                with suppress(UShieldError, OSError, ValueError):
                    output.failure(error, as_json=self._as_json)
                os._exit(exits.code_of(error))


_current: Signing | None = None


def waits(action: TokenAction) -> None:
    """Store the action that can cancel the current wait for the token."""
    if _current is not None:
        _current.waits(action)
