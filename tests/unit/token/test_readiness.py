"""Whether a token can sign, given the visible objects: the decision shared by `sign` and the doctor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.cms import pki
from tests.unit.drivers.shelf import NOW, Shelf, public, record
from ushield_hw.backend.model import TokenFlag, TokenInfo
from ushield_hw.config import Settings
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.drivers.catalogue import GENERIC
from ushield_hw.errors import PinChangeRequired, PinLocked, StorageError
from ushield_hw.interaction import PinState
from ushield_hw.order import KeyUse
from ushield_hw.token.key_pairs import ANY, KeyChoice, Why
from ushield_hw.token.readiness import Decision, Hidden, Seen, Verdict, decide

pytestmark = pytest.mark.unit

DAY = pki.DAY
READY = TokenFlag.TOKEN_INITIALIZED | TokenFlag.USER_PIN_INITIALIZED | TokenFlag.LOGIN_REQUIRED
INFO = TokenInfo(0, "odd", "Odd", "Shield", "0001", READY, 4, 32, (1, 0))
CAN, CANNOT, UNDECIDED = Verdict.CAN, Verdict.CANNOT, Verdict.UNDECIDED


def decided(shelf: Shelf, choice: KeyChoice = ANY, **seen: Any) -> Decision:
    known: dict[str, Any] = {
        "info": INFO,
        "driver": GENERIC,
        "settings": Settings(),
        "certificates": shelf.certificates,
        "keys": shelf.keys,
        "mechanisms": ("ECDSA", "RSA_PKCS"),
        "logged_in": False,
        "pin": PinState(),
        **seen,
    }
    return decide(Seen(**known), KeyUse.PAYMENT, choice, NOW)


def before_login(shelf: Shelf) -> Shelf:
    """Remove the objects hidden before a login."""
    shelf.keys = [key for key in shelf.keys if not key.private]
    return shelf


def without(flag: TokenFlag) -> TokenInfo:
    return replace(INFO, flags=INFO.flags & ~flag)


def code(decision: Decision) -> str | None:
    return None if decision.error is None else decision.error.code


# --- after a login ----------------------------------------------------------------------------------------------------


def test_a_pair_signs(shelf: Shelf) -> None:
    shelf.pair()
    decision = decided(shelf, logged_in=True)
    assert (decision.verdict, decision.error, decision.left_out) == (CAN, None, ())
    pair, how = decision.required()
    assert (pair.key_id, how.way.mechanism) == ("01", "ECDSA")


def test_of_each_that_does_not_sign_it_is_said_why(shelf: Shelf) -> None:
    shelf.pair(0, subject="CN=张三", not_before=NOW - 9 * DAY)
    shelf.pair(1, subject="CN=张三", not_before=NOW - 20 * DAY)
    shelf.pair(2, label="new#pending")
    shelf.pair(3, not_after=NOW - DAY)
    shelf.pair(4, not_before=NOW + DAY)
    shelf.pair(5, key_usage=["keyEncipherment"])
    shelf.certificate(pki.key(number=6), b"\x07")
    shelf.key(pki.key(number=7), b"\x08", can_sign=False)
    shelf.certificate(pki.key(number=7), b"\x08")
    shelf.key(pki.key(KeyKind.RSA, number=8, bits=1024), b"\x09", kind=KeyKind.RSA)
    shelf.certificate(pki.key(KeyKind.RSA, number=8, bits=1024), b"\x09")
    shelf.certificate(pki.key(number=99), b"\x08")
    decision = decided(shelf, logged_in=True)
    assert decision.required()[0].key_id == "01"
    assert {(one.pair.key_id, one.why) for one in decision.left_out} == {
        ("02", Why.SUPERSEDED),
        ("03", Why.PENDING),
        ("04", Why.EXPIRED),
        ("05", Why.NOT_YET_VALID),
        ("06", Why.USAGE),
        ("07", Why.NO_KEY),
        ("08", Why.NO_SIGN),
        ("08", Why.OTHER_KEY),
        ("09", Why.WEAK),
    }
    assert all("--certificate" in str(one) for one in decision.left_out)


def test_a_token_that_does_not_say_whether_its_key_signs(shelf: Shelf) -> None:
    """An absent CKA_SIGN does not mean false."""
    shelf.key(pki.key(), can_sign=None)
    shelf.certificate(pki.key())
    assert decided(shelf, logged_in=True).verdict is CAN


def test_no_mechanism_for_one_kind_leaves_the_other(shelf: Shelf) -> None:
    shelf.pair(0, subject="CN=张三")
    shelf.key(pki.key(KeyKind.RSA), b"\x0b", kind=KeyKind.RSA)
    shelf.certificate(pki.key(KeyKind.RSA), b"\x0b", subject="CN=李四")
    assert decided(shelf, logged_in=True, mechanisms=("ECDSA",)).required()[0].key_id == "01"
    assert decided(shelf, logged_in=True, mechanisms=("RSA_PKCS",)).required()[0].key_id == "0b"
    neither = decided(shelf, logged_in=True, mechanisms=("SHA256",))
    assert (neither.verdict, code(neither)) == (CANNOT, "MECHANISM_MISSING")


def test_nothing_more_shows_after_a_login(shelf: Shelf) -> None:
    shelf.certificate(pki.key())
    decision = decided(shelf, logged_in=True)
    assert (decision.verdict, decision.hidden, code(decision)) == (CANNOT, frozenset(), "CERTIFICATE_NOT_FOUND")


# --- before a login ---------------------------------------------------------------------------------------------------


def test_a_key_that_hides_until_then(shelf: Shelf) -> None:
    shelf.pair()
    decision = decided(before_login(shelf))
    assert (decision.verdict, decision.hidden) == (UNDECIDED, frozenset({Hidden.KEY}))
    assert decision.pair is not None
    assert (decision.pair.key_id, code(decision)) == ("01", "CERTIFICATE_NOT_FOUND")


def test_a_certificate_alone_may_have_its_key_behind_the_login(shelf: Shelf) -> None:
    shelf.certificate(pki.key())
    decision = decided(shelf)
    assert (decision.verdict, decision.pair and decision.pair.key_id) == (UNDECIDED, "01")


def test_a_certificate_may_hide_too(shelf: Shelf) -> None:
    shelf.key(pki.key())
    decision = decided(before_login(shelf))
    assert (decision.verdict, decision.pair, decision.hidden) == (UNDECIDED, None, frozenset({Hidden.CERTIFICATE}))


def test_keys_that_a_login_will_not_tell_apart(shelf: Shelf) -> None:
    for number in (0, 1):
        shelf.key(pki.key(number=number), b"\x12")
    shelf.certificate(pki.key(number=1), b"\x12")
    decision = decided(before_login(shelf))
    assert (decision.verdict, decision.pair, code(decision)) == (UNDECIDED, None, "KEYS_AMBIGUOUS")


def test_what_no_login_changes(shelf: Shelf) -> None:
    shelf.pair(not_after=NOW - DAY)
    decision = decided(before_login(shelf))
    assert (decision.verdict, code(decision), decision.hidden) == (CANNOT, "CERTIFICATE_EXPIRED", frozenset())


def test_a_public_object_of_another_key_under_the_certificates_id(shelf: Shelf) -> None:
    shelf.keys.append(
        record(1, b"\x01", private=False, public=public(pki.key(number=2)), kind=KeyKind.EC_P256, can_sign=None,
               always_authenticate=False)
    )  # fmt: skip
    shelf.certificate(pki.key(number=1), b"\x01")
    decision = decided(shelf)
    assert decision.pair is None
    assert [one.why for one in decision.left_out] == [Why.OTHER_KEY]


def test_a_choice_is_judged_alone(shelf: Shelf) -> None:
    shelf.pair(0, subject="CN=张三")
    shelf.pair(1, subject="CN=李四")
    before_login(shelf)
    assert code(decided(shelf)) == "CERTIFICATE_MULTIPLE"
    chosen = decided(shelf, KeyChoice(b"\x02"))
    assert (chosen.verdict, chosen.pair and chosen.pair.key_id) == (UNDECIDED, "02")


# --- the PIN ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "error"),
    [
        ({"pin": PinState(locked=True)}, PinLocked),
        ({"info": replace(INFO, flags=INFO.flags | TokenFlag.USER_PIN_TO_BE_CHANGED)}, PinChangeRequired),
        ({"settings": Settings(change_first_pin=True)}, PinChangeRequired),
        ({"pin": StorageError("PIN_COUNTER_UNUSABLE", path="x", reason="y")}, StorageError),
    ],
    ids=["locked", "must be changed", "first PIN", "no counter"],
)
def test_what_forbids_the_login(shelf: Shelf, seen: dict[str, Any], error: type[Exception]) -> None:
    shelf.pair()
    decision = decided(before_login(shelf), **seen)
    assert (decision.verdict, type(decision.error)) == (CANNOT, error)


def test_a_token_that_says_it_has_no_pin_decides_itself(shelf: Shelf) -> None:
    shelf.pair()
    assert decided(before_login(shelf), info=without(TokenFlag.USER_PIN_INITIALIZED)).verdict is UNDECIDED


def test_a_token_that_needs_no_login_signs_though_its_pin_is_locked(shelf: Shelf) -> None:
    shelf.pair()
    info = without(TokenFlag.LOGIN_REQUIRED)
    assert decided(shelf, info=info, pin=PinState(locked=True)).verdict is CAN
    hides = decided(before_login(shelf), info=info)
    assert (hides.verdict, hides.pair and hides.pair.key_id) == (UNDECIDED, "01")
    assert decided(shelf, info=info, pin=PinState(locked=True)).verdict is CANNOT
