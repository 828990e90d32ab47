"""What is imported when: imports delay every command and every program that uses ``import ushield_hw``."""

from __future__ import annotations

import importlib
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
    """Return the modules that a Python program imports, according to ``-X importtime``."""
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


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("ushield_hw.backend.pkcs11.engine", {"pkcs11", "asn1crypto", "cryptography"}),  # imported by every worker
        ("ushield_hw.cli.tokens", TOKENS | {"ushield_hw.order.formats", "ushield_hw.cms.build", "ushield_hw.cms.read"}),
        (
            "ushield_hw.cli.orders",
            TOKENS | {"ushield_hw.certificates.renewal", "ushield_hw.verifier", "email", "ssl", "sqlite3"},
        ),
    ],
)
def test_a_command_about_tokens_loads_no_more_either(module: str, unwanted: set[str]) -> None:
    modules = loaded("-c", f"import {module}")
    assert module in modules
    assert modules & unwanted == set()


@pytest.mark.parametrize("package", ["ushield_hw.order", "ushield_hw.cms"])
def test_what_is_imported_late_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = module.nonsense


def test_every_public_name_is_there() -> None:
    for name in ushield_hw.__all__:
        found = getattr(ushield_hw, name)
        assert (found.__name__ if isinstance(found, ModuleType) else found.__module__).startswith("ushield_hw.")
    assert dir(ushield_hw) == sorted(ushield_hw.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ushield_hw.nonsense  # type: ignore[attr-defined]
