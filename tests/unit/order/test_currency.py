"""The currency table, compared with ISO 4217 in another package."""

from __future__ import annotations

import iso4217
import pytest

from ushield_hw.order.currency import DECIMAL_PLACES, PUBLISHED

pytestmark = pytest.mark.unit


def payable() -> dict[str, int]:
    """Return the currencies with a minor unit in list one, without funds."""
    found = {}
    for entry in iso4217.raw_xml.iter("CcyNtry"):
        code, places, name = entry.findtext("Ccy"), entry.findtext("CcyMnrUnts"), entry.find("CcyNm")
        if code and places and places.isdigit() and name is not None and name.get("IsFund", "").lower() != "true":
            found[code] = int(places)
    return found


def test_the_table_is_list_one() -> None:
    assert str(iso4217.__published__) >= PUBLISHED
    assert payable() == DECIMAL_PLACES, "ISO 4217 was published anew: bring ushield_hw/order/currency.py up to date"


def test_some_that_everybody_knows() -> None:
    known = {"CNY": 2, "USD": 2, "EUR": 2, "JPY": 0, "KRW": 0, "VND": 0, "BHD": 3, "KWD": 3, "UYW": 4}
    assert {code: DECIMAL_PLACES[code] for code in known} == known
