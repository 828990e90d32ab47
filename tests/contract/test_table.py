"""The published table matches the contract."""

from __future__ import annotations

import pytest

from tests.contract.rows import KINDS
from tests.contract.subjects import Can, Kind
from tests.contract.table import PAGE, SHOWN, page_with, table
from tests.contract.tokens import softhsm

pytestmark = pytest.mark.contract


def test_the_page_has_the_table_that_the_rows_make() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page_with(text, table(KINDS)) == text, "run: make table"


def test_every_ability_and_every_reason_is_in_the_table() -> None:
    made = table(KINDS)
    reasons = {reason for kind in KINDS for reason in kind.cannot.values()}
    assert [text for text in (*(one.value for one in SHOWN), *reasons) if text not in made] == []


def test_what_a_token_cannot_do_has_its_reason_below() -> None:
    kind = Kind("x", "X 1", softhsm.make, {Can.RSA: "It has none."})
    made = table([kind])
    assert "| RSA, PKCS#1 v1.5 | no<sup>1</sup> |" in made
    assert made.endswith("\n1. It has none.")


def test_reasons_end_with_a_full_stop() -> None:
    reasons = [
        reason for kind in KINDS for reason in (*kind.cannot.values(), *([kind.one_way] if kind.one_way else []))
    ]
    assert [reason for reason in reasons if not reason.endswith(".")] == []


def test_a_page_without_its_marks_is_not_written_to() -> None:
    with pytest.raises(ValueError, match="unpack"):
        page_with("no marks", "a table")
