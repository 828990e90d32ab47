"""The import walls of pyproject.toml stand: on a made-up package, each forbidden import is found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.tree import ROOT

pytestmark = pytest.mark.unit

DOWN = "Imports point down"
AWAY = "What a bank runs never reaches the token"
PKCS11 = "Only cryptoki speaks PKCS#11"
PCSC = "Only pcsc speaks PC/SC"
BANK = "Only bank needs the packages of its extra"

ROOMS = (
    "cli testing doctor softhsm watch discovery renewal signing certificate readiness inventory selection keys pairing "
    "signature pkcs10 token_key session "
    "pin installed drivers descriptor marks cryptoki bank verifier journal cms interaction uri order state config "
    "schema trust crypto files hardening suites errors messages pcsc usb limits lazy processes sockets"
).split()


def broken(folder: Path, files: dict[str, str]) -> set[str]:
    """Return the names of the walls that ``files`` break, put into a package that has every room, empty."""
    package = folder / "ushield_hw"
    for room in ROOMS:
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    (package / "__init__.py").touch()
    for name, source in files.items():
        (package / name).write_text(source)
    shutil.copy(ROOT / "pyproject.toml", folder)
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = set(re.findall(r"^(.+) BROKEN$", ended.stdout, re.MULTILINE))
    assert ended.returncode == (1 if found else 0), ended.stdout + ended.stderr
    return found


@pytest.mark.parametrize(
    ("files", "walls"),
    [
        ({"cryptoki/engine.py": "import pkcs11", "cryptoki/__init__.py": "from pkcs11 import lib"}, set()),
        ({"signing/__init__.py": "import pkcs11"}, {PKCS11}),
        ({"softhsm/__init__.py": "def late():\n    from pkcs11.types import Session"}, {PKCS11}),
        ({"pcsc/__init__.py": "import smartcard.System"}, set()),
        ({"discovery/__init__.py": "from smartcard.System import readers"}, {PCSC}),
        ({"discovery/__init__.py": "from ushield_hw import cryptoki, pcsc, usb"}, set()),
        ({"signing/__init__.py": "from ushield_hw.token import discovery"}, {DOWN}),
        ({"signing/__init__.py": "from ushield_hw.certificates import certificate"}, {DOWN}),
        ({"verifier/__init__.py": "from ushield_hw import cms, order"}, set()),
        ({"verifier/__init__.py": "from ushield_hw.system import usb"}, {AWAY}),
        ({"bank/web.py": "import starlette.routing\nfrom ushield_hw import verifier, token_key"}, set()),
        ({"bank/web.py": "from ushield_hw.token import session"}, {AWAY, DOWN}),
        ({"bank/web.py": "from ushield_hw.system import pcsc"}, {AWAY}),
        ({"bank/web.py": "import ushield_hw.by", "by.py": "import ushield_hw.system.usb"}, {AWAY}),
        ({"cli/bank.py": "def late():\n    from sqlalchemy import select"}, {BANK}),
        ({"order/text.py": "import ushield_hw.system.pcsc"}, {AWAY, DOWN}),
        ({"cms/__init__.py": "from ushield_hw.backend.pkcs11 import engine"}, {AWAY, DOWN}),
        ({"cms/__init__.py": "import ushield_hw.by", "by.py": "import ushield_hw.token.session"}, {AWAY, DOWN}),
    ],
)
def test_walls(tmp_path: Path, files: dict[str, str], walls: set[str]) -> None:
    assert broken(tmp_path, {"cryptoki/engine.py": "", **files}) == walls
