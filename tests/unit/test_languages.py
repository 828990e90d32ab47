"""Languages: a process-wide default, overridden per block, separate for each thread and task."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from ushield_hw import messages
from ushield_hw.errors import PinLocked
from ushield_hw.messages import Language

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    messages.set_language("en")
    yield
    messages.set_language(None)


def test_a_block_has_its_language_and_then_the_former_one() -> None:
    with messages.using_language("zh"):
        assert not PinLocked().message.isascii()
        with messages.using_language("en"):
            assert PinLocked().message.isascii()
        assert messages.language() == "zh"
    assert messages.language() == "en"


def test_an_exception_ends_the_block_too() -> None:
    with pytest.raises(ZeroDivisionError), messages.using_language("zh"):
        _ = 1 // 0
    assert messages.language() == "en"


def test_two_threads_have_two_languages_at_once() -> None:
    both = Barrier(2)

    def said(language: Language) -> str:
        with messages.using_language(language):
            both.wait(10)
            found = PinLocked().message
            both.wait(10)
            return found

    with ThreadPoolExecutor(2) as pool:
        chinese, english = pool.map(said, ("zh", "en"))
    assert english.isascii()
    assert not chinese.isascii()


def test_two_tasks_have_two_languages_at_once() -> None:
    async def said(language: Language) -> str:
        with messages.using_language(language):
            await asyncio.sleep(0)
            found = PinLocked().message
            await asyncio.sleep(0)
            return found

    async def both() -> list[str]:
        return list(await asyncio.gather(said("zh"), said("en")))

    chinese, english = asyncio.run(both())
    assert english.isascii()
    assert not chinese.isascii()
