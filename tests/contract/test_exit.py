"""A program that exits with an open token exits without output."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.soft import SOFTHSM, Soft, provisioned, soft
from ushield_hw.testing.softhsm import CONF_VARIABLE

__all__ = ["provisioned", "soft"]

pytestmark = pytest.mark.contract

PROGRAM = """
import sys
from pathlib import Path
from ushield_hw.backend.model import ModuleOptions, User
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.module import Module
module = Module(Path(sys.argv[1]), Isolation(sys.argv[2]), ModuleOptions(), 30)
slot = next(slot for slot in module.slots() if slot.token and slot.token.serial == sys.argv[3])
module.login(slot.slot_id, User.USER, sys.stdin.read())
"""


@pytest.mark.parametrize("isolation", ["in-process", "process"])
def test_a_program_that_just_ends_says_nothing(soft: Soft, isolation: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(SOFTHSM), isolation, soft.serial],
        input=soft.pin,
        env={**os.environ, CONF_VARIABLE: str(soft.conf)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
