"""The import contracts of pyproject.toml are effective: on a synthetic package, each forbidden import is found."""

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
BACKEND = "Imports point down inside backend"
TOKEN = "Imports point down inside token"
DOCTOR = "Imports point down inside doctor"
AWAY = "What a bank runs never reaches the token"
PKCS11 = "Only backend.pkcs11 speaks PKCS#11"
PCSC = "Only pcsc speaks PC/SC"
BANK = "Only bank needs the packages of its extra"


def broken(folder: Path, files: dict[str, str]) -> set[str]:
    """Return the names of the contracts that ``files`` break in a package with the same modules, all others empty."""
    for module in (ROOT / "ushield_hw").rglob("*.py"):
        empty = folder / module.relative_to(ROOT)
        empty.parent.mkdir(parents=True, exist_ok=True)
        empty.touch()
    for name, source in files.items():
        (folder / "ushield_hw" / name).write_text(source)
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
        ({"backend/pkcs11/engine.py": "import pkcs11"}, set()),
        ({"backend/module.py": "import pkcs11"}, {PKCS11}),
        ({"signing/order.py": "import pkcs11"}, {PKCS11}),
        ({"testing/softhsm.py": "def late():\n    from pkcs11.types import Session"}, {PKCS11}),
        ({"system/pcsc/winscard.py": "import smartcard.System"}, set()),
        ({"token/discovery.py": "from smartcard.System import readers"}, {PCSC}),
        ({"token/discovery.py": "from ushield_hw.backend import module\nfrom ushield_hw.system import pcsc"}, set()),
        ({"token/session.py": "from ushield_hw.token import discovery"}, {TOKEN}),
        ({"token/session.py": "from ushield_hw.signing import order"}, {DOWN}),
        ({"signing/order.py": "from ushield_hw.certificates import certificate"}, {DOWN}),
        ({"backend/pkcs11/slots.py": "from ushield_hw.backend.pkcs11 import engine"}, {BACKEND}),
        ({"backend/pkcs11/engine.py": "from ushield_hw.backend import module"}, {BACKEND}),
        ({"doctor/finding.py": "from ushield_hw.doctor.probes import bus"}, {DOCTOR}),
        ({"doctor/inspect/machine.py": "from ushield_hw.doctor import runner"}, {DOCTOR}),
        ({"verifier/trust.py": "from ushield_hw import cms, order"}, set()),
        ({"verifier/trust.py": "from ushield_hw.system import usb"}, {AWAY}),
        ({"bank/http.py": "import starlette.routing\nfrom ushield_hw import verifier, crypto"}, set()),
        ({"bank/http.py": "from ushield_hw.token import session"}, {AWAY, DOWN}),
        ({"bank/http.py": "from ushield_hw.system import pcsc"}, {AWAY}),
        ({"bank/http.py": "import ushield_hw.uri", "uri.py": "import ushield_hw.system.usb"}, {AWAY}),
        ({"bank/http.py": "import ushield_hw.by", "by.py": ""}, {DOWN}),
        ({"cli/bank.py": "def late():\n    from sqlalchemy import select"}, {BANK}),
        ({"order/text.py": "import ushield_hw.system.pcsc"}, {AWAY}),
        ({"cms/read.py": "from ushield_hw.backend.pkcs11 import engine"}, {AWAY, DOWN}),
        ({"crypto/pem.py": "from ushield_hw.system import files"}, {DOWN}),
    ],
)
def test_walls(tmp_path: Path, files: dict[str, str], walls: set[str]) -> None:
    assert broken(tmp_path, files) == walls
