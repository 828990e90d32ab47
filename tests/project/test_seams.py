"""Internal interfaces are not bypassed: a token's module, return codes, details that decide."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project.tree import ROOT

pytestmark = pytest.mark.unit

PACKAGE = ROOT / "ushield_hw"
BELOW = ("backend", "testing", "errors")


def modules(*left_out: str) -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if not name.startswith(left_out):
            yield name, ast.parse(file.read_text())


def test_nothing_outside_token_reaches_a_tokens_module() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in modules("token", *BELOW)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "link" and ast.unparse(node.value) != "os"
    ]
    assert found == []


def test_no_error_is_told_by_the_codes_of_an_interface() -> None:
    """A code may be shown, and compared with what a descriptor declares; the doctor explains codes."""
    compared = [
        f"{name}:{node.lineno}"
        for name, tree in modules(*BELOW, "doctor", "drivers", "system")
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and re.search(r"['\"](CKR|SAR)_", ast.unparse(node))
    ]
    assert compared == []


def test_no_decision_is_made_by_the_details_of_an_error() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in modules("errors")
        for node in ast.walk(tree)
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert) and ".details" in ast.unparse(node.test)
    ]
    assert found == []


@pytest.mark.parametrize("folder", ["."])
def test_the_top_of_the_package_is_small(folder: str) -> None:
    assert len(list(Path(PACKAGE, folder).glob("*.py"))) <= 7
