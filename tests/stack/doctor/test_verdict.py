"""The doctor's verdict compared with an actual signature, over unusual states of a soft token.

A failure: the token does not sign. OK and nothing hidden: it signs. A warning that only a login resolves: either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.soft import DRIVER, WRONG_PIN
from tests.stack.doctor.conftest import Doctor
from tests.stack.doctor.test_objects import DAY, ENCRYPTING, P384, PAY, RSA, Open, Writer, elsewhere
from tests.unit.order.samples import live, payment
from ushield_hw.backend.model import ObjectClass, TokenFlag
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.doctor.finding import Finding, Status
from ushield_hw.doctor.runner import _private, findings_of
from ushield_hw.doctor.subjects import TokenSeen
from ushield_hw.drivers.family import Driver, Kind
from ushield_hw.errors import CertificateNotFound, UShieldError
from ushield_hw.signing.order import Journaling, sign
from ushield_hw.testing.faulty import Fault, mechanisms, passes, returns, token_info
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.key_pairs import PENDING

pytestmark = pytest.mark.stack

_CKM_ECDSA: Final = range(0x1040, 0x1048)
CERTIFICATES, PUBLIC_KEYS = ObjectClass.CERTIFICATE, ObjectClass.PUBLIC_KEY
ALL: Final = (CERTIFICATES, PUBLIC_KEYS)  # private keys are hidden in any case
# The same soft token as one of a family whose store cannot be inspected, and as one that hides no certificates.
STRANGE: Final = replace(DRIVER, module=replace(DRIVER.module, config_env=None))
OPEN: Final = replace(STRANGE, capabilities=replace(DRIVER.capabilities, public_certificates=True))
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
    "a public key left behind": written(lambda w: w.certificate(), lambda w: w.remove_keys(private=True)),
    "public keys alone": written(lambda w: w.remove_keys(private=True)),
    "private keys alone": written(lambda w: w.certificate(), lambda w: w.remove_keys(private=False)),
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
HIDDEN: Final[dict[str, State]] = {
    "everything": written(lambda w: w.certificate(), lambda w: w.hide(*ALL)),
    "everything, of an RSA pair": written(lambda w: w.certificate(RSA), lambda w: w.hide(*ALL)),
    "the certificate": written(lambda w: w.certificate(), lambda w: w.hide(CERTIFICATES)),
    "the public keys": written(lambda w: w.certificate(), lambda w: w.hide(PUBLIC_KEYS)),
    "an expired certificate and all keys": written(
        lambda w: w.certificate(begins=-9 * DAY, ends=-DAY), lambda w: w.hide(*ALL)
    ),
    "a certificate without a key": written(
        lambda w: w.certificate(), lambda w: w.remove_keys(), lambda w: w.hide(CERTIFICATES)
    ),
    "keys without a certificate": written(lambda w: w.hide(PUBLIC_KEYS)),
    "all but an authority's certificate": written(
        lambda w: w.certificate(),
        lambda w: w.hide(*ALL),
        lambda w: w.certificate(elsewhere(), name="Root CA", usage=None, ca=True),
    ),
    "all but a certificate that is none": written(
        lambda w: w.certificate(RSA), lambda w: w.hide(*ALL), lambda w: w.nonsense()
    ),
    "everything, behind a login that it does not ask for": lambda w, d: [
        *written(lambda w: w.certificate(), lambda w: w.hide(*ALL))(w, d),
        *says(clear_flags=TokenFlag.LOGIN_REQUIRED),
    ],
}
NOT_BEFORE_A_LOGIN: Final = {"a login that is refused"}  # not visible before a login


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("driver", [DRIVER, STRANGE], ids=["files known", "files not known"])
def test_the_doctor_says_what_a_signature_does(doctor: Doctor, state: str, driver: Driver) -> None:
    plan = STATES[state](Writer(doctor), doctor)
    agree(doctor, doctor.seen(*plan, driver=driver), state)


@pytest.mark.parametrize("state", HIDDEN)
@pytest.mark.parametrize("plan", [[], [Fault("C_GetInfo", None, passes())]], ids=["plain", "shim"])
@pytest.mark.parametrize("driver", [DRIVER, STRANGE], ids=["files known", "files not known"])
def test_what_hides_until_a_login_is_undecided(
    doctor: Doctor, state: str, plan: Sequence[Fault], driver: Driver
) -> None:
    seen = doctor.seen(*HIDDEN[state](Writer(doctor), doctor), *plan, driver=driver)
    assert (seen.able, seen.uncertain) == (True, True), ids(findings_of(seen))
    agree(doctor, seen, state)


@pytest.mark.parametrize("plan", [[], [Fault("C_GetInfo", None, passes())]], ids=["plain", "shim"])
@pytest.mark.parametrize(("driver", "able"), [(DRIVER, False), (STRANGE, True), (OPEN, False)])
def test_an_empty_token_is_empty_where_that_can_be_known(
    doctor: Doctor, plan: Sequence[Fault], driver: Driver, able: bool
) -> None:
    Writer(doctor).remove_keys()
    seen = doctor.seen(*plan, driver=driver)
    (told,) = [one for one in findings_of(seen) if one.is_problem]
    assert (told.id, told.evidence["kind"]) == ("H71", "hidden" if able else "nothing")
    assert (told.status, seen.able) == (Status.WARN if able else Status.FAIL, able)
    agree(doctor, seen, "nothing")


def test_a_family_that_hides_no_certificate_has_none_where_none_shows(doctor: Doctor) -> None:
    for driver, able in ((STRANGE, True), (OPEN, False)):
        seen = doctor.seen(driver=driver)  # it has keys
        assert seen.able is able
        assert ids(findings_of(seen)) == [("H68", "warn") if able else ("H71", "fail")]
        agree(doctor, seen, "no certificate")


def test_a_folder_that_may_be_anothers_says_nothing(doctor: Doctor) -> None:
    """SoftHSM2 names a token's folder after its serial number; two matches, or an unreadable folder, prove nothing."""
    Writer(doctor).remove_keys()
    serial = doctor.soft.serial
    other = doctor.soft.folder / "tokens" / f"00000000-0000-0000-{serial[:4]}-{serial[4:]}"
    seen = doctor.seen()
    assert not seen.able
    other.mkdir()
    (other / "token.object").touch()
    assert replace(seen).able


def test_a_public_key_left_behind_is_no_proof(doctor: Doctor) -> None:
    """SoftHSM2's files are counted; where that is not possible for keys in files, only a login shows them."""
    writer = Writer(doctor)
    writer.certificate()
    assert (doctor.seen().able, doctor.seen().uncertain) == (True, False)
    assert (doctor.seen(driver=STRANGE).able, doctor.seen(driver=STRANGE).uncertain) == (True, True)
    card = replace(STRANGE, kind=Kind.TOKEN)
    assert (doctor.seen(driver=card).able, doctor.seen(driver=card).uncertain) == (True, False)
    writer.remove_keys(private=True)
    assert not doctor.seen().able
    assert ("H68", "fail") in ids(findings_of(doctor.seen()))
    assert doctor.seen(driver=STRANGE).uncertain


def test_private_keys_that_show_tell_what_public_ones_are_worth(doctor: Doctor) -> None:
    writer, card = Writer(doctor), replace(STRANGE, kind=Kind.TOKEN)
    writer.certificate()
    seen = doctor.seen(driver=card)
    with Open(doctor) as (module, _, slot):
        private = next(key for key in module.keys(slot) if key.private and key.key_id == RSA)
    assert not seen.uncertain
    other = doctor.seen(driver=card)
    other.__dict__["keys"] = (*seen.keys, private)  # it hides none, and the selected one is absent
    assert other.uncertain


def test_an_object_that_cannot_be_read_is_named_and_hides_no_other(doctor: Doctor) -> None:
    writer = Writer(doctor)
    for name in ("pay", "broken", "other"):
        writer.certificate(label=name)
    seen = doctor.seen(*(Fault("C_GetAttributeValue", call, returns("CKR_ARGUMENTS_BAD")) for call in range(3, 7)))
    found = findings_of(seen)
    (told,) = [one for one in found if one.is_problem]
    assert (told.id, told.status, told.evidence["count"]) == ("H78", Status.WARN, 1)
    assert "CKR_ARGUMENTS_BAD" in str(told.cause())
    assert len(seen.certificates) == 2
    agree(doctor, seen, "an unreadable certificate")


def test_a_bundle_masks_the_label_of_what_cannot_be_read(doctor: Doctor) -> None:
    Writer(doctor).certificate(label="张三's")
    seen = doctor.seen(*(Fault("C_GetAttributeValue", call, returns("CKR_ARGUMENTS_BAD")) for call in (1, 2)))
    assert [one.label for one in seen.unread] == ["张三's"]
    seen.__dict__["certificates"] = ()  # as if it were omitted
    assert ("label", "张三's") in list(_private(seen.loaded.file.machine, [seen]))


def test_a_signature_names_what_it_could_not_read(doctor: Doctor) -> None:
    writer = Writer(doctor)
    before = set(objects_of(doctor))
    writer.certificate()
    writer.hide(CERTIFICATES)
    (file,) = set(objects_of(doctor)) - before
    damage(file)
    writer.certificate(elsewhere(), name="Root CA", usage=None, ca=True)  # partly readable
    seen = doctor.seen()
    with (
        seen.token.open(Scripted(doctor.soft.pin, consents=[True], confirms=[True])) as session,
        pytest.raises(CertificateNotFound) as caught,
    ):
        sign(payment(**live(datetime.now(UTC))), session, journal=Journaling.CALLER)
    assert caught.value.code == "CERTIFICATE_NOT_FOUND"
    unread = list(caught.value.details["unread"])  # type: ignore[call-overload]
    assert ["CKR_" in one and "skipped" in one for one in unread] == [True]
    assert unread[0] in caught.value.remedy


def objects_of(doctor: Doctor) -> list[Path]:
    return [*(doctor.soft.folder / "tokens").glob("*/*.object")]


def damage(file: Path) -> None:
    """Corrupt the encrypted certificate in a private object's file, so that it cannot be decrypted.

    The file holds a generation number, then for each attribute its type, the kind of its value, and the value: a
    boolean in one byte, a number in eight, or bytes prefixed with their length.
    """
    whole, at, value = bytearray(file.read_bytes()), 8, 0
    while at < len(whole):
        kind, (attribute, length) = whole[at + 15], (whole[at + 6 : at + 8], whole[at + 16 : at + 24])
        size = {1: 1, 2: 8}.get(kind) or 8 + int.from_bytes(length, "big")
        at += 16 + size
        value = at if int.from_bytes(attribute, "big") == 0x11 else value  # CKA_VALUE
    whole[value - 17] ^= 0xFF  # in the second to last block: makes the padding invalid
    file.write_bytes(whole)


def agree(doctor: Doctor, seen: TokenSeen, state: str) -> None:
    """Assert that the verdict matches an actual signature, and that a warning marks what only a login shows."""
    found = findings_of(seen)
    able, hidden = seen.able, seen.uncertain
    assert any(one.status is Status.FAIL for one in found) is not able, ids(found)
    warned = [one for one in found if one.status is Status.WARN and one.evidence.get("hidden_until_login")]
    assert [one.id for one in warned] == (["H71" if seen.bare else "H68"] if able and hidden else [])
    signed = signs(seen, doctor)
    if not able:
        assert not signed, ids(found)
    elif not hidden and state not in NOT_BEFORE_A_LOGIN:
        assert signed, ids(found)


def signs(seen: TokenSeen, doctor: Doctor) -> bool:
    """Sign an order with the correct PIN and every confirmation given; return whether it succeeded."""
    order = payment(**live(datetime.now(UTC)))
    try:
        with seen.token.open(Scripted(doctor.soft.pin, consents=[True], confirms=[True])) as session:
            return bool(sign(order, session, key=seen.choice, journal=Journaling.CALLER).der)
    except UShieldError:
        return False


def ids(found: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(one.id, one.status.value) for one in found if one.is_problem]
