"""An ``Interaction`` with scripted answers for tests, which records the conversation.

::

    person = Scripted("123456", confirms=[True])
    with token.open(person) as session:
        ushield_hw.sign(order, session)
    assert person.prompts == ["user PIN to sign, 6 left", "confirm ushield.payment/1?"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ushield_hw.interaction import ConfirmRequest, PinRequest, TokenAction

T = TypeVar("T")


class Scripted:
    """Answers prompts from a list. A prompt without an answer fails the test.

    Args:
        pins: one for each PIN prompt; None cancels.
        consents: one for each question whether to use the last attempt.
        confirms: one for each order to confirm.

    Attributes:
        prompts: the conversation, one line per prompt, for example ``user PIN to sign, 6 left``.
        asked: the PIN requests.
        shown: the orders to confirm or compare.
    """

    def __init__(self, *pins: str | None, consents: Sequence[bool] = (), confirms: Sequence[bool] = ()) -> None:
        self.prompts: list[str] = []
        self.asked: list[PinRequest] = []
        self.shown: list[ConfirmRequest] = []
        self._pins, self._consents, self._confirms = list(pins), list(consents), list(confirms)

    def request_pin(self, ask: PinRequest) -> str | None:
        """Return the next PIN."""
        left = ask.state.retries_left
        self.asked.append(ask)
        return self._answer(
            f"{ask.kind.value} PIN to {ask.purpose}" + (f", {left} left" if left is not None else ""), self._pins
        )

    def confirm_last_try(self, ask: PinRequest) -> bool:
        """Return the next consent."""
        return self._answer("use the last try?", self._consents)

    def confirm_order(self, ask: ConfirmRequest) -> bool:
        """Return the next confirmation; the request is added to ``shown``."""
        self.shown.append(ask)
        return self._answer(f"confirm {ask.type}?", self._confirms)

    def compare_on_token(self, ask: ConfirmRequest) -> None:
        """Record the request."""
        self.shown.append(ask)
        self.prompts.append(f"compare {ask.type} on the token")

    def waiting_for_token(self, action: TokenAction) -> None:
        """Record the request."""
        self.prompts.append(f"waiting: {action.kind}")

    def _answer(self, prompt: str, answers: list[T]) -> T:
        self.prompts.append(prompt)
        if not answers:
            raise AssertionError(f"nobody answers: {self.prompts}")
        return answers.pop(0)
