"""The index of error codes has every code of the catalogues, in both languages."""

from __future__ import annotations

import html
import re

import pytest

from hatch_build import read_language, singular
from tests.project.tree import ROOT
from tools import docs_hook
from ushield_hw import errors

pytestmark = pytest.mark.unit


def codes(language: str) -> set[str]:
    """Return the ids of a catalogue that are written in capitals: the codes."""
    ids = (singular(message) for message in read_language(ROOT, language))
    return {id for id in ids if re.fullmatch(r"[A-Z][A-Z0-9_]+", id)}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_code_is_in_the_index_with_both_texts(language: str) -> None:
    page = docs_hook.error_codes(language)
    assert re.findall(r"^### (\S+) ", page, re.MULTILINE) == sorted(codes(language))
    assert len(codes(language)) > 290
    plain = re.sub(r"\\(.)", r"\1", html.unescape(page))
    for code in ("PIN_INCORRECT", "OUTCOME_UNKNOWN", "ORDER_EXPIRED"):
        section = plain.split(f"### {code} ")[1].split("\n### ")[0]
        for tongue in ("en", "zh"):
            known = {singular(one): str(one.string) for one in read_language(ROOT, tongue)}
            assert known[code] in section
            assert known[f"{code}.remedy"] in section


def test_the_class_and_the_exit_code_of_a_code_are_those_of_the_source() -> None:
    assert docs_hook.classes()["PIN_INCORRECT"] == [errors.PinIncorrect]
    assert docs_hook.classes()["ORDER_MISMATCH"] == [errors.Mismatch]
    section = docs_hook.error_codes("en").split("### PIN_INCORRECT ")[1].split("### ")[0]
    assert "PinIncorrect" in section and "exit code 4" in section


def test_every_class_of_errors_is_in_the_table_of_exit_codes() -> None:
    table = docs_hook.error_exits("en")
    kinds = [getattr(errors, name) for name in errors.__all__]
    wanted = {one.__name__ for one in kinds if isinstance(one, type) and issubclass(one, errors.UShieldError)}
    assert set(re.findall(r"\[`(\w+)`\]", table)) == wanted - {"UShieldError"}


@pytest.mark.parametrize("page", ["reference/errors.md", "reference/errors.zh.md"])
def test_the_page_has_the_marker(page: str) -> None:
    assert "<!-- generated: error-codes -->" in (ROOT / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("written", "on_the_site"),
    [
        ("[a](../CONTRIBUTING.md#code)", "[a](contributing.md#code)"),
        ("[a](../tests/soft.py)", f"[a]({docs_hook.repository()}/blob/main/tests/soft.py)"),
        ("[a](../drivers)", f"[a]({docs_hook.repository()}/tree/main/drivers)"),
        ("[a](bank.md)", "[a](bank.md)"),
        ("[a](nowhere.md)", "[a](nowhere.md)"),
        ("[a](../nowhere.md)", "[a](../nowhere.md)"),
        ("[a](#here)", "[a](#here)"),
        ("[a](https://example.org/x)", "[a](https://example.org/x)"),
    ],
)
def test_links_that_leave_the_documents(written: str, on_the_site: str) -> None:
    assert docs_hook._with_links(written, "docs/page.md", "docs/page.md") == on_the_site
