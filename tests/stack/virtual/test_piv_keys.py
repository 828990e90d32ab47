"""Key operations of a PIV card, command by command, and YubiKey extensions. No pcscd, no module."""

from __future__ import annotations

import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm

from tests.contract.checks import digest_of
from tests.stack.virtual.piv_terminal import (
    AID,
    DIGEST,
    EACH_CARD,
    OK,
    P256,
    P384,
    PIN,
    PUK,
    RSA,
    SERIAL,
    Terminal,
    key,
    memory,
    triple_des,
)
from ushield_hw.crypto.algorithms import DIGEST_INFO_PREFIX
from ushield_hw.testing.card.apdu import tlv, tlvs
from ushield_hw.testing.card.panel import Answer, Panel
from ushield_hw.testing.card.piv import PivCard, Slot, YubiKey, blank, hold

pytestmark = pytest.mark.unit


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(PivCard(memory()))


@pytest.fixture
def yubikey() -> Terminal:
    return Terminal(YubiKey(memory()))


# -- private keys -----------------------------------------------------------------------------------------------------


def check_ec(slot: Slot, signature: bytes, digest: bytes = DIGEST, algorithm: HashAlgorithm | None = None) -> None:
    private = key(slot)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    private.public_key().verify(signature, digest, ec.ECDSA(Prehashed(algorithm or SHA256())))


def padded_for_rsa() -> bytes:
    info = DIGEST_INFO_PREFIX["sha256"] + DIGEST
    return b"\x00\x01" + b"\xff" * (256 - 3 - len(info)) + b"\x00" + info


def test_the_keys_for_the_owner_want_the_pin(terminal: Terminal) -> None:
    assert terminal.sign(Slot.AUTHENTICATION) == 0x6982
    assert terminal.sign(Slot.KEY_MANAGEMENT, P384) == 0x6982
    assert terminal.sign(Slot.SIGNATURE) == 0x6982


def test_an_ec_key_signs_a_digest_as_often_as_asked(terminal: Terminal) -> None:
    terminal.verify(PIN)
    for _ in range(2):
        assert terminal.sign(Slot.AUTHENTICATION) == OK
        check_ec(Slot.AUTHENTICATION, terminal.signature())


@pytest.mark.parametrize(("name", "algorithm"), [("sha256", SHA256()), ("sha384", SHA384())])
def test_p384_signs_digests_as_long_as_its_order_and_shorter_ones(
    terminal: Terminal, name: str, algorithm: HashAlgorithm
) -> None:
    terminal.verify(PIN)
    digest = digest_of(b"CNY 128.50", name)
    assert terminal.sign(Slot.KEY_MANAGEMENT, P384, digest) == OK
    check_ec(Slot.KEY_MANAGEMENT, terminal.signature(), digest, algorithm)


def test_a_longer_digest_loses_its_right_end(terminal: Terminal) -> None:
    terminal.verify(PIN)
    digest = digest_of(b"CNY 128.50", "sha384")
    assert terminal.sign(Slot.AUTHENTICATION, P256, digest) == OK
    check_ec(Slot.AUTHENTICATION, terminal.signature(), digest, SHA384())


def test_a_block_that_the_host_padded_becomes_an_rsa_signature(terminal: Terminal) -> None:
    assert terminal.sign(Slot.CARD_AUTHENTICATION, RSA, padded_for_rsa()) == OK
    private = key(Slot.CARD_AUTHENTICATION)
    assert isinstance(private, rsa.RSAPrivateKey)
    private.public_key().verify(terminal.signature(), b"CNY 128.50", padding.PKCS1v15(), SHA256())


@pytest.mark.parametrize("block", [bytes(255), bytes(257), b"\xff" * 256])
def test_an_rsa_block_of_another_size_or_above_the_modulus_is_refused(terminal: Terminal, block: bytes) -> None:
    assert terminal.sign(Slot.CARD_AUTHENTICATION, RSA, block) == 0x6A80


def test_the_signature_key_is_used_once_for_each_pin(terminal: Terminal) -> None:
    terminal.verify(PIN)
    assert terminal.get(0x7E) == OK  # other commands may come in between
    assert terminal.sign(Slot.SIGNATURE) == OK
    check_ec(Slot.SIGNATURE, terminal.signature())
    assert terminal.sign(Slot.SIGNATURE) == 0x6982
    assert terminal.sign(Slot.AUTHENTICATION) == OK
    terminal.verify(PIN)
    assert terminal.sign(Slot.AUTHENTICATION) == OK
    assert terminal.sign(Slot.SIGNATURE) == 0x6982


def test_another_algorithm_than_the_keys_is_refused(terminal: Terminal) -> None:
    terminal.verify(PIN)
    assert terminal.sign(Slot.AUTHENTICATION, RSA, padded_for_rsa()) == 0x6A86


@pytest.mark.parametrize("slot", [0x82, 0x9F, 0x00])
def test_a_slot_without_a_key_is_not_found(terminal: Terminal, slot: int) -> None:
    terminal.verify(PIN)
    assert terminal.sign(slot) == 0x6A88


@pytest.mark.parametrize("template", [b"", tlv(0x7C), tlv(0x7C, tlv(0x81, DIGEST)), tlv(0x7C, tlv(0x82)), b"\x7c\x05"])
def test_a_template_without_question_or_challenge_is_refused(terminal: Terminal, template: bytes) -> None:
    terminal.verify(PIN)
    assert terminal.send(0x87, 0x119A, template) == 0x6A80


def test_two_keys_agree_on_a_secret(terminal: Terminal) -> None:
    mine, theirs = ec.generate_private_key(ec.SECP384R1()), key(Slot.KEY_MANAGEMENT)
    assert isinstance(theirs, ec.EllipticCurvePrivateKey)
    numbers = mine.public_key().public_numbers()
    point = b"\x04" + numbers.x.to_bytes(48) + numbers.y.to_bytes(48)
    terminal.verify(PIN)
    assert terminal.send(0x87, 0x149D, tlv(0x7C, tlv(0x82), tlv(0x85, point))) == OK
    assert terminal.signature() == mine.exchange(ec.ECDH(), theirs.public_key())
    assert terminal.send(0x87, 0x149D, tlv(0x7C, tlv(0x82), tlv(0x85, point[:-1] + b"\0"))) == 0x6A80


@EACH_CARD
def test_a_reset_forgets_pin_manager_and_application(kind: type[PivCard]) -> None:
    terminal = Terminal(kind(memory()))
    terminal.verify(PIN)
    terminal.manage()
    terminal.card.reset()
    assert terminal.sign(Slot.AUTHENTICATION) == 0x6D00
    terminal.send(0xA4, 0x0400, AID)
    assert terminal.sign(Slot.AUTHENTICATION) == 0x6982
    assert terminal.put(0x5FC109, b"?") == 0x6982


def test_a_key_of_another_kind_cannot_be_held() -> None:
    made = blank(SERIAL, PIN, PUK)
    with pytest.raises(ValueError, match="secp521r1"):
        hold(made, Slot.AUTHENTICATION, ec.generate_private_key(ec.SECP521R1()))


# -- management key ---------------------------------------------------------------------------------------------------


def test_another_management_key_lets_nobody_in(terminal: Terminal) -> None:
    assert terminal.manage(bytes(range(1, 25))) == 0x6982
    assert terminal.generate(Slot.AUTHENTICATION, P256) == 0x6982


def test_a_wrong_proof_puts_the_manager_out(terminal: Terminal) -> None:
    assert terminal.manage() == OK
    assert terminal.manage(bytes(range(1, 25))) == 0x6982
    assert terminal.put(0x5FC109, b"?") == 0x6982


def test_a_witness_is_good_for_one_proof(terminal: Terminal) -> None:
    cipher = triple_des()
    terminal.send(0x87, 0x039B, tlv(0x7C, tlv(0x80)))
    proof = tlv(0x7C, tlv(0x80, cipher.decryptor().update(terminal.data[4:])), tlv(0x81, b"12345678"))
    assert [terminal.send(0x87, 0x039B, proof) for _ in range(2)] == [OK, 0x6982]


def test_a_proof_without_a_question_before_it_is_refused(terminal: Terminal) -> None:
    cipher = triple_des()
    assert terminal.send(0x87, 0x039B, tlv(0x7C, tlv(0x82, cipher.encryptor().update(b"")))) == 0x6982
    assert terminal.send(0x87, 0x039B, tlv(0x7C, tlv(0x80, b""), tlv(0x81, b"12345678"))) == 0x6982


def test_the_manager_may_prove_it_one_way_only(terminal: Terminal) -> None:
    cipher = triple_des()
    terminal.send(0x87, 0x039B, tlv(0x7C, tlv(0x81)))
    response = cipher.encryptor().update(terminal.data[4:])
    assert terminal.send(0x87, 0x039B, tlv(0x7C, tlv(0x82, response))) == OK
    assert terminal.put(0x5FC109, b"?") == OK


def test_a_new_key_signs_for_the_public_key_it_came_with(terminal: Terminal) -> None:
    terminal.manage()
    assert terminal.generate(Slot.AUTHENTICATION, P256) == OK
    ((tag, value),) = tlvs(terminal.data)
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), dict(tlvs(value))[0x86])
    terminal.verify(PIN)
    assert terminal.sign(Slot.AUTHENTICATION) == OK
    public.verify(terminal.signature(), DIGEST, ec.ECDSA(Prehashed(SHA256())))
    assert tag == 0x7F49


def test_a_new_rsa_key_signs_for_the_public_key_it_came_with(terminal: Terminal) -> None:
    terminal.manage()
    assert terminal.generate(Slot.CARD_AUTHENTICATION, RSA) == OK
    ((_, value),) = tlvs(terminal.data)
    modulus, exponent = (int.from_bytes(dict(tlvs(value))[tag]) for tag in (0x81, 0x82))
    assert terminal.sign(Slot.CARD_AUTHENTICATION, RSA, padded_for_rsa()) == OK
    public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    public.verify(terminal.signature(), b"CNY 128.50", padding.PKCS1v15(), SHA256())


@pytest.mark.parametrize(
    ("slot", "algorithm", "sw"), [(0x9A, 0x06, 0x6A80), (0x9A, 0x99, 0x6A80), (0x9B, P256, 0x6A86)]
)
def test_what_this_card_cannot_make_it_refuses_to_make(terminal: Terminal, slot: int, algorithm: int, sw: int) -> None:
    terminal.manage()
    assert terminal.generate(slot, algorithm) == sw


# -- YubiKey extensions -----------------------------------------------------------------------------------------------


def test_a_yubikey_tells_version_and_serial_number(yubikey: Terminal) -> None:
    assert (yubikey.send(0xFD, 0), yubikey.data) == (OK, bytes((5, 4, 3)))
    assert (yubikey.send(0xF8, 0), int.from_bytes(yubikey.data)) == (OK, SERIAL)


def test_a_yubikey_tells_the_count_of_pin_and_puk(yubikey: Terminal) -> None:
    yubikey.verify("000000")
    found = []
    for reference in (0x80, 0x81):
        assert yubikey.send(0xF7, reference) == OK
        found.append(dict(tlvs(yubikey.data))[0x06])
    assert found == [bytes((3, 2)), bytes((3, 3))]


@pytest.mark.parametrize(
    ("slot", "algorithm", "pin"),
    [
        (Slot.AUTHENTICATION, P256, 2),
        (Slot.SIGNATURE, P256, 3),
        (Slot.KEY_MANAGEMENT, P384, 2),
        (Slot.CARD_AUTHENTICATION, RSA, 1),
    ],
)
def test_a_yubikey_tells_what_a_key_is_and_what_it_wants(
    yubikey: Terminal, slot: Slot, algorithm: int, pin: int
) -> None:
    assert yubikey.send(0xF7, slot) == OK
    about = dict(tlvs(yubikey.data))
    assert (about[0x01], about[0x02]) == (bytes((algorithm,)), bytes((pin, 1)))


def test_a_yubikey_says_that_it_has_no_metadata_of_what_is_not_there(yubikey: Terminal) -> None:
    assert yubikey.send(0xF7, 0x82) == 0x6A88


def test_a_yubikey_vouches_for_no_key(yubikey: Terminal) -> None:
    assert yubikey.send(0xF9, 0x9A00) == 0x6A80


def test_a_yubikeys_management_key_is_changed_by_the_manager_only(yubikey: Terminal) -> None:
    fresh = bytes(range(1, 25))
    body = bytes((0x03, 0x9B, 24)) + fresh
    assert yubikey.send(0xFF, 0xFFFF, body) == 0x6982
    yubikey.manage()
    assert yubikey.send(0xFF, 0xFFFF, body[:-1]) == 0x6A80
    assert yubikey.send(0xFF, 0xFFFF, body) == OK
    assert [yubikey.manage(), yubikey.manage(fresh)] == [0x6982, OK]


@pytest.mark.parametrize("ins", [0xFD, 0xF8, 0xF7, 0xF9, 0xFF])
def test_other_cards_know_nothing_of_that(terminal: Terminal, ins: int) -> None:
    assert terminal.send(ins, 0) == 0x6D00


# -- touch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "refused"), [(PivCard, 0x6985), (YubiKey, 0x6982)])
@pytest.mark.parametrize("answer", [Answer.REFUSED, Answer.TIMED_OUT])
def test_a_key_that_wants_a_touch_signs_with_it_and_not_without(
    kind: type[PivCard], refused: int, answer: Answer
) -> None:
    panel = Panel()
    terminal = Terminal(kind(memory(touch=True), panel))
    terminal.verify(PIN)
    panel.answer(Answer.OK)
    assert terminal.sign(Slot.AUTHENTICATION) == OK
    panel.answer(answer)
    assert terminal.sign(Slot.AUTHENTICATION) == refused


def test_nobody_is_asked_to_touch_before_the_pin_is_known() -> None:
    panel = Panel()
    assert Terminal(PivCard(memory(touch=True), panel)).sign(Slot.AUTHENTICATION) == 0x6982
    assert panel.asked == 0


def test_pulling_the_card_out_ends_the_wait_for_a_touch() -> None:
    panel, waiting = Panel(), threading.Event()
    terminal = Terminal(PivCard(memory(touch=True), panel))
    terminal.verify(PIN)
    panel.watch(waiting.set)
    signing = threading.Thread(target=terminal.sign, args=[Slot.AUTHENTICATION])
    signing.start()
    assert waiting.wait(10)
    terminal.card.pulled_out()
    signing.join(10)
    assert not signing.is_alive()
    assert terminal.data == b""


def test_a_yubikey_makes_a_key_that_wants_a_touch_when_asked_to(yubikey: Terminal) -> None:
    yubikey.manage()
    assert yubikey.send(0x47, 0x9A, tlv(0xAC, tlv(0x80, bytes((P256,))), tlv(0xAB, b"\x02"))) == OK
    yubikey.send(0xF7, 0x9A)
    assert dict(tlvs(yubikey.data))[0x02] == bytes((2, 2))
    assert yubikey.generate(0x9A, P256) == OK
    yubikey.send(0xF7, 0x9A)
    assert dict(tlvs(yubikey.data))[0x02] == bytes((2, 1))


# -- recorded history -------------------------------------------------------------------------------------------------


def test_the_history_holds_no_pin(terminal: Terminal) -> None:
    terminal.card.history.clear()
    terminal.verify("000000")
    terminal.sign(Slot.AUTHENTICATION)
    assert list(terminal.card.history) == [(0x20, 8, 0x63C2), (0x87, 38, 0x6982)]
