"""A PIV card's responses to single commands, as specified by NIST SP 800-73-4 part 2. No pcscd, no module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stack.virtual.piv_terminal import (
    AID,
    EACH_CARD,
    OK,
    PIN,
    PUK,
    SERIAL,
    Terminal,
    memory,
)
from ushield_hw.testing.card.apdu import tlv, tlvs
from ushield_hw.testing.card.memory import Memory
from ushield_hw.testing.card.piv import PivCard, Slot, YubiKey

pytestmark = pytest.mark.unit


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(PivCard(memory()))


@pytest.fixture
def yubikey() -> Terminal:
    return Terminal(YubiKey(memory()))


# -- application selection --------------------------------------------------------------------------------------------


@EACH_CARD
def test_nothing_is_answered_before_the_application_is_selected(kind: type[PivCard]) -> None:
    card = kind(memory())
    assert card.transmit(bytes.fromhex("00CB3FFF035C017E00")).hex() == "6d00"
    assert card.transmit(bytes.fromhex("0020008000")).hex() == "6d00"


@pytest.mark.parametrize(("name", "sw"), [(AID, OK), (AID[:9], OK), (AID[:5], OK), (AID[:4], 0x6A82)])
def test_the_application_is_selected_by_its_name_or_the_beginning_of_it(name: bytes, sw: int) -> None:
    assert Terminal(PivCard(memory())).send(0xA4, 0x0400, name) == sw


def test_selecting_something_else_leaves_the_application_and_its_pin_as_they_were(terminal: Terminal) -> None:
    terminal.verify(PIN)
    assert terminal.send(0xA4, 0x0400, bytes.fromhex("A000000003000000")) == 0x6A82
    assert terminal.sign(Slot.AUTHENTICATION) == OK


def test_the_answer_to_select_names_application_and_authority(terminal: Terminal) -> None:
    terminal.send(0xA4, 0x0400, AID)
    ((tag, value),) = tlvs(terminal.data)
    parts = dict(tlvs(value))
    assert (tag, parts[0x4F], parts[0x79]) == (0x61, AID[5:], tlv(0x4F, AID[:5]))


@pytest.mark.parametrize(("command", "sw"), [("80CB3FFF00", "6e00"), ("00EE000000", "6d00"), ("00CB", "6700")])
def test_what_is_no_command_of_this_card_is_refused_by_name(terminal: Terminal, command: str, sw: str) -> None:
    assert terminal.card.transmit(bytes.fromhex(command)).hex() == sw


# -- data objects -----------------------------------------------------------------------------------------------------


def test_the_discovery_object_says_that_there_is_one_pin(terminal: Terminal) -> None:
    assert terminal.get(0x7E) == OK
    assert terminal.data == bytes.fromhex("7E124F0BA0000003080000100001005F2F024000")


def test_the_serial_number_is_the_guid_of_the_card(terminal: Terminal) -> None:
    assert terminal.get(0x5FC102) == OK
    ((_, value),) = tlvs(terminal.data)
    assert int.from_bytes(dict(tlvs(value))[0x34]) == SERIAL


def test_there_is_a_capability_container(terminal: Terminal) -> None:
    assert terminal.get(0x5FC107) == OK
    ((_, value),) = tlvs(terminal.data)
    assert dict(tlvs(value))[0xF1] == b"\x21"


@pytest.mark.parametrize(
    ("slot", "tag"),
    [
        (Slot.AUTHENTICATION, 0x5FC105),
        (Slot.SIGNATURE, 0x5FC10A),
        (Slot.KEY_MANAGEMENT, 0x5FC10B),
        (Slot.CARD_AUTHENTICATION, 0x5FC101),
    ],
)
def test_a_certificate_is_read_without_a_pin(terminal: Terminal, slot: Slot, tag: int) -> None:
    assert terminal.get(tag) == OK
    certificate = tlv(0x70, f"certificate {slot:02X}".encode())
    assert terminal.data == tlv(0x53, certificate, bytes.fromhex("710100FE00"))


def test_an_object_that_is_not_there_is_not_found(terminal: Terminal) -> None:
    assert terminal.get(0x5FC109) == 0x6A82


def test_an_object_is_written_by_the_manager_only_and_removed_by_writing_nothing(terminal: Terminal) -> None:
    content = bytes(range(256)) * 3
    assert terminal.put(0x5FC109, content) == 0x6982
    assert terminal.manage() == OK
    assert terminal.put(0x5FC109, content) == OK
    assert (terminal.get(0x5FC109), terminal.data) == (OK, tlv(0x53, content))
    assert terminal.put(0x5FC109, b"") == OK
    assert terminal.get(0x5FC109) == 0x6A82


def test_the_discovery_object_cannot_be_written(terminal: Terminal) -> None:
    terminal.manage()
    assert terminal.send(0xDB, 0x3FFF, tlv(0x5C, b"\x7e") + tlv(0x53, b"?")) == 0x6A80


def test_a_card_that_is_full_says_so_and_keeps_what_it_had(terminal: Terminal) -> None:
    terminal.manage()
    terminal.card.memory.capacity = terminal.card.memory.used + 10
    assert terminal.put(0x5FC109, bytes(11)) == 0x6A84
    assert terminal.get(0x5FC109) == 0x6A82


# -- PIN and PUK ------------------------------------------------------------------------------------------------------


def test_a_wrong_pin_is_counted_and_the_last_one_locks(terminal: Terminal) -> None:
    assert [terminal.verify("000000") for _ in range(4)] == [0x63C2, 0x63C1, 0x6983, 0x6983]
    assert terminal.verify(PIN) == 0x6983
    assert terminal.tries() == 0x6983


def test_the_right_pin_gives_the_tries_back(terminal: Terminal) -> None:
    terminal.verify("000000")
    assert terminal.tries() == 0x63C2
    assert terminal.verify(PIN) == OK
    terminal.card.reset()
    terminal.send(0xA4, 0x0400, AID)
    assert terminal.tries() == 0x63C3


def test_asking_for_the_count_spends_nothing_and_says_when_the_pin_is_known(terminal: Terminal) -> None:
    assert [terminal.tries() for _ in range(5)] == [0x63C3] * 5
    terminal.verify(PIN)
    assert terminal.tries() == OK


@pytest.mark.parametrize("body", ["313233343536", "3132333435ffffff", "ffffffffffffffff", "3132ff3334353637"])
def test_what_cannot_be_a_pin_is_refused_and_not_counted(terminal: Terminal, body: str) -> None:
    assert terminal.send(0x20, 0x0080, bytes.fromhex(body)) == 0x6A80
    assert terminal.tries() == 0x63C3


@pytest.mark.parametrize("reference", [0x00, 0x81, 0x9B])
def test_there_is_no_other_pin_to_verify(terminal: Terminal, reference: int) -> None:
    assert terminal.send(0x20, reference, b"12345678") == 0x6A88


def test_a_wrong_pin_takes_back_what_a_right_one_gave(terminal: Terminal) -> None:
    terminal.verify(PIN)
    terminal.verify("000000")
    assert terminal.sign(Slot.AUTHENTICATION) == 0x6982


def test_logging_out_takes_back_what_the_pin_gave(terminal: Terminal) -> None:
    terminal.verify(PIN)
    assert terminal.send(0x20, 0xFF80) == OK
    assert terminal.sign(Slot.AUTHENTICATION) == 0x6982
    assert terminal.tries() == 0x63C3


def test_the_count_is_on_the_disk_before_the_answer_and_outlives_the_card(tmp_path: Path) -> None:
    kept = memory()
    kept.path = tmp_path / "card.json"
    terminal = Terminal(PivCard(kept))
    terminal.verify("000000")
    again = Terminal(PivCard(Memory.load(kept.path)))
    assert again.tries() == 0x63C2
    assert [again.verify("000000") for _ in range(2)] == [0x63C1, 0x6983]
    assert Terminal(PivCard(Memory.load(kept.path))).verify(PIN) == 0x6983


def test_a_changed_pin_replaces_the_old_one(terminal: Terminal) -> None:
    assert terminal.replace(0x24, 0x80, PIN, "654321") == OK
    assert [terminal.verify(PIN), terminal.verify("654321")] == [0x63C2, OK]


def test_a_change_with_a_wrong_old_pin_is_counted_and_changes_nothing(terminal: Terminal) -> None:
    assert terminal.replace(0x24, 0x80, "000000", "654321") == 0x63C2
    assert terminal.verify(PIN) == OK


def test_a_change_to_what_cannot_be_a_pin_is_refused_before_anything_is_counted(terminal: Terminal) -> None:
    assert terminal.replace(0x24, 0x80, "000000", "1") == 0x6A80
    assert terminal.tries() == 0x63C3


def test_the_puk_can_be_changed(terminal: Terminal) -> None:
    assert terminal.replace(0x24, 0x81, PUK, "11112222") == OK
    assert terminal.replace(0x2C, 0x80, PUK, "654321") == 0x63C2
    assert terminal.replace(0x2C, 0x80, "11112222", "654321") == OK


def test_the_puk_sets_a_new_pin_on_a_locked_card(terminal: Terminal) -> None:
    for _ in range(3):
        terminal.verify("000000")
    assert terminal.replace(0x2C, 0x80, PUK, "654321") == OK
    assert terminal.verify("654321") == OK


def test_a_wrong_puk_is_counted_apart_from_the_pin_and_locks(terminal: Terminal) -> None:
    assert [terminal.replace(0x2C, 0x80, "00000000", "654321") for _ in range(3)] == [0x63C2, 0x63C1, 0x6983]
    assert terminal.replace(0x2C, 0x80, PUK, "654321") == 0x6983
    assert terminal.verify(PIN) == OK
