"""The SmartCard-HSM behind virtual tokens, command by command; no pcscd."""

from __future__ import annotations

from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ushield_hw.testing.card.apdu import tlv
from ushield_hw.testing.card.panel import Answer, Panel
from ushield_hw.testing.card.schsm import AID, SmartCardHsm, blank
from ushield_hw.testing.card.ushield import Model, Outcome, UShieldCard

pytestmark = pytest.mark.unit

PIN, SO_PIN, NEW_PIN = "123456", "3537363231383830", "654321"
RSA, EC, OTHER = 1, 2, 3
RSA_KEY: Final = rsa.generate_private_key(65537, 2048)
EC_KEY: Final = ec.generate_private_key(ec.SECP384R1())
MESSAGE: Final = "收款人 128.50".encode()
HASHES: Final = {
    1: hashes.SHA1(),  # noqa: S303 - a card has it
    2: hashes.SHA224(),
    3: hashes.SHA256(),
    4: hashes.SHA384(),
    5: hashes.SHA512(),
}


class Host:
    """Sends commands to a card."""

    def __init__(self, card: SmartCardHsm) -> None:
        self.card = card

    def send(self, cla: int, ins: int, p1: int, p2: int, data: bytes = b"") -> tuple[int, bytes]:
        body = b"\0" + len(data).to_bytes(2, "big") + data + b"\0\0" if data else b"\0"
        answer = self.card.transmit(bytes((cla, ins, p1, p2)) + body)
        return int.from_bytes(answer[-2:], "big"), answer[:-2]

    def verify(self, pin: str = PIN) -> int:
        return self.send(0, 0x20, 0, 0x81, pin.encode())[0]

    def logged_in(self) -> bool:
        return self.send(0, 0x20, 0, 0x81)[0] == 0x9000

    def sign(self, key: int, algorithm: int, data: bytes) -> tuple[int, bytes]:
        return self.send(0x80, 0x68, key, algorithm, data)

    def decipher(self, key: int, algorithm: int, data: bytes) -> tuple[int, bytes]:
        return self.send(0x80, 0x62, key, algorithm, data)

    def initialize(self, code: str = SO_PIN, pin: str = NEW_PIN, tries: int = 5) -> int:
        data = (
            tlv(0x80, b"\0\1") + tlv(0x81, pin.encode()) + tlv(0x82, bytes.fromhex(code)) + tlv(0x91, bytes((tries,)))
        )
        return self.send(0x80, 0x50, 0, 0, data)[0]


def pkcs8(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def keyed(card: SmartCardHsm) -> Host:
    card.memory.keys.update({RSA: pkcs8(RSA_KEY), EC: pkcs8(EC_KEY)})
    return Host(card)


@pytest.fixture
def host() -> Host:
    return keyed(SmartCardHsm(blank("HSM0000001", PIN, SO_PIN, tries=3)))


def shield(model: Model) -> Host:
    panel = Panel()
    panel.answer(Answer.OK)
    return keyed(UShieldCard(blank("US0000001", PIN, SO_PIN, tries=3), panel, model))


def digest(hashing: hashes.HashAlgorithm) -> bytes:
    made = hashes.Hash(hashing)
    made.update(MESSAGE)
    return made.finalize()


def point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


# --- signing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", HASHES)
def test_it_hashes_and_signs_a_message_with_ecdsa(host: Host, number: int) -> None:
    host.verify()
    status, signature = host.sign(EC, 0x70 | number, MESSAGE)
    assert status == 0x9000
    EC_KEY.public_key().verify(signature, MESSAGE, ec.ECDSA(HASHES[number]))


@pytest.mark.parametrize("number", HASHES)
def test_it_signs_a_digest_with_ecdsa(host: Host, number: int) -> None:
    host.verify()
    status, signature = host.sign(EC, 0x70, digest(HASHES[number]))
    assert status == 0x9000
    EC_KEY.public_key().verify(signature, MESSAGE, ec.ECDSA(HASHES[number]))


@pytest.mark.parametrize("number", [1, 3, 4, 5])
def test_it_hashes_and_signs_a_message_with_rsa(host: Host, number: int) -> None:
    host.verify()
    status, signature = host.sign(RSA, 0x30 | number, MESSAGE)
    assert status == 0x9000
    RSA_KEY.public_key().verify(signature, MESSAGE, padding.PKCS1v15(), HASHES[number])
    status, signature = host.sign(RSA, 0x40 | number, MESSAGE)
    assert status == 0x9000
    pss = padding.PSS(padding.MGF1(HASHES[number]), HASHES[number].digest_size)
    RSA_KEY.public_key().verify(signature, MESSAGE, pss, HASHES[number])


def test_it_pads_a_digest_info_and_signs_a_digest_with_pss(host: Host) -> None:
    host.verify()
    sha256 = digest(hashes.SHA256())
    info = bytes.fromhex("3031300d060960864801650304020105000420") + sha256
    status, signature = host.sign(RSA, 0x30, info)
    assert status == 0x9000
    RSA_KEY.public_key().verify(signature, MESSAGE, padding.PKCS1v15(), hashes.SHA256())
    status, signature = host.sign(RSA, 0x40, sha256)
    assert status == 0x9000
    pss, prehashed = padding.PSS(padding.MGF1(hashes.SHA256()), 32), utils.Prehashed(hashes.SHA256())
    RSA_KEY.public_key().verify(signature, sha256, pss, prehashed)


@pytest.mark.parametrize(
    ("key", "algorithm", "data", "status"),
    [
        (EC, 0x76, MESSAGE, 0x6A86),  # no such hash
        (EC, 0x33, MESSAGE, 0x6A86),  # an RSA algorithm
        (EC, 0x80, MESSAGE, 0x6A86),  # ECDH is no signature
        (RSA, 0x73, MESSAGE, 0x6A86),  # an ECDSA algorithm
        (RSA, 0x21, bytes(256), 0x6A86),  # decryption, not a signature
        (RSA, 0x3F, MESSAGE, 0x6A86),
        (EC, 0x70, bytes(33), 0x6A80),  # longer than any digest
        (RSA, 0x20, bytes(255), 0x6A80),
        (RSA, 0x20, b"\xff" * 256, 0x6A80),  # greater than the modulus
        (RSA, 0x30, bytes(246), 0x6A80),  # no room for the padding
        (OTHER, 0x73, MESSAGE, 0x6A82),
    ],
)
def test_it_says_why_it_does_not_sign(host: Host, key: int, algorithm: int, data: bytes, status: int) -> None:
    host.verify()
    assert host.sign(key, algorithm, data) == (status, b"")


# --- deciphering and key agreement ------------------------------------------------------------------------------------


def test_it_deciphers_with_rsa_and_leaves_the_padding_to_the_host(host: Host) -> None:
    host.verify()
    secret = RSA_KEY.public_key().encrypt(MESSAGE, padding.PKCS1v15())
    status, block = host.decipher(RSA, 0x21, secret)
    assert status == 0x9000
    assert (len(block), block[:2], block.endswith(b"\0" + MESSAGE)) == (256, b"\0\2", True)


def test_it_agrees_on_a_key_with_ecdh(host: Host) -> None:
    host.verify()
    other = ec.generate_private_key(ec.SECP384R1())
    status, answer = host.decipher(EC, 0x80, point(other.public_key()))
    assert status == 0x9000
    assert answer == b"\4" + other.exchange(ec.ECDH(), EC_KEY.public_key())


def test_it_says_why_it_does_not_decipher(host: Host) -> None:
    assert host.decipher(EC, 0x80, point(EC_KEY.public_key()))[0] == 0x6982
    assert host.decipher(RSA, 0x21, bytes(256))[0] == 0x6982
    host.verify()
    other_curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert host.decipher(EC, 0x80, point(other_curve))[0] == 0x6A80
    assert host.decipher(EC, 0x80, b"\4" + bytes(96))[0] == 0x6A80  # not on the curve
    assert host.decipher(EC, 0x21, bytes(96))[0] == 0x6A86
    assert host.decipher(RSA, 0x80, bytes(256))[0] == 0x6A86
    assert host.decipher(RSA, 0x21, bytes(255))[0] == 0x6A80
    assert host.decipher(OTHER, 0x21, bytes(256))[0] == 0x6A82


@pytest.mark.parametrize("model", [Model.DISPLAY, Model.BUTTON])
def test_a_token_that_asks_its_user_neither_deciphers_nor_agrees(model: Model) -> None:
    host = shield(model)
    host.verify()
    assert host.decipher(RSA, 0x21, bytes(256)) == (0x6A81, b"")
    assert host.decipher(EC, 0x80, point(EC_KEY.public_key())) == (0x6A81, b"")


def test_a_token_that_asks_nothing_does_both() -> None:
    host = shield(Model.NONE)
    host.verify()
    assert host.decipher(RSA, 0x21, RSA_KEY.public_key().encrypt(MESSAGE, padding.PKCS1v15()))[0] == 0x9000
    assert host.decipher(EC, 0x80, point(EC_KEY.public_key()))[0] == 0x9000


@pytest.mark.parametrize("algorithm", [0x20, 0x30, 0x33, 0x40, 0x43])
def test_a_display_refuses_the_kind_of_key_and_not_the_order(algorithm: int) -> None:
    host = shield(Model.DISPLAY)
    host.verify()
    assert host.sign(RSA, algorithm, bytes(256)) == (0x6A81, b"")
    assert isinstance(host.card, UShieldCard)
    assert (host.card.outcome, host.card.panel.asked) == (Outcome.NOT_SUPPORTED, 0)


# --- logout -----------------------------------------------------------------------------------------------------------


def test_selecting_the_applet_again_logs_out(host: Host) -> None:
    assert host.verify() == 0x9000
    assert host.logged_in()
    assert host.send(0, 0xA4, 4, 0, AID)[0] == 0x9000
    assert not host.logged_in()
    assert host.sign(EC, 0x73, MESSAGE)[0] == 0x6982
    assert host.send(0, 0x20, 0, 0x81)[0] == 0x63C3  # no attempt was used


def test_selecting_a_file_or_another_applet_does_not_log_out(host: Host) -> None:
    host.verify()
    assert host.send(0, 0xA4, 4, 0, b"another")[0] == 0x6A82
    assert host.send(0, 0xA4, 0, 0, b"\x2f\x02")[0] == 0x9000
    assert host.logged_in()


def test_logging_out_takes_the_pin_of_a_signature_with_it() -> None:
    host = shield(Model.BUTTON)
    host.verify()
    host.send(0, 0xA4, 4, 0, AID)
    assert host.sign(EC, 0x73, MESSAGE)[0] == 0x6982
    assert isinstance(host.card, UShieldCard)
    assert (host.card.signatures, host.card.panel.asked) == (0, 0)


# --- initialising -----------------------------------------------------------------------------------------------------


def test_initialising_erases_everything_and_sets_the_pin(host: Host) -> None:
    host.verify()
    host.send(0, 0xD7, 0xCE, 0x01, tlv(0x54, b"\0\0") + tlv(0x53, b"certificate"))
    assert host.initialize() == 0x9000
    assert not host.logged_in()
    assert (host.card.memory.keys, host.card.memory.files) == ({}, {})
    assert [host.verify(), host.verify(NEW_PIN)] == [0x63C4, 0x9000]


def test_a_wrong_initialisation_code_erases_nothing_and_costs_a_try(host: Host) -> None:
    assert host.initialize(code="00" * 8) == 0x6985
    assert host.card.memory.secrets["so"].left == 14
    assert set(host.card.memory.keys) == {RSA, EC}
    assert host.verify() == 0x9000


def test_a_blocked_initialisation_code_stays_blocked(host: Host) -> None:
    host.card.memory.secrets["so"].left = 1
    assert [host.initialize(code="00" * 8), host.initialize()] == [0x6983, 0x6983]
    assert set(host.card.memory.keys) == {RSA, EC}


@pytest.mark.parametrize("wanted", [{"pin": "12345"}, {"pin": "1" * 16}, {"code": "00"}, {"tries": 0}, {"tries": 11}])
def test_an_initialisation_that_cannot_be_costs_no_try(host: Host, wanted: dict[str, str | int]) -> None:
    assert host.initialize(**wanted) == 0x6A80  # type: ignore[arg-type]
    assert (host.card.memory.secrets["so"].left, set(host.card.memory.keys)) == (15, {RSA, EC})


def test_the_label_of_the_initialisation_is_shown_and_the_model_stays() -> None:
    host = shield(Model.NONE)
    host.initialize()
    host.verify(NEW_PIN)
    info = tlv(0x30, tlv(0x02, b"\1"), tlv(0x80, "工资卡".encode()), tlv(0x03, b"\4\x30"))
    assert host.send(0, 0xD7, 0x2F, 0x03, tlv(0x54, b"\0\0") + tlv(0x53, info))[0] == 0x9000
    shown = host.send(0, 0xB1, 0x2F, 0x03, tlv(0x54, b"\0\0"))[1]
    assert "工资卡".encode() in shown
    assert b"ushield_hw none" in shown
