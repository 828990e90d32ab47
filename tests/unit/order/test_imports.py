"""The order package imports little: its import delays signing."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

HEAVY = {
    *("cryptography", "asn1crypto", "rfc8785", "pkcs11", "click", "importlib.metadata", "uuid", "decimal", "_strptime"),
    *("xml", "logging", "asyncio", "idna", "encodings.idna", "importlib.resources", "email", "socket", "subprocess"),
}


def test_nothing_heavy_is_loaded() -> None:
    program = (
        "import sys; from ushield_hw.order import *\n"
        "from tests.unit.order.samples import payment\n"
        "order = payment(); content = message_format('jcs').encode(order, 'zh')\n"
        "pages(screen_lines(content, 'zh'), DisplayProfile(columns=16, rows=4)); order.check_live(order.created)\n"
        "print(*sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    loaded = set(ended.stdout.split())
    assert "ushield_hw.order.screen" in loaded
    assert sorted(loaded & HEAVY) == []
