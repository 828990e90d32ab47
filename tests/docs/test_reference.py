"""The API reference has every public name, and only names that exist."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

import ushield_hw as us
from tests.project.tree import ROOT

pytestmark = pytest.mark.unit

NAMES = [
    name
    for page in sorted((ROOT / "docs/reference/api").glob("*.md"))
    for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
]
PAGES = {"certificates": "ushield_hw.certificates", "renewal": "ushield_hw.certificates.renewal"}


def test_every_public_name_is_described_once() -> None:
    own = {f"ushield_hw.{name}" for name in us.__all__ if name not in {*PAGES, "doctor", "UShieldError"}}
    parts = {f"{module}.{name}" for module in PAGES.values() for name in import_module(module).__all__}
    wanted = own | parts | {f"ushield_hw.doctor.{name}" for name in us.doctor.__all__}
    assert sorted(wanted - set(NAMES)) == []
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(import_module(module), attribute) or import_module(name)
