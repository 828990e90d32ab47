"""Screen and buttons of a virtual U-shield, with one question at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

TIMEOUT_S: Final = 60.0


class Button(Enum):
    """A button of the token."""

    OK = "ok"
    C = "c"
    UP = "up"
    DOWN = "down"


class Answer(Enum):
    """The result of a question."""

    OK = "ok"
    REFUSED = "refuse"
    TIMED_OUT = "timeout"
    PULLED_OUT = "pulled-out"


@dataclass
class _Question:
    pages: tuple[tuple[str, ...], ...]
    until: float
    at: int = 0
    answer: Answer | None = None


class Panel:
    """Screen and buttons. Thread-safe: the card asks, another thread reads the screen and presses buttons.

    Args:
        timeout_s: timeout of a question in seconds.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self._changed = threading.Condition()
        self._question: _Question | None = None
        self._asked = 0
        self._automatic: tuple[Answer, float] | None = None
        self._watchers: list[Callable[[], None]] = []

    @property
    def asked(self) -> int:
        """The number of questions so far."""
        return self._asked

    def screen(self) -> list[str]:
        """Return the rows on the screen; empty if no question is open."""
        with self._changed:
            return list(self._question.pages[self._question.at]) if self._question else []

    def place(self) -> tuple[int, int, float] | None:
        """Return page (from 1), number of pages and seconds left; None if no question is open."""
        with self._changed:
            question = self._question
            if question is None:
                return None
            return question.at + 1, len(question.pages), max(0.0, question.until - time.monotonic())

    def press(self, button: Button) -> None:
        """Press a button. Ignored if no question is open."""
        with self._changed:
            question = self._question
            if question is None:
                return
            if button is Button.OK:
                question.answer = Answer.OK
            elif button is Button.C:
                question.answer = Answer.REFUSED
            else:
                step = 1 if button is Button.DOWN else -1
                question.at = min(max(question.at + step, 0), len(question.pages) - 1)
            self._changed.notify_all()
        self.tell()

    def answer(self, answer: Answer | None, after_s: float = 0) -> None:
        """Answer every question automatically.

        Args:
            answer: the answer; None: wait for a button again.
            after_s: delay after the question in seconds.
        """
        with self._changed:
            self._automatic = None if answer is None else (answer, after_s)
            self._changed.notify_all()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher``, from any thread, whenever the screen changes."""
        self._watchers.append(watcher)

    def pulled_out(self) -> None:
        """End the open question because the token was removed."""
        with self._changed:
            if self._question is not None:
                self._question.answer = Answer.PULLED_OUT
                self._changed.notify_all()

    def ask(self, pages: Sequence[Sequence[str]]) -> Answer:
        """Show pages and wait for the answer; called by the card."""
        with self._changed:
            start = time.monotonic()
            question = _Question(tuple(tuple(page) for page in pages) or ((),), start + self.timeout_s)
            self._question, self._asked = question, self._asked + 1
        self.tell()
        with self._changed:
            while question.answer is None:
                until, ends_as = question.until, Answer.TIMED_OUT
                if self._automatic and start + self._automatic[1] < until:
                    until, ends_as = start + self._automatic[1], self._automatic[0]
                if (left := until - time.monotonic()) <= 0:
                    question.answer = ends_as
                else:
                    self._changed.wait(left)
            self._question = None
        self.tell()
        return question.answer

    def tell(self) -> None:
        """Call the watchers."""
        for watcher in self._watchers:
            watcher()
