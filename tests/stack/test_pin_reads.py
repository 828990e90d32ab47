"""Token accesses of PIN operations: no PIN of an impossible form is sent, and the state is read at most three times."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.soft import pin_driver
from tests.stack.bench import EACH_JOB, Bench, Job
from ushield_hw.drivers.family import PinEncoding
from ushield_hw.errors import PinFormatError, PinIncorrect
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.link import Link
from ushield_hw.token.pin_operations import change_pin, unblock_pin, verify_pin
from ushield_hw.token.session import open_session

pytestmark = pytest.mark.stack

FULL_WIDTH = "１２３４５６"
SPACES = ["123456\u3000", "123456\u00a0", "123456\u200b", "\ufeff123456"]
TYPED = [
    FULL_WIDTH,
    *SPACES,
    "12345\uff0e",
    "١٢٣٤٥٦",
    "pïn456",
    "密码123456",
]


@pytest.mark.parametrize("typed", TYPED, ids=ascii)
@EACH_JOB
def test_a_pin_that_is_not_ascii_is_refused_unsent(bench: Bench, job: Job, typed: str) -> None:
    link = bench.link
    bench.faulty.clear()
    with pytest.raises(PinFormatError) as caught:
        job(link, Scripted(typed, "654321"))
    assert caught.value.code == "PIN_NOT_ASCII"
    assert typed not in repr(caught.value) + caught.value.message
    assert bench.pins_sent() == []
    assert link.pin.state().retries_left == 6


@pytest.mark.parametrize("answers", [("OLD", FULL_WIDTH), ("SO", FULL_WIDTH), (FULL_WIDTH, "654321")], ids=ascii)
def test_new_pins_and_so_pins_too(bench: Bench, answers: tuple[str, str]) -> None:
    link = bench.link
    bench.faulty.clear()
    job = change_pin if answers[0] == "OLD" else unblock_pin
    known = {"OLD": bench.soft.pin, "SO": bench.soft.so_pin}
    with pytest.raises(PinFormatError):
        job(link, Scripted(*(known.get(answer, answer) for answer in answers)))
    assert bench.pins_sent() == []


def test_where_the_descriptor_says_so_a_token_gets_utf_8(bench: Bench) -> None:
    link = bench.soft.link(bench.module, pin_driver(encoding=PinEncoding.UTF_8))
    change_pin(link, Scripted(bench.soft.pin, "密码123456"))
    verify_pin(link, Scripted("密码123456"))
    with pytest.raises(PinIncorrect):
        verify_pin(link, Scripted(FULL_WIDTH))


JOBS: dict[str, Callable[[Bench, Link], object]] = {
    "sign": lambda bench, link: open_session(link, Scripted(bench.soft.pin), "sign").close(),
    "request": lambda bench, link: open_session(link, Scripted(bench.soft.pin), "request").close(),
    "verify": lambda bench, link: verify_pin(link, Scripted(bench.soft.pin)),
    "change": lambda bench, link: change_pin(link, Scripted(bench.soft.pin, "654321")),
    "unblock": lambda bench, link: unblock_pin(link, Scripted(bench.soft.so_pin, "654321")),
}


@pytest.mark.parametrize("job", JOBS)
def test_the_state_of_the_pin_is_read_three_times_at_most(bench: Bench, job: str) -> None:
    """When the token is found, before the user is prompted, and once afterwards."""
    link = bench.link
    bench.faulty.clear()
    found = bench.soft.info(bench.module)
    JOBS[job](bench, link)
    reads = [call for call in bench.faulty.calls if call.function == "C_GetTokenInfo" and call.slot == found.slot_id]
    assert len(reads) <= 3
