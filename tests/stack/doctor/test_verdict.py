"""The verdict of the doctor against what a signature does, over odd states of a soft token.

Fails: it does not sign. Can, and nothing hides: it signs. A warning that only a login tells: either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.soft import WRONG_PIN
from tests.stack.doctor.conftest import Doctor
from tests.stack.doctor.test_objects import DAY, ENCRYPTING, P384, PAY, RSA, Writer, elsewhere
from tests.unit.order.samples import live, payment
from ushield_hw.backend.model import TokenFlag
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.doctor.finding import Finding, Status
from ushield_hw.doctor.runner import findings_of
from ushield_hw.doctor.subjects import TokenSeen
from ushield_hw.errors import UShieldError
from ushield_hw.signing.order import Journaling, sign
from ushield_hw.testing.faulty import Fault, mechanisms, returns, token_info
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.key_pairs import PENDING

pytestmark = pytest.mark.stack

_CKM_ECDSA: Final = range(0x1040, 0x1048)
State = Callable[[Writer, Doctor], Sequence[Fault]]


def says(**flags: Any) -> Sequence[Fault]:
    return [Fault("C_GetTokenInfo", None, token_info(**flags))]


def wrong_pins(doctor: Doctor, count: int) -> None:
    for _ in range(count):
        seen = doctor.seen()
        with pytest.raises(UShieldError):
            seen.token.open(Scripted(WRONG_PIN, consents=[True]))
        seen.loaded.module.close()


def wrong(count: int) -> State:
    def make(writer: Writer, doctor: Doctor) -> Sequence[Fault]:
        writer.certificate()
        wrong_pins(doctor, count)
        return ()

    return make


def with_pair(*plan: Fault) -> State:
    def make(writer: Writer, doctor: Doctor) -> Sequence[Fault]:
        writer.certificate()
        return plan

    return make


def written(*steps: Callable[[Writer], None]) -> State:
    def make(writer: Writer, doctor: Doctor) -> Sequence[Fault]:
        for step in steps:
            step(writer)
        return ()

    return make


STATES: Final[dict[str, State]] = {
    "a pair": written(lambda w: w.certificate()),
    "an RSA pair": written(lambda w: w.certificate(RSA)),
    "no certificate": written(),
    "nothing": written(lambda w: w.remove_keys()),
    "a certificate alone": written(lambda w: w.certificate(), lambda w: w.remove_keys()),
    "expired": written(lambda w: w.certificate(begins=-9 * DAY, ends=-DAY)),
    "not valid yet": written(lambda w: w.certificate(begins=DAY)),
    "for logins": written(lambda w: w.certificate(usage=("digital_signature",))),
    "for encryption": written(lambda w: w.certificate(usage=ENCRYPTING)),
    "any use": written(lambda w: w.certificate(usage=None)),
    "of another key": written(lambda w: w.certificate(elsewhere(), key_id=PAY)),
    "of a key elsewhere": written(lambda w: w.certificate(elsewhere())),
    "another id": written(lambda w: w.certificate(PAY, key_id=b"\x99")),
    "two people": written(lambda w: w.certificate(), lambda w: w.certificate(RSA, name="李四")),
    "pending": written(lambda w: w.certificate(label=f"pay{PENDING}")),
    "an authority's": written(lambda w: w.certificate(elsewhere(), name="Root CA", usage=None, ca=True)),
    "no certificate in the object": written(lambda w: w.nonsense()),
    "renewed": written(lambda w: w.certificate(begins=-90 * DAY, ends=-DAY), lambda w: w.certificate(RSA)),
    "P-384": written(lambda w: w.certificate(P384)),
    "a weak key": written(lambda w: w.generate(KeyKind.RSA, 1024, b"\x66"), lambda w: w.certificate(b"\x66")),
    "a strange kind of key": written(
        lambda w: w.certificate(ec.generate_private_key(ec.SECP521R1()).public_key(), key_id=b"\x70")
    ),
    "one wrong PIN": wrong(1),
    "one try left": wrong(5),
    "locked by this host": wrong(6),
    "to be changed": with_pair(*says(set_flags=TokenFlag.USER_PIN_TO_BE_CHANGED)),
    "locked": with_pair(*says(set_flags=TokenFlag.USER_PIN_LOCKED)),
    "no PIN, it says": with_pair(*says(clear_flags=TokenFlag.USER_PIN_INITIALIZED)),
    "limits": with_pair(*says(pin_min=9, pin_max=4)),
    "no login, it says": with_pair(*says(clear_flags=TokenFlag.LOGIN_REQUIRED)),
    "no mechanism": with_pair(Fault("C_GetMechanismList", None, mechanisms(hide=_CKM_ECDSA))),
    "a login that is refused": with_pair(Fault("C_Login", None, returns("CKR_PIN_LOCKED"))),
}
NOT_BEFORE_A_LOGIN: Final = {"a login that is refused"}  # no look can know


@pytest.mark.parametrize("state", STATES)
def test_the_doctor_says_what_a_signature_does(doctor: Doctor, state: str) -> None:
    plan = STATES[state](Writer(doctor), doctor)
    seen = doctor.seen(*plan)
    found = findings_of(seen)
    able, hidden = seen.able, seen.uncertain
    assert any(one.status is Status.FAIL for one in found) is not able, ids(found)
    assert any(one.id == "H68" and one.status is Status.WARN for one in found) == (able and hidden)
    signed = signs(seen, doctor)
    if not able:
        assert not signed, ids(found)
    elif not hidden and state not in NOT_BEFORE_A_LOGIN:
        assert signed, ids(found)


def signs(seen: TokenSeen, doctor: Doctor) -> bool:
    """Tell whether an order is signed on a token; the person enters the right PIN and agrees to everything."""
    order = payment(**live(datetime.now(UTC)))
    try:
        with seen.token.open(Scripted(doctor.soft.pin, consents=[True], confirms=[True])) as session:
            return bool(sign(order, session, key=seen.choice, journal=Journaling.CALLER).der)
    except UShieldError:
        return False


def ids(found: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(one.id, one.status.value) for one in found if one.matters]
