"""tpm2-pkcs11: the return code of C_SetPIN without a login is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.subjects import Place, Subject
from tests.contract.tokens.tpm2 import DRIVER, make
from tests.soft import SETTINGS
from ushield_hw.backend.interface import Isolation
from ushield_hw.config import Settings
from ushield_hw.errors import PinIncorrect
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.link import Link
from ushield_hw.token.pin_operations import change_pin

pytestmark = pytest.mark.contract


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with make(Place(request), Isolation.PROCESS) as made:
        yield made


def test_a_wrong_old_pin_is_refused_and_the_right_one_changes_it(subject: Subject, tmp_path: Path) -> None:
    settings = Settings(drivers=SETTINGS.drivers, state_dir=tmp_path / "state")
    link = Link(subject.module, subject.slot, subject.serial, DRIVER, settings)
    with pytest.raises(PinIncorrect):
        change_pin(link, Scripted("0000000", "654321"))
    change_pin(link, Scripted(subject.pin, "654321"))
    subject.login("654321")
