"""A PIV card in a real reader, through unmodified OpenSC and ykcs11, in a worker process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.cli.world import USHIELD
from tests.contract.checks import MESSAGE, call_of, verify
from tests.contract.tokens.piv import (
    OPENSC,
    PIN,
    PUK,
    SO_PIN,
    YKCS11,
    Plugged,
    Way,
    authority,
    certified,
    plugged,
    private_keys,
)
from tests.soft import SETTINGS, WRONG_PIN
from tests.unit.order.samples import as_json, live, make_payment
from ushield_hw.backend.model import KeyRecord, SignCall, TokenFlag, User
from ushield_hw.backend.module import Module
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.drivers.family import Unblock
from ushield_hw.errors import LastTryNotConfirmed, PinError, PinIncorrect, PinLocked, TokenError, TokenRemoved
from ushield_hw.testing.authority import Authority, person
from ushield_hw.testing.card.memory import Memory
from ushield_hw.testing.card.panel import Answer, Panel
from ushield_hw.testing.card.piv import Slot
from ushield_hw.testing.card.piv.card import (
    CHANGE_REFERENCE_DATA,
    GENERAL_AUTHENTICATE,
    RESET_RETRY_COUNTER,
    VERIFY,
)
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.link import Link
from ushield_hw.token.pin_operations import change_pin, unblock_pin, verify_pin

pytestmark = pytest.mark.stack

LOW, FINAL, LOCKED = TokenFlag.USER_PIN_COUNT_LOW, TokenFlag.USER_PIN_FINAL_TRY, TokenFlag.USER_PIN_LOCKED
NEW_PIN = "654321"
ONLY_OPENSC = pytest.mark.parametrize("card", [OPENSC], indirect=True, ids=["opensc"])
ONLY_YKCS11 = pytest.mark.parametrize("card", [YKCS11], indirect=True, ids=["ykcs11"])
NAME = attrgetter("name")
KEY_IDS = {slot: bytes((number,)) for number, slot in enumerate(Slot, start=1)}


@pytest.fixture(params=[OPENSC, YKCS11], ids=["opensc", "ykcs11"])
def card(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plugged]:
    """A card in its reader, with its memory in a file."""
    way: Way = request.param
    memory = certified()
    memory.path = tmp_path / "card.json"
    with plugged(way, memory) as made:
        yield made


@pytest.fixture
def module(card: Plugged) -> Module:
    """The module for the card; the token has been enumerated."""
    module = card.module()
    card.info(module)
    card.forget()
    return module


def link(card: Plugged, module: Module, folder: Path, **pin: object) -> Link:
    driver = replace(card.way.driver, pin=replace(card.way.driver.pin, **pin))  # type: ignore[arg-type]
    settings = replace(SETTINGS, state_dir=folder / "state")
    return Link(module, card.info(module).slot_id, card.way.serial, driver, settings)


def login(card: Plugged, module: Module, pin: str = PIN) -> int:
    return module.login(card.info(module).slot_id, User.USER, pin)


def key(card: Plugged, module: Module, slot: Slot) -> KeyRecord:
    found = module.keys(card.info(module).slot_id)
    return next(one for one in found if one.private and one.key_id == KEY_IDS[slot])


def flags(card: Plugged, module: Module) -> TokenFlag:
    return TokenFlag(card.info(module).flags) & (LOW | FINAL | LOCKED)


def public(slot: Slot) -> bytes:
    private = private_keys()[slot]
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return private.public_key().public_numbers().n.to_bytes(256)


def answers_to_sign(slot: Slot) -> list[int]:
    """Return the expected status words of one signing command; an RSA block and its response exceed one command."""
    return [0x9000, 0x6108] if slot is Slot.CARD_AUTHENTICATION else [0x9000]


def swapped(card: Plugged, module: Module) -> tuple[int, SignCall]:
    """Log in, then replace the card with one that has another PIN, without a call to the module in between."""
    stands = login(card, module)
    signed = call_of(key(card, module, Slot.AUTHENTICATION))
    other = certified(pin=NEW_PIN)
    watcher = card.module()
    card.info(watcher)
    card.pull_out(watcher)
    card.card.memory = other
    card.put_back(watcher)
    watcher.close()
    card.forget()
    return stands, signed


# -- content ----------------------------------------------------------------------------------------------------------


def test_the_certificates_are_read_as_they_were_written_without_a_login(card: Plugged, module: Module) -> None:
    found = {one.key_id: one.der for one in module.certificates(card.info(module).slot_id)}
    assert set(found) == set(KEY_IDS.values())
    for slot, key_id in KEY_IDS.items():
        assert x509.load_der_x509_certificate(found[key_id]).public_key() == private_keys()[slot].public_key()


def test_the_keys_have_their_kinds_and_one_wants_the_pin_each_time(card: Plugged, module: Module) -> None:
    login(card, module)
    assert {slot: (one.kind, one.always_authenticate) for slot in Slot if (one := key(card, module, slot))} == {
        Slot.AUTHENTICATION: (KeyKind.EC_P256, False),
        Slot.SIGNATURE: (KeyKind.EC_P256, True),
        Slot.KEY_MANAGEMENT: (KeyKind.EC_P384, False),
        Slot.CARD_AUTHENTICATION: (KeyKind.RSA, False),
    }


def test_a_serial_number_of_its_own_tells_a_card_from_another(card: Plugged, module: Module) -> None:
    info = card.info(module)
    assert info.has(TokenFlag.TOKEN_INITIALIZED | TokenFlag.LOGIN_REQUIRED | TokenFlag.USER_PIN_INITIALIZED)
    assert int(info.serial, 16 if card.way is OPENSC else 10) == int(card.card.memory.serial)


# -- signatures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", [Slot.AUTHENTICATION, Slot.KEY_MANAGEMENT, Slot.CARD_AUTHENTICATION], ids=NAME)
def test_a_signature_verifies_and_the_card_was_asked_once(card: Plugged, module: Module, slot: Slot) -> None:
    stands = login(card, module)
    private = key(card, module, slot)
    card.forget()
    assert private.kind is not None
    verify(private.kind, public(slot), module.sign(stands, call_of(private)))
    assert card.sent(GENERAL_AUTHENTICATE) == answers_to_sign(slot)
    assert card.sent(VERIFY) == []


def test_openssl_takes_the_signature_for_the_certificates_key(card: Plugged, module: Module, tmp_path: Path) -> None:
    stands = login(card, module)
    call = SignCall(key(card, module, Slot.CARD_AUTHENTICATION).handle, "SHA256_RSA_PKCS", MESSAGE)
    (tmp_path / "signature").write_bytes(module.sign(stands, call))
    (tmp_path / "message").write_bytes(MESSAGE)
    pem = (
        private_keys()[Slot.CARD_AUTHENTICATION]
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "key.pem").write_bytes(pem)
    command = ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "message"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout == "Verified OK\n"


def test_the_signature_key_takes_a_pin_for_each_signature_and_the_login_stands(card: Plugged, module: Module) -> None:
    stands = login(card, module)
    private = key(card, module, Slot.SIGNATURE)
    card.forget()
    for _ in range(2):
        raw = module.sign(stands, replace(call_of(private), context=True, pin=PIN))
        verify(KeyKind.EC_P256, public(Slot.SIGNATURE), raw)
    assert card.sent(VERIFY) == [0x9000, 0x9000]
    assert card.sent(GENERAL_AUTHENTICATE) == [0x9000, 0x9000]
    module.sign(stands, call_of(key(card, module, Slot.AUTHENTICATION)))


def test_the_signature_key_signs_nothing_without_its_pin_and_the_login_ends(card: Plugged, module: Module) -> None:
    stands = login(card, module)
    module.sign(stands, call_of(key(card, module, Slot.AUTHENTICATION)))  # the login's PIN verification is used up
    private = key(card, module, Slot.SIGNATURE)
    card.forget()
    with pytest.raises(TokenError) as caught:
        module.sign(stands, call_of(private))
    assert caught.value.code == "LOGIN_ENDED"
    assert 0x9000 not in card.sent(GENERAL_AUTHENTICATE)
    again = login(card, module)
    module.sign(again, call_of(key(card, module, Slot.AUTHENTICATION)))


@pytest.mark.parametrize("slot", [Slot.AUTHENTICATION, Slot.SIGNATURE, Slot.CARD_AUTHENTICATION], ids=NAME)
def test_the_command_signs_an_order_and_openssl_takes_it(card: Plugged, tmp_path: Path, slot: Slot) -> None:
    (tmp_path / "order.json").write_bytes(as_json(make_payment(**live(datetime.now(UTC)))))
    (tmp_path / "pin").touch(mode=0o600)
    (tmp_path / "pin").write_text(PIN + "\n")
    (tmp_path / "ca.pem").write_bytes(authority().pem)
    known = ["--token", f"pkcs11:serial={card.way.serial}", "--pin-source", "pin", "--key-id", KEY_IDS[slot].hex()]
    command = [str(USHIELD), "sign", "order.json", *known, "--unattended", "-o", "signed.p7m"]
    environment = {**os.environ, **card.desk.env, "XDG_STATE_HOME": str(tmp_path / "state")}
    card.forget()
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    checked = "openssl cms -verify -binary -inform DER -purpose any -CAfile ca.pem -in signed.p7m -out content".split()
    subprocess.run(checked, cwd=tmp_path, check=True, capture_output=True, timeout=30)
    assert card.sent(GENERAL_AUTHENTICATE) == answers_to_sign(slot)


# -- the PIN ----------------------------------------------------------------------------------------------------------


def test_wrong_pins_are_sent_once_each_and_the_flags_say_how_far_it_is(card: Plugged, module: Module) -> None:
    seen = []
    for expected in (PinIncorrect, PinIncorrect, PinLocked):
        with pytest.raises(expected):
            login(card, module, WRONG_PIN)
        seen.append(flags(card, module))
    first = TokenFlag(0) if card.way is OPENSC else LOW  # OpenSC has no flag for "one of three attempts used"
    second = FINAL if card.way is OPENSC else LOW | FINAL
    assert [seen[0], seen[1] & (second | LOW), seen[2] & LOCKED] == [first, seen[1], LOCKED]
    assert card.sent(VERIFY) == [0x63C2, 0x63C1, 0x6983]


def test_the_last_try_is_not_spent_without_consent(card: Plugged, module: Module, tmp_path: Path) -> None:
    to = link(card, module, tmp_path)
    for _ in range(2):
        with pytest.raises(PinIncorrect):
            verify_pin(to, Scripted(WRONG_PIN))
    card.forget()
    with pytest.raises(LastTryNotConfirmed):
        verify_pin(to, Scripted(PIN, consents=[False]))
    assert card.sent(VERIFY) == []
    assert not verify_pin(to, Scripted(PIN, consents=[True])).locked
    assert card.card.memory.secrets["pin"].left == 3


def test_a_locked_card_is_locked_wherever_it_is_put_in_again(card: Plugged, module: Module, tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises((PinIncorrect, PinLocked)):
            login(card, module, WRONG_PIN)
    card.pull_out(module)
    assert card.card.memory.path is not None
    card.card.memory = Memory.load(card.card.memory.path)
    card.put_back(module)
    with pytest.raises(PinLocked):
        login(card, module)
    if card.way is OPENSC:  # no flag is set until an attempt was made; ykcs11 reads the count at enumeration
        card.forget()
    with pytest.raises(PinLocked):
        verify_pin(link(card, module, tmp_path), Scripted())
    assert 0x9000 not in card.sent(VERIFY)


def test_the_owner_changes_the_pin(card: Plugged, module: Module, tmp_path: Path) -> None:
    change_pin(link(card, module, tmp_path), Scripted(PIN, NEW_PIN))
    assert card.sent(CHANGE_REFERENCE_DATA) == [0x9000]
    with pytest.raises(PinIncorrect):
        login(card, module, PIN)
    login(card, module, NEW_PIN)


@ONLY_OPENSC
def test_the_puk_unblocks_where_opensc_is_told_to_take_it(card: Plugged, tmp_path: Path) -> None:
    conf = tmp_path / "opensc.conf"
    conf.write_text("app opensc-pkcs11 { pkcs11 { user_pin_unblock_style = set_pin_in_unlogged_session; } }\n")
    module = card.module(OPENSC_CONF=str(conf))
    for _ in range(3):
        with pytest.raises((PinIncorrect, PinLocked)):
            login(card, module, WRONG_PIN)
    to = link(card, module, tmp_path, unblock=Unblock.SET_PIN_UNLOGGED)
    with pytest.raises(PinIncorrect) as caught:
        unblock_pin(to, Scripted("00000000", NEW_PIN))
    assert caught.value.code == "PUK_INCORRECT"
    unblock_pin(to, Scripted(PUK, NEW_PIN))
    assert card.sent(RESET_RETRY_COUNTER) == [0x63C2, 0x9000]
    login(card, module, NEW_PIN)


@ONLY_OPENSC
def test_opensc_that_takes_the_puk_changes_the_pin_all_the_same(card: Plugged, tmp_path: Path) -> None:
    conf = tmp_path / "opensc.conf"
    conf.write_text("app opensc-pkcs11 { pkcs11 { user_pin_unblock_style = set_pin_in_unlogged_session; } }\n")
    to = link(card, card.module(OPENSC_CONF=str(conf)), tmp_path, unblock=Unblock.SET_PIN_UNLOGGED)
    change_pin(to, Scripted(PIN, NEW_PIN))
    assert card.sent(RESET_RETRY_COUNTER) == []  # the PIN was not used as the PUK
    assert isinstance(to.module, Module)
    login(card, to.module, NEW_PIN)


@ONLY_YKCS11
def test_ykcs11_does_not_unblock_and_no_try_is_spent_on_asking(card: Plugged, module: Module, tmp_path: Path) -> None:
    to = link(card, module, tmp_path)
    card.forget()
    with pytest.raises(PinError) as caught:
        unblock_pin(to, Scripted())
    assert caught.value.code == "PIN_UNBLOCK_UNAVAILABLE"
    assert not card.card.history


# -- management key ---------------------------------------------------------------------------------------------------


@ONLY_YKCS11
@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.EC_P384])
def test_the_so_makes_a_key_and_the_owner_signs_with_it(card: Plugged, module: Module, kind: KeyKind) -> None:
    so = module.login(card.info(module).slot_id, User.SO, SO_PIN)
    made = module.generate(so, kind, 0, KEY_IDS[Slot.AUTHENTICATION], "", always_authenticate=False)
    module.logout(so)
    raw = module.sign(login(card, module), call_of(key(card, module, Slot.AUTHENTICATION)))
    verify(kind, made.point, raw)
    assert made.point != public(Slot.AUTHENTICATION)


@ONLY_YKCS11
def test_a_certificate_that_the_so_wrote_is_what_everybody_reads(card: Plugged, module: Module) -> None:
    private = private_keys()[Slot.AUTHENTICATION]
    made = Authority().issue(person("李四"), private.public_key())
    der = made.public_bytes(Encoding.DER)
    so = module.login(card.info(module).slot_id, User.SO, SO_PIN)
    names = {"subject": made.subject.public_bytes(), "issuer": made.issuer.public_bytes()}
    serial = b"\x02" + bytes((20,)) + made.serial_number.to_bytes(20)
    module.write_certificate(so, der, key_id=KEY_IDS[Slot.AUTHENTICATION], label="", serial=serial, **names)
    module.logout(so)
    for reader in (module, card.module()):
        found = {one.key_id: one.der for one in reader.certificates(card.info(reader).slot_id)}
        assert found[KEY_IDS[Slot.AUTHENTICATION]] == der


@ONLY_YKCS11
def test_a_wrong_management_key_is_a_wrong_so_pin(card: Plugged, module: Module) -> None:
    with pytest.raises(PinIncorrect):
        module.login(card.info(module).slot_id, User.SO, "00" * 24)
    module.login(card.info(module).slot_id, User.SO, SO_PIN)


@ONLY_YKCS11
def test_opensc_reads_and_signs_with_a_yubikey_too(card: Plugged) -> None:
    spec = OPENSC.driver.module
    module = Module(OPENSC.path, spec.isolation, spec.options, spec.deadline_s, card.desk.env)
    try:
        slot = next(slot.slot_id for slot in module.slots() if slot.token)
        stands = module.login(slot, User.USER, PIN)
        private = next(one for one in module.keys(slot) if one.private and one.key_id == b"\x01")
        verify(KeyKind.EC_P256, public(Slot.AUTHENTICATION), module.sign(stands, call_of(private)))
    finally:
        module.close()


# -- removal, and use by other programs -------------------------------------------------------------------------------


def test_a_card_that_is_pulled_out_is_seen_to_be_gone_and_back(card: Plugged, module: Module) -> None:
    stands = login(card, module)
    card.pull_out(module)
    assert not module.logged_in(stands)
    card.put_back(module)
    again = login(card, module)
    raw = module.sign(again, call_of(key(card, module, Slot.AUTHENTICATION)))
    verify(KeyKind.EC_P256, public(Slot.AUTHENTICATION), raw)


def test_a_card_that_nobody_is_logged_in_to_is_seen_to_be_gone_and_back(card: Plugged, module: Module) -> None:
    card.pull_out(module)
    with pytest.raises(TokenError):
        module.certificates(0)
    card.put_back(module)
    assert len(module.certificates(card.info(module).slot_id)) == 4


@ONLY_YKCS11
def test_a_login_that_the_module_dropped_after_another_programs_reset_is_made_again(
    card: Plugged, module: Module
) -> None:
    stands = login(card, module)
    other = card.module()
    login(card, other)
    other.close()  # resets the card; enumerating the slots then ends this process's login
    module.slots()
    assert not module.logged_in(stands)
    stands = login(card, module)
    module.sign(stands, call_of(key(card, module, Slot.AUTHENTICATION)))


@ONLY_OPENSC
def test_a_card_that_was_changed_unnoticed_signs_nothing_and_no_pin_is_sent(card: Plugged, module: Module) -> None:
    stands, signed = swapped(card, module)
    with pytest.raises(TokenRemoved):
        module.sign(stands, signed)
    assert not module.logged_in(stands)
    assert card.sent(VERIFY) == []


@ONLY_YKCS11
def test_a_key_that_was_changed_unnoticed_loses_one_try_to_ykcs11_and_no_more(card: Plugged, module: Module) -> None:
    stands, signed = swapped(card, module)
    for _ in range(3):
        with pytest.raises(TokenError):
            module.sign(stands, signed)
    assert card.sent(VERIFY) == [0x63C2]  # the module caches the PIN and sends it to the card that is now inserted
    assert 0x9000 not in card.sent(GENERAL_AUTHENTICATE)


# -- touch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [OPENSC, YKCS11], ids=["opensc", "ykcs11"])
def test_a_touch_that_does_not_come_is_an_error_and_the_next_one_signs(way: Way) -> None:
    memory, panel = certified(), Panel()
    memory.notes["touch 9A"] = "always"
    with plugged(way, memory, panel) as card:
        module = card.module()
        stands = login(card, module)
        private = key(card, module, Slot.AUTHENTICATION)
        panel.answer(Answer.TIMED_OUT)
        with pytest.raises(TokenError) as caught:
            module.sign(stands, call_of(private))
        expected = "CKR_FUNCTION_FAILED" if way is OPENSC else "CKR_USER_NOT_LOGGED_IN"
        assert caught.value.ckr == expected
        panel.answer(Answer.OK)
        stands = stands if module.logged_in(stands) else login(card, module)
        module.sign(stands, call_of(key(card, module, Slot.AUTHENTICATION)))
