"""The number of objects in SoftHSM2's files, visible or hidden."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soft import SETTINGS
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.soft_store import objects_stored

pytestmark = pytest.mark.unit

SERIAL = "2ad617989a455f45"
FOLDER = "541d954c-91bb-707f-2ad6-17989a455f45"
VARIABLE = "SOFTHSM2_CONF"


def stored(root: Path, *files: str, conf: str = "directories.tokendir = /t", serial: str = SERIAL) -> int | None:
    """Return the result for a token folder with these files."""
    (root / "t" / FOLDER).mkdir(parents=True)
    (root / "c").write_text(conf)
    for file in files:
        (root / "t" / FOLDER / file).touch()
    machine = Machine(SETTINGS, root=root, environ={VARIABLE: "/c"})
    return objects_stored(machine, VARIABLE, serial)


@pytest.mark.parametrize(
    ("files", "count"),
    [
        (["token.object", "token.lock", "generation"], 0),
        (["token.object", "1f.object", "1f.lock", "2f.object"], 2),
        (["1f.object"], None),  # not a token's folder
    ],
)
def test_objects_are_files(tmp_path: Path, files: list[str], count: int | None) -> None:
    assert stored(tmp_path, *files) == count


@pytest.mark.parametrize("serial", ["2ad617989a455f46", "*", "", "2ad6/17989a455f4"])
def test_another_token_has_no_files_here(tmp_path: Path, serial: str) -> None:
    assert stored(tmp_path, "token.object", serial=serial) is None


@pytest.mark.parametrize("conf", ["directories.tokendir = /t\nobjectstore.backend = db", "directories.tokendir = /u"])
def test_another_store_tells_nothing(tmp_path: Path, conf: str) -> None:
    assert stored(tmp_path, "token.object", conf=conf) is None


def test_a_module_without_such_a_configuration_tells_nothing(tmp_path: Path) -> None:
    assert objects_stored(Machine(SETTINGS, root=tmp_path, environ={VARIABLE: "/c"}), None, SERIAL) is None
    assert stored(tmp_path) is None
