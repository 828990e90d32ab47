"""Closed tables: unexpected keys are rejected with their full name."""

from __future__ import annotations

from enum import Enum

import pytest

from ushield_hw.errors import InputError
from ushield_hw.schema import Table

pytestmark = pytest.mark.unit


class Colour(Enum):
    RED = "red"
    GREEN = "green"


def refuse(*, key: str, problem: str, **values: object) -> InputError:
    return InputError("CONFIG_INVALID", key=key, problem=problem, **values)


def table(**data: object) -> Table:
    return Table(data, refuse)


def refused(read: object) -> tuple[object, object]:
    """Return the key and the problem of the refusal that reading raises."""
    assert callable(read)
    with pytest.raises(InputError) as caught:
        read()
    return caught.value.details["key"], caught.value.details["problem"]


def test_what_is_expected() -> None:
    found = table(t="x", i=3, b=True, c="red", ts=["a", "b"], s={"k": "v"}, n={"i": 1}, ns=[{"i": 1}, {"i": 2}])
    assert found.text("t") == "x"
    assert found.integer("i") == 3
    assert found.boolean("b") is True
    assert found.choice("c", Colour) is Colour.RED
    assert found.texts("ts") == ("a", "b")
    assert found.strings("s") == {"k": "v"}
    assert found.table("n").integer("i") == 1
    assert [row.integer("i") for row in found.tables("ns")] == [1, 2]
    found.close()


def test_defaults() -> None:
    found = table()
    assert found.text("t", None) is None
    assert found.integer("i", 7) == 7
    assert found.choice("c", Colour, Colour.GREEN) is Colour.GREEN
    assert found.tables("ns") == []
    assert found.strings("s") == {}
    found.table("n").close()


@pytest.mark.parametrize(
    ("value", "problem"),
    [(1, "not_a_string"), (None, "not_a_string"), ("", "blank"), (" \t", "blank"), ("x" * 11, "too_long")],
)
def test_texts_that_are_wrong(value: object, problem: str) -> None:
    assert refused(lambda: table(k=value).text("k", longest=10)) == ("k", problem)


def test_a_pattern_is_matched_in_full() -> None:
    assert table(k="abc").text("k", pattern="[a-c]+") == "abc"
    assert refused(lambda: table(k="abcd").text("k", pattern="[a-c]+")) == ("k", "bad_form")
    assert refused(lambda: table(k="abc\n").text("k", pattern="[a-c]+")) == ("k", "bad_form")


@pytest.mark.parametrize(
    ("value", "problem"),
    [("3", "not_an_integer"), (3.0, "not_an_integer"), (True, "not_an_integer"), (0, "out_of_range")],
)
def test_numbers_that_are_wrong(value: object, problem: str) -> None:
    assert refused(lambda: table(k=value).integer("k", least=1, most=5)) == ("k", problem)


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_truth_is_true_or_false(value: object) -> None:
    assert refused(lambda: table(k=value).boolean("k")) == ("k", "not_a_boolean")


@pytest.mark.parametrize("value", ["blue", "RED", 1, None])
def test_a_choice_says_what_is_allowed(value: object) -> None:
    with pytest.raises(InputError) as caught:
        table(k=value).choice("k", Colour)
    assert (caught.value.details["problem"], caught.value.details["allowed"]) == ("not_a_choice", "red | green")


def test_lists_that_are_wrong() -> None:
    assert refused(lambda: table(k="a").texts("k")) == ("k", "not_a_list")
    assert refused(lambda: table(k=["a", 1]).texts("k")) == ("k[1]", "not_a_string")
    assert refused(lambda: table(k={}).tables("k")) == ("k", "not_a_list")
    assert refused(lambda: table(k=[{}, 1]).tables("k")) == ("k[1]", "not_a_table")


def test_tables_that_are_wrong() -> None:
    assert refused(lambda: table(k=1).table("k")) == ("k", "not_a_table")
    assert refused(lambda: table(k={"a": 1}).strings("k")) == ("k.a", "not_a_string")
    assert refused(lambda: Table([], refuse)) == ("", "not_a_table")


def test_what_is_missing_is_named_with_its_path() -> None:
    assert refused(lambda: table().text("k")) == ("k", "missing_key")
    assert refused(lambda: table().table("a").table("b").text("k")) == ("a.b.k", "missing_key")
    assert refused(lambda: table(a=[{}]).tables("a")[0].integer("k")) == ("a[0].k", "missing_key")


def test_what_nobody_took_is_refused() -> None:
    found = table(a=1, b=2)
    found.integer("a")
    assert found.keys() == ["b"]
    assert refused(found.close) == ("b", "unknown_key")


def test_the_file_is_left_as_it_was() -> None:
    data = {"a": 1}
    Table(data, refuse).integer("a")
    assert data == {"a": 1}
