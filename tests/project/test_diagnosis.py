"""The page of causes matches the code and states how each cause is verified."""

from __future__ import annotations

import re

import pytest

from benchmarks.side_by_side import SETUPS
from tests.project.causes import PAGE, PROVED, TESTS, Proof, page, probes
from tests.project.tree import ROOT
from ushield_hw.doctor.finding import Layer

pytestmark = pytest.mark.unit

ROW = re.compile(r"^\| ([A-H]\d+) \| (\S.*?) \| (\S.*?) \| ([a-z ]+): (\S.*?) \|$", re.MULTILINE)


def rows() -> dict[str, re.Match[str]]:
    return {row[1]: row for row in ROW.finditer(PAGE.read_text(encoding="utf-8"))}


def test_the_page_is_the_one_that_the_code_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make causes"


def test_the_page_lists_exactly_the_questions_that_are_asked() -> None:
    listed = {id: re.findall(r"`([^`]+)`", row[2]) for id, row in rows().items()}
    assert listed == {id: list(dict.fromkeys(one.name for one in asked)) for id, asked in probes().items()}
    assert sorted(int(id[1:]) for id in listed) == list(range(1, len(listed) + 1))


def test_the_numbers_at_the_top_are_those_of_the_rows() -> None:
    (line,) = re.findall(r"^\*\*(\d+) causes: (.*)\.\*\*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    kinds = [row[4] for row in rows().values()]
    assert line[0] == str(len(kinds))
    assert line[1] == ", ".join(f"{kinds.count(proof.value)} {proof.value}" for proof in Proof)


def test_how_it_is_proved_is_told_of_every_question_and_of_no_other() -> None:
    assert sorted(PROVED) == sorted(probes())


@pytest.mark.parametrize("layer", Layer)
def test_the_tests_of_a_layer_ask_every_question_of_it(layer: Layer) -> None:
    text = "".join((ROOT / path).read_text(encoding="utf-8") for path in TESTS[layer])
    words = set(re.findall(r"\w+", text))
    asked = {id: found for id, found in probes().items() if id.startswith(layer.letter)}
    assert asked
    assert [id for id, found in asked.items() if words.isdisjoint({id, *(one.ask.__name__ for one in found)})] == []


def test_the_page_of_broken_set_ups_has_each_with_a_cause_that_the_doctor_knows() -> None:
    _, *sections = (ROOT / "docs" / "side-by-side.md").read_text(encoding="utf-8").split("\n## ")
    titles = [f"{number}. {(breaks.__doc__ or '').strip()}" for number, breaks in enumerate(SETUPS, start=1)]
    assert [section.splitlines()[0] for section in sections] == titles, "run: make side-by-side WRITE=1"
    named = [re.findall(r"^\| `ushield doctor.*\| `\[([A-H]\d+)\]", section, re.MULTILINE) for section in sections]
    assert [ids for ids in named if len(ids) != 1 or ids[0] not in probes()] == []
