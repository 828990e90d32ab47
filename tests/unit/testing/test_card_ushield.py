"""The virtual U-shield's card, command by command; no pcscd."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.order.samples import make_login, make_payment
from ushield_hw.order import Order, message_format
from ushield_hw.testing.card.apdu import tlv
from ushield_hw.testing.card.panel import Answer, Panel
from ushield_hw.testing.card.schsm import AID, blank
from ushield_hw.testing.card.ushield import ATR, Model, Outcome, UShieldCard
from ushield_hw.testing.shield import _certify

pytestmark = pytest.mark.unit

PIN, SO_PIN = "123456", "3537363231383830"
PLAIN_HASH, SHA256 = 0x70, 0x73
ORDER = Order.parse(json.dumps(make_payment()).encode())


@dataclass
class Card:
    """A card with a payment key, and a host that sends commands to it."""

    card: UShieldCard

    def send(self, cla: int, ins: int, p1: int, p2: int, data: bytes = b"", le: int = 0) -> tuple[int, bytes]:
        body = b"\0" + len(data).to_bytes(2, "big") + data + le.to_bytes(2, "big") if data else bytes((le & 0xFF,))
        answer = self.card.transmit(bytes((cla, ins, p1, p2)) + body)
        return int.from_bytes(answer[-2:], "big"), answer[:-2]

    def verify(self, pin: str = PIN) -> int:
        return self.send(0, 0x20, 0, 0x81, pin.encode())[0]

    def sign(self, data: bytes, algorithm: int = SHA256, key: int = 1) -> int:
        return self.send(0x80, 0x68, key, algorithm, data)[0]

    def signature(self, data: bytes) -> bytes:
        status, answer = self.send(0x80, 0x68, 1, SHA256, data)
        assert status == 0x9000
        return answer

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        found = load_der_private_key(self.card.memory.keys[1], None)
        assert isinstance(found, ec.EllipticCurvePrivateKey)
        return found


def make(model: Model = Model.DISPLAY, *, each: bool = True, answer: Answer | None = Answer.OK) -> Card:
    memory = blank("US0000001", PIN, SO_PIN, tries=3)
    _certify(memory, "张三", each=each)
    card = UShieldCard(memory, Panel(), model)
    card.panel.answer(answer)
    return Card(card)


def request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a CertificationRequestInfo."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "张三")])
    return (
        x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256()).tbs_certrequest_bytes
    )


def test_the_answer_to_reset_is_well_formed() -> None:
    check = 0
    for octet in ATR[1:]:
        check ^= octet
    assert check == 0
    assert ATR[1] & 0x0F == len(b"USHIELD2")


def test_it_signs_the_message_that_its_owner_agreed_to() -> None:
    card = make()
    shown: list[list[str]] = []
    card.card.panel.watch(lambda: shown.append(card.card.panel.screen()))
    assert card.verify() == 0x9000
    signature = card.signature(ORDER.canonical)
    card.key.public_key().verify(signature, ORDER.canonical, ec.ECDSA(hashes.SHA256()))
    assert shown[0][1::2][:3] == ["杭州某某网络有限公司", "1202021409900012345", "CNY 128.50"]
    assert (card.card.signatures, card.card.outcome, card.card.panel.asked) == (1, Outcome.SIGNED, 1)


@pytest.mark.parametrize(
    "content",
    [
        ORDER.canonical,
        message_format("xml-tdm").encode(ORDER, "zh"),
        message_format("xml-tdm").encode(ORDER, "en"),
        Order.parse(json.dumps(make_login()).encode()).canonical,
    ],
    ids=["jcs", "xml zh", "xml en", "login"],
)
def test_it_reads_every_message_format(content: bytes) -> None:
    card = make()
    card.verify()
    assert card.sign(content) == 0x9000


@pytest.mark.parametrize(
    ("content", "algorithm"),
    [
        (bytes(32), PLAIN_HASH),  # a digest of unknown content
        (ORDER.canonical[:32], PLAIN_HASH),
        (bytes(32), SHA256),
        (b"", SHA256),
        (json.dumps(make_payment()).encode(), SHA256),  # not canonical
        (ORDER.canonical + b" ", SHA256),
        (ORDER.canonical.replace(b"128.50", b"128.5"), SHA256),
        (message_format("xml-tdm").encode(ORDER, "zh")[:-1], SHA256),
        (request(ec.generate_private_key(ec.SECP256R1())), SHA256),  # for another key
        (ORDER.canonical, 0x71),  # with SHA-1
        (ORDER.canonical, 0x72),  # with SHA-224
    ],
    ids=["digest", "half", "zeros", "nothing", "spaces", "tail", "amount", "cut off", "other key", "sha-1", "sha-224"],
)
def test_it_signs_nothing_that_it_cannot_show(content: bytes, algorithm: int) -> None:
    card = make()
    card.verify()
    assert card.sign(content, algorithm) == (0x6A80 if algorithm == SHA256 else 0x6A81)
    assert (card.card.signatures, card.card.panel.asked) == (0, 0)


def test_it_shows_a_certificate_request_for_its_own_key() -> None:
    card = make()
    shown: list[list[str]] = []
    card.card.panel.watch(lambda: shown.append(card.card.panel.screen()))
    card.verify()
    assert card.sign(request(card.key)) == 0x9000
    assert shown[0] == ["申请证书", "CN=张三"]


@pytest.mark.parametrize(
    ("answer", "status", "outcome"),
    [
        (Answer.REFUSED, 0x6985, Outcome.REJECTED),
        (Answer.TIMED_OUT, 0x6401, Outcome.TIMED_OUT),
        (Answer.PULLED_OUT, 0x6400, Outcome.PULLED_OUT),
    ],
)
@pytest.mark.parametrize("model", [Model.DISPLAY, Model.BUTTON])
def test_without_ok_nothing_is_signed(model: Model, answer: Answer, status: int, outcome: Outcome) -> None:
    card = make(model, answer=answer)
    card.verify()
    assert card.sign(ORDER.canonical) == status
    assert (card.card.signatures, card.card.outcome) == (0, outcome)


def test_its_owner_is_asked_once_an_order_however_often_the_host_asks() -> None:
    card = make(answer=Answer.REFUSED)
    card.verify()
    assert [card.sign(ORDER.canonical) for _ in range(3)] == [0x6985] * 3
    assert card.card.panel.asked == 1
    card.verify()  # the PIN was verified again: a new prompt is allowed
    card.sign(ORDER.canonical)
    assert card.card.panel.asked == 2


@pytest.mark.parametrize("model", list(Model))
def test_the_pin_is_good_for_one_signature(model: Model) -> None:
    card = make(model)
    card.verify()
    assert [card.sign(ORDER.canonical), card.sign(ORDER.canonical)] == [0x9000, 0x6982]
    assert card.card.outcome is Outcome.NO_PIN
    assert card.card.signatures == 1


def test_a_display_wants_the_pin_each_time_whatever_the_host_has_written() -> None:
    card = make(each=False)
    card.verify()
    assert [card.sign(ORDER.canonical), card.sign(ORDER.canonical)] == [0x9000, 0x6982]


def test_a_token_without_buttons_does_as_the_key_says() -> None:
    card = make(Model.NONE, each=False)
    card.verify()
    assert [card.sign(bytes(32), PLAIN_HASH) for _ in range(3)] == [0x9000] * 3
    assert card.card.panel.asked == 0


def test_a_button_alone_shows_nothing() -> None:
    card = make(Model.BUTTON, each=False)
    shown: list[list[str]] = []
    card.card.panel.watch(lambda: shown.append(card.card.panel.screen()))
    card.verify()
    assert card.sign(bytes(32), PLAIN_HASH) == 0x9000
    assert shown == [[]] * len(shown)
    assert card.card.panel.asked == 1


def test_without_a_pin_nothing_is_signed() -> None:
    card = make()
    assert card.sign(ORDER.canonical) == 0x6982
    card.verify("000000")
    assert card.sign(ORDER.canonical) == 0x6982
    card.verify()
    card.card.reset()
    assert card.sign(ORDER.canonical) == 0x6982
    assert card.card.panel.asked == 0


def test_the_pin_locks_and_stays_locked_until_the_so_sets_a_new_one() -> None:
    card = make()
    assert [card.verify("000000") for _ in range(4)] == [0x63C2, 0x63C1, 0x6983, 0x6983]
    assert card.verify() == 0x6983
    again = Card(UShieldCard(card.card.memory, Panel()))  # removed and inserted
    assert again.verify() == 0x6983
    unblock = bytes.fromhex(SO_PIN) + b"654321"
    assert again.send(0, 0x2C, 0, 0x81, bytes(8) + b"654321")[0] == 0x63CE
    assert again.send(0, 0x2C, 0, 0x81, unblock)[0] == 0x9000
    assert [again.verify(), again.verify("654321")] == [0x63C2, 0x9000]


def test_asking_for_the_tries_left_spends_none() -> None:
    card = make()
    card.verify("000000")
    assert [card.send(0, 0x20, 0, 0x81)[0] for _ in range(3)] == [0x63C2] * 3
    card.verify()
    assert card.send(0, 0x20, 0, 0x81)[0] == 0x9000


def test_the_test_command_tells_the_last_outcome_and_the_count() -> None:
    card = make()
    assert card.send(0x80, 0xF0, 0, 0)[1] == tlv(0x80, bytes(4)) + tlv(0x81, b"never")
    card.verify()
    card.sign(ORDER.canonical)
    assert card.send(0x80, 0xF0, 0, 0)[1] == tlv(0x80, bytes((0, 0, 0, 1))) + tlv(0x81, b"signed")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("", 0x6700),
        ("00A404", 0x6700),
        ("00A40400", 0x6A82),
        ("00A4040003010203", 0x6A82),
        ("00A404000B0102", 0x6700),  # shorter than its length field
        ("00FF0000", 0x6D00),
        ("00C00000", 0x6985),  # no response data
        ("00200085", 0x6A88),
        ("00D7CE010553035A5A5A", 0x6982),  # write without a PIN
        ("00E40200 02CE01".replace(" ", ""), 0x6982),
        ("0046010000", 0x6982),
        ("00B1CE770454020000", 0x6A82),
        ("80680970 0100".replace(" ", ""), 0x6A82),  # no such key
        ("00D7CE0103530F5A", 0x6982),
    ],
)
def test_wrong_commands_get_the_status_word_that_says_why(command: str, status: int) -> None:
    answer = make().card.transmit(bytes.fromhex(command))
    assert answer.hex() == f"{status:04x}"


def test_the_application_is_selected_by_its_name() -> None:
    status, answer = make().send(0, 0xA4, 4, 0, AID)
    assert (status, AID in answer) == (0x9000, True)


WELL_KNOWN = st.sampled_from(
    [
        bytes.fromhex(head)
        for head in ("00a4", "00b1", "00d7", "00e4", "0020", "0024", "002c", "0046", "8050", "8062", "8068")
    ]
)


@given(
    commands=st.lists(st.one_of(st.binary(max_size=40), st.builds(bytes.__add__, WELL_KNOWN, st.binary(max_size=40))))
)
@settings(max_examples=200, deadline=None)
def test_whatever_comes_the_card_answers(commands: list[bytes]) -> None:
    card = Card(UShieldCard(blank("US0000001", PIN, SO_PIN, tries=3), Panel(timeout_s=0)))
    card.verify()
    for command in commands:
        answer = card.card.transmit(command)
        assert len(answer) >= 2
        assert answer[-2] >> 4 in {6, 9}
