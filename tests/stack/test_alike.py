"""Tokens with identical token information: each printed URI selects exactly one token."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soft import SOFTHSM, Soft
from ushield_hw.config import Settings
from ushield_hw.errors import TokenMultiple, TokenRemoved
from ushield_hw.testing.faulty import Action, Fault, FaultyModule, faulty_module, token_info
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.choice import find_token
from ushield_hw.token.discovery import survey

pytestmark = pytest.mark.stack

SAME = {
    "serial": token_info(serial="123"),
    "serial and label": token_info(serial="123", label="pay"),
    "blank": token_info(serial="", label=""),
    "all": token_info(serial="123", label="pay", model="M", manufacturer="V"),
}


@pytest.fixture
def faulty(soft: Soft, tmp_path: Path) -> FaultyModule:
    return faulty_module(tmp_path / "faulty", SOFTHSM)


@pytest.mark.parametrize("claims", SAME.values(), ids=SAME)
def test_each_token_is_listed_and_selected_by_its_uri(
    soft: Soft, faulty: FaultyModule, tmp_path: Path, claims: Action
) -> None:
    settings = Settings(drivers=(faulty.drivers,), state_dir=tmp_path / "state")
    faulty.plan([Fault("C_GetTokenInfo", None, claims)])
    seen = survey(settings)
    ours = [token for token in seen.tokens if token.module == faulty.path]  # p11-kit may also list SoftHSM2 itself
    assert len(ours) == 2
    assert not [problem for problem in seen.problems if problem.module == faulty.path]
    for token in ours:
        assert find_token(token.uri, settings=settings).link.slot_id == token.link.slot_id
        assert token.pin_state().retries_left == 6
    with pytest.raises(TokenMultiple) as caught:
        find_token(f"pkcs11:?module-path={faulty.path}", settings=settings)
    assert caught.value.details["candidates"] == [token.uri for token in ours]


def test_another_label_in_the_slot_is_another_token(soft: Soft, faulty: FaultyModule, tmp_path: Path) -> None:
    settings = Settings(drivers=(faulty.drivers,), state_dir=tmp_path / "state")
    token = find_token(f"pkcs11:serial={soft.serial}?module-path={faulty.path}", settings=settings)
    faulty.clear()
    faulty.plan([Fault("C_GetTokenInfo", None, token_info(label="another"))])
    with pytest.raises(TokenRemoved):
        token.open(Scripted(soft.pin))
    assert faulty.count("C_Login") == 0
