"""Options for a physical token, and the tokens under the contract in the header of a run.

The PC/SC client library reads the socket path once per process. In the test process it is a private path without a
service, until a test links its pcscd there: no test sees the readers of this machine.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.rotation import VARIABLE, settle

if TYPE_CHECKING:
    from tests.contract.subjects import Row

ROOT: Final = Path(__file__).parents[1]
BANK: Final = ("tests/unit/bank/", "tests/cli/test_bank", "tests/cli/test_renew_bank")
"""Places of the tests that have the marker bank."""

DEVICE: Final[pytest.StashKey[Row]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("device", "a token that a person has plugged in: -m device")
    group.addoption("--token-serial", metavar="SERIAL", help="the token with this serial number, and no other")
    group.addoption("--token-pin-file", metavar="FILE", type=Path, help="its PIN, in a file that only you can read")
    group.addoption("--allow-lock", action="store_true", help="send wrong PINs even if they may lock the token")


def pytest_configure(config: pytest.Config) -> None:
    settle()
    serial: str | None = config.getoption("token_serial")
    if serial is None:
        if config.option.markexpr == "device":
            raise pytest.UsageError("which token? name it by --token-serial")
        os.environ["PCSCLITE_CSOCK_NAME"] = f"{tempfile.gettempdir()}/ushield-tests-{os.getpid()}.comm"
        return
    if config.getoption("numprocesses", None):
        raise pytest.UsageError("one token, one process: without -n")
    config.option.tbstyle, config.option.showlocals = "short", False  # a long one shows arguments: the PIN
    from tests.contract.tokens.device import plugged_in

    pin_file: Path | None = config.getoption("token_pin_file")
    config.stash[DEVICE] = plugged_in(serial, pin_file, allow_lock=bool(config.getoption("allow_lock")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(ROOT).as_posix()
        if place.startswith(BANK):
            item.add_marker("bank")


def pytest_report_header(config: pytest.Config) -> list[str]:
    from tests.contract.rows import ABSENT

    lines = [f"matrices: share {settle()} ({VARIABLE}; all: every point)"]
    lines += [f"no {name} here: {reason}" for name, reason in ABSENT.items()]
    if row := config.stash.get(DEVICE, None):
        lines += [
            f"device: {row.kind.title}",
            *(f"  not tested: {can.value}: {why}" for can, why in row.kind.cannot.items()),
        ]
    return lines
