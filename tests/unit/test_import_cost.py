"""What is imported when: a person waits for a command, and a program for ``import ushield_hw``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import ushield_hw

pytestmark = pytest.mark.unit

HEAVY = {"cryptography", "asn1crypto", "pkcs11", "click", "smartcard", "ctypes", "asyncio"}
TOKENS = {
    "sqlalchemy",
    "alembic",
    "starlette",
    "uvicorn",
    "cryptography",
    "asn1crypto",
    "pkcs11",
    "smartcard",
}


def loaded(*words: str) -> set[str]:
    """Return the modules that a program of Python's loads, as ``-X importtime`` tells."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], capture_output=True, text=True, timeout=60, check=True
    )
    return {row.rpartition("|")[2].strip() for row in done.stderr.splitlines() if row.startswith("import time:")}


def test_the_package_costs_next_to_nothing() -> None:
    modules = loaded("-c", "import ushield_hw")
    assert "ushield_hw" in modules
    assert modules & HEAVY == set()
    assert [name for name in modules if name.startswith("ushield_hw.")] == []


def test_errors_cost_little() -> None:
    assert loaded("-c", "import ushield_hw.errors") & HEAVY == set()


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("pin", "--help"),
        ("watch", "--help"),
        ("driver", "list"),
        ("bank", "--help"),
        ("bank", "serve", "--help"),
        ("config", "show"),
        ("show", "ORDER"),
    ],
    ids=" ".join,
)
def test_the_command_loads_no_more_than_it_needs(words: tuple[str, ...]) -> None:
    order = str(Path(__file__).parents[2] / "examples/order.json")
    modules = loaded("-m", "ushield_hw.cli", *(word.replace("ORDER", order) for word in words))
    assert "click" in modules
    assert modules & TOKENS == set()


def test_every_public_name_is_there() -> None:
    for name in ushield_hw.__all__:
        found = getattr(ushield_hw, name)
        assert (found.__name__ if isinstance(found, ModuleType) else found.__module__).startswith("ushield_hw.")
    assert dir(ushield_hw) == sorted(ushield_hw.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ushield_hw.nonsense  # type: ignore[attr-defined]
