"""The screen and the buttons of the virtual U-shield."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ushield_hw.testing.card.panel import Answer, Button, Panel

pytestmark = pytest.mark.unit

PAGES = (("Payee", "Zhang"), ("Amount", "CNY 1.00"), ("Purpose",))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


def asked(panel: Panel, pool: ThreadPoolExecutor) -> Future[Answer]:
    """Make the card request confirmation and wait until the prompt is on the screen."""
    there = threading.Event()
    panel.watch(there.set)
    answer = pool.submit(panel.ask, PAGES)
    assert there.wait(10)
    return answer


@pytest.mark.parametrize(("button", "answer"), [(Button.OK, Answer.OK), (Button.C, Answer.REFUSED)])
def test_a_button_answers(pool: ThreadPoolExecutor, button: Button, answer: Answer) -> None:
    panel = Panel()
    coming = asked(panel, pool)
    panel.press(button)
    assert coming.result(10) is answer
    assert (panel.screen(), panel.place(), panel.asked) == ([], None, 1)


def test_up_and_down_turn_the_pages_and_stop_at_the_ends(pool: ThreadPoolExecutor) -> None:
    panel = Panel()
    coming = asked(panel, pool)
    seen = [panel.screen()]
    for button in (Button.UP, Button.DOWN, Button.DOWN, Button.DOWN, Button.UP):
        panel.press(button)
        seen.append(panel.screen())
    one, two, three = (list(page) for page in PAGES)
    assert seen == [one, one, two, three, three, two]
    place = panel.place()
    assert place is not None
    assert place[:2] == (2, 3)
    panel.press(Button.OK)
    coming.result(10)


def test_nobody_answers() -> None:
    started = time.monotonic()
    assert Panel(timeout_s=0.05).ask(PAGES) is Answer.TIMED_OUT
    assert time.monotonic() - started >= 0.05


def test_buttons_do_nothing_while_nothing_is_asked(pool: ThreadPoolExecutor) -> None:
    panel = Panel()
    for button in Button:
        panel.press(button)
    coming = asked(panel, pool)
    assert not coming.done()
    panel.press(Button.OK)
    assert coming.result(10) is Answer.OK


@pytest.mark.parametrize("answer", [Answer.OK, Answer.REFUSED, Answer.TIMED_OUT])
def test_somebody_who_always_answers(answer: Answer) -> None:
    panel = Panel()
    panel.answer(answer)
    assert [panel.ask(PAGES), panel.ask(PAGES)] == [answer, answer]


def test_somebody_who_takes_their_time() -> None:
    panel = Panel()
    panel.answer(Answer.OK, after_s=0.05)
    started = time.monotonic()
    assert panel.ask(PAGES) is Answer.OK
    assert time.monotonic() - started >= 0.05


def test_the_card_s_patience_ends_before_a_late_answer() -> None:
    panel = Panel(timeout_s=0.01)
    panel.answer(Answer.OK, after_s=60)
    assert panel.ask(PAGES) is Answer.TIMED_OUT


def test_an_answer_that_comes_while_the_question_is_open(pool: ThreadPoolExecutor) -> None:
    panel = Panel()
    coming = asked(panel, pool)
    panel.answer(Answer.REFUSED)
    assert coming.result(10) is Answer.REFUSED
    panel.answer(None)
    again = asked(panel, pool)
    assert not again.done()
    panel.pulled_out()
    assert again.result(10) is Answer.PULLED_OUT


def test_pulling_out_ends_only_a_question_that_is_open() -> None:
    panel = Panel()
    panel.pulled_out()
    panel.answer(Answer.OK)
    assert panel.ask(PAGES) is Answer.OK
