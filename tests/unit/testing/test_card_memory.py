"""The virtual card's persistent memory."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ushield_hw.testing.card.apdu import MEMORY_FULL, Refused
from ushield_hw.testing.card.memory import Memory, Secret

pytestmark = pytest.mark.unit


def test_everything_comes_back(tmp_path: Path) -> None:
    memory = Memory("US1", path=tmp_path / "card.json")
    memory.secrets["user"] = Secret.of(b"123456", 3)
    memory.secrets["user"].check(b"000000")
    with memory.writing():
        memory.files[0xCE01], memory.keys[1] = b"certificate", b"key"
    memory.counters["signatures"], memory.notes["outcome"], memory.capacity = 2, "signed", 1000
    memory.save()

    assert Memory.load(tmp_path / "card.json") == memory
    assert stat.S_IMODE((tmp_path / "card.json").stat().st_mode) == 0o600
    assert "123456" not in (tmp_path / "card.json").read_text()


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    memory = Memory("US1", capacity=4, path=tmp_path / "card.json")
    with memory.writing():
        memory.files[1] = b"1234"
    with pytest.raises(Refused) as refused, memory.writing():
        memory.files[2] = b"5"
    assert refused.value.sw == MEMORY_FULL
    assert Memory.load(tmp_path / "card.json").files == memory.files == {1: b"1234"}


def test_a_counter_goes_down_and_stays_at_nothing() -> None:
    pin = Secret.of(b"123456", 3)
    assert [pin.check(b"0") for _ in range(3)] == [False, False, False]
    assert (pin.left, pin.check(b"123456"), pin.left) == (0, False, 0)


def test_the_right_one_gives_the_tries_back() -> None:
    pin = Secret.of(b"123456", 3)
    pin.check(b"0")
    assert (pin.left, pin.check(b"123456"), pin.left) == (2, True, 3)


def test_a_new_one_replaces_the_old() -> None:
    pin = Secret.of(b"123456", 3)
    pin.set(b"654321")
    assert (pin.check(b"123456"), pin.check(b"654321")) == (False, True)
