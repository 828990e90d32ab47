"""Further orders of a known signer: the fast path and the strict reader give the same result for every input."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.cms import pki
from tests.unit.cms.cases import Scenario, make_scene
from tests.unit.cms.people import CONTENT, P256, Bank
from ushield_hw.cms import fast_path, parse
from ushield_hw.cms.read import SignedOrderParts
from ushield_hw.errors import UShieldError

pytestmark = pytest.mark.unit


@pytest.fixture(scope="session")
def scenario(bank: Bank) -> Scenario:
    return make_scene(bank)


@pytest.fixture(scope="session")
def orders(scenario: Scenario) -> tuple[bytes, bytes]:
    """Two signed orders, created once: signatures are randomised."""
    return scenario.cades.der(), scenario.plain.der()


@pytest.fixture(autouse=True)
def nobody_known() -> Iterator[None]:
    fast_path._known.clear()
    yield
    fast_path._known.clear()


def told(der: bytes) -> SignedOrderParts | tuple[str, object]:
    try:
        return parse(der)
    except UShieldError as error:
        return error.code, error.details.get("problem")


@pytest.mark.parametrize("which", ["cades", "plain"])
def test_the_next_one_is_recognised_and_read_the_same(scenario: Scenario, which: str) -> None:
    der = getattr(scenario, which).der()
    assert fast_path.recognised(der) is None
    first = parse(der)
    assert fast_path.recognised(der) is not None
    assert parse(der) == first


@pytest.mark.parametrize(
    "moment",
    [pki.NOW + timedelta(seconds=1), datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)],
)
def test_each_has_a_signing_time_of_its_own(scenario: Scenario, moment: datetime) -> None:
    parse(scenario.cades.der())
    der = pki.sign_order(CONTENT, scenario.one.private, scenario.one.certificate, P256, signing_time=moment)
    assert fast_path.recognised(der) is not None
    shortly = parse(der)
    fast_path._known.clear()
    assert (parse(der), shortly.signing_time) == (shortly, moment)


def test_another_way_of_the_same_signer_is_another_way(scenario: Scenario) -> None:
    parse(scenario.cades.der())
    assert fast_path.recognised(scenario.plain.der()) is None
    parse(scenario.plain.der())
    assert fast_path.recognised(scenario.plain.der()) is not None
    assert fast_path.recognised(scenario.cades.der()) is not None


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_told_the_same_whether_the_signer_is_known_or_not(
    orders: tuple[bytes, bytes], data: st.DataObject
) -> None:
    """One byte changed, removed or inserted anywhere, or the end truncated."""
    der = data.draw(st.sampled_from(orders))
    at, octet = data.draw(st.integers(0, len(der) - 1)), bytes((data.draw(st.integers(0, 255)),))
    damaged = data.draw(
        st.sampled_from(
            [der[:at] + octet + der[at + 1 :], der[:at] + der[at + 1 :], der[:at] + octet + der[at:], der[:at]]
        )
    )
    fast_path._known.clear()
    strictly = told(damaged)
    for good in orders:
        parse(good)
    assert told(damaged) == strictly


def test_whatever_comes_it_is_recognised_or_not(scenario: Scenario) -> None:
    der = scenario.cades.der()
    parse(der)
    for size in range(len(der)):
        assert fast_path.recognised(der[:size]) is None


def test_what_is_known_is_bounded(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "_MOST", 1)
    parse(scenario.cades.der())
    (known,) = fast_path._known.values()
    fast_path._known.clear()
    fast_path._known[b"somebody else"] = known
    parse(scenario.cades.der())
    assert b"somebody else" not in fast_path._known
