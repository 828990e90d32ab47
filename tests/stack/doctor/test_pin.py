"""Layer G: PIN state known without an attempt, and the meaning of codes that only an attempt returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.soft import DRIVER, WRONG_PIN, pin_driver
from tests.stack.bench import Bench
from tests.stack.doctor import child
from tests.stack.doctor.conftest import Doctor, ids
from tests.unit.doctor.recorded import Tree, readable, texts, told
from ushield_hw.backend.model import TokenFlag, User
from ushield_hw.backend.module import close_modules
from ushield_hw.doctor import codes
from ushield_hw.doctor.codes import explain, explained
from ushield_hw.doctor.finding import Finding, Status, ask_all
from ushield_hw.doctor.probes import pin
from ushield_hw.doctor.subjects import TokenSeen
from ushield_hw.drivers.family import ConfirmKind, PinFlags, Unblock
from ushield_hw.drivers.match import UsbId
from ushield_hw.errors import PinIncorrect, PinLocked, UShieldError
from ushield_hw.testing.faulty import Fault, FaultyModule, pinpad, token_info
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.shield import VirtualShield
from ushield_hw.token.choice import find_token
from ushield_hw.token.pin_operations import verify_pin

pytestmark = pytest.mark.stack

OK, WARN, FAIL, SKIP = Status.OK, Status.WARN, Status.FAIL, Status.SKIP
LOW, FINAL, LOCKED = TokenFlag.USER_PIN_COUNT_LOW, TokenFlag.USER_PIN_FINAL_TRY, TokenFlag.USER_PIN_LOCKED
BELIEVED = pin_driver(flags=PinFlags.TRUSTED, policy_tries=None)


def shows(**info: object) -> Fault:
    """A token that reports this state."""
    return Fault("C_GetTokenInfo", None, token_info(**info))  # type: ignore[arg-type]


def calls(seen: TokenSeen) -> list[str]:
    """Return the names of the calls that sent a PIN to the module."""
    made = FaultyModule(seen.token.module).calls
    return [call.function for call in made if call.function in {"C_Login", "C_SetPIN", "C_InitPIN"}]


def wrong(doctor: Doctor, tries: int) -> None:
    """Use the given number of the six attempts that this host allows on a soft token."""
    link = doctor.seen().token.link
    for number in range(1, tries + 1):
        with suppress(PinIncorrect, PinLocked):
            verify_pin(link, Scripted(WRONG_PIN, consents=[True] if number == 6 else []))


# --- G62: attempts remaining ------------------------------------------------------------------------------------------


def test_a_wrong_pin_that_this_host_has_counted(doctor: Doctor) -> None:
    wrong(doctor, 2)
    finding = pin.tries(doctor.seen())
    told(finding, pin.tries, WARN, "ushield pin verify", "4", kind="counted", retries_left=4, source="policy")


def test_the_last_try_that_this_host_allows(doctor: Doctor) -> None:
    wrong(doctor, 5)
    told(pin.tries(doctor.seen()), pin.tries, WARN, "ushield pin verify", kind="last", retries_left=1)


def test_a_wrong_pin_that_the_token_shows(doctor: Doctor) -> None:
    seen = doctor.seen(shows(set_flags=LOW), driver=BELIEVED)
    told(pin.tries(seen), pin.tries, WARN, doctor.soft.label, kind="low", retries_left=None, source="flags")
    assert calls(seen) == []


def test_a_count_that_cannot_be_read(doctor: Doctor) -> None:
    wrong(doctor, 1)
    (file,) = (doctor.soft.state / "pin").glob("*.json")
    file.write_text("nonsense")
    finding = pin.tries(doctor.seen())
    told(finding, pin.tries, FAIL, str(file), "ushield pin unblock", kind="counter", code="PIN_COUNTER_UNUSABLE")
    assert pin.locked(doctor.seen()).status is SKIP


def test_no_wrong_pin(doctor: Doctor) -> None:
    told(pin.tries(doctor.seen()), pin.tries, OK, retries_left=6, source="policy")
    silent = pin_driver(flags=PinFlags.NONE, policy_tries=None)
    told(pin.tries(doctor.seen(driver=silent)), pin.tries, SKIP, reason="token_does_not_say")


# --- G63: length ------------------------------------------------------------------------------------------------------


def test_limits_of_a_pin_that_contradict_each_other(doctor: Doctor) -> None:
    finding = pin.length(doctor.seen(shows(pin_min=9, pin_max=4)))
    told(finding, pin.length, WARN, "9", "4", "min_length", kind="never", min=9, max=4)
    told(pin.length(doctor.seen()), pin.length, OK, min=4, max=255)


# --- G64: locked ------------------------------------------------------------------------------------------------------


def test_a_pin_that_this_host_has_locked(doctor: Doctor) -> None:
    wrong(doctor, 6)
    finding = pin.locked(doctor.seen())
    told(finding, pin.locked, FAIL, "ushield pin unblock", doctor.soft.serial, kind="so-init-pin", source="policy")
    assert pin.tries(doctor.seen()).status is SKIP  # one cause, not two


@pytest.mark.parametrize(
    ("unblock", "words"),
    [(Unblock.SO_INIT_PIN, "ushield pin unblock"), (Unblock.SET_PIN_UNLOGGED, "--puk-source"), (Unblock.NONE, "PUK")],
)
def test_a_locked_pin_says_how_this_token_is_unlocked(doctor: Doctor, unblock: Unblock, words: str) -> None:
    driver = replace(BELIEVED, pin=replace(BELIEVED.pin, unblock=unblock))
    seen = doctor.seen(shows(set_flags=LOCKED), driver=driver)
    told(pin.locked(seen), pin.locked, FAIL, words, seen.token.uri, kind=unblock.value, source="flags")
    assert calls(seen) == []


def test_a_locked_pin_whose_so_pin_is_locked_too(doctor: Doctor) -> None:
    seen = doctor.seen(shows(set_flags=LOCKED | TokenFlag.SO_PIN_LOCKED), driver=BELIEVED)
    told(pin.locked(seen), pin.locked, FAIL, "SO PIN", kind="so_locked")


def test_a_token_that_does_not_say_whether_it_is_locked(doctor: Doctor) -> None:
    partial = pin_driver(flags=PinFlags.PARTIAL, policy_tries=None)
    told(pin.locked(doctor.seen(driver=partial)), pin.locked, SKIP, reason="token_does_not_say")
    told(pin.locked(doctor.seen(driver=BELIEVED)), pin.locked, OK, source="flags")


@pytest.fixture
def shield(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualShield]:
    with VirtualShield() as plugged:
        for name, value in plugged.env.items():
            monkeypatch.setenv(name, value)
        close_modules()
        yield plugged
        close_modules()


def test_a_u_shield_that_locks_itself(shield: VirtualShield) -> None:
    link = find_token(shield.uri).link
    for consents in ([], [True], [True]):
        with suppress(PinIncorrect, PinLocked):
            verify_pin(link, Scripted("000000", consents=consents))
    link.module.close()  # OpenSC with lock_login keeps the card locked after a wrong PIN
    before = shield.card.memory.secrets["user"].left
    findings = child.ask(link.module.path, "opensc", shield.env)
    told(child.found(findings, "G64"), pin.locked, FAIL, shield.serial, kind="so-init-pin", source="flags")
    assert ids(findings) == ["G64"]  # the certificate on it is valid and reported as such
    assert shield.card.memory.secrets["user"].left == before == 0


# --- G65: PIN not set, or must be changed -----------------------------------------------------------------------------


def test_a_token_without_a_user_pin(doctor: Doctor) -> None:
    module = doctor.soft.module()
    free = next(slot for slot in module.slots() if slot.token and not slot.token.serial)
    module.init_token(free.slot_id, "87654321", "no-pin")  # as delivered: with an SO PIN only
    module.close()
    seen = next(token for token in doctor.choice("no-pin").tokens if token.token.label == "no-pin")
    told(pin.is_set(seen), pin.is_set, FAIL, "ushield pin unblock", "no-pin", kind="never")
    assert [pin.tries(seen).status, pin.locked(seen).status] == [SKIP, SKIP]
    told(pin.is_set(doctor.seen()), pin.is_set, OK)


def test_a_pin_that_must_be_changed(doctor: Doctor) -> None:
    seen = doctor.seen(shows(set_flags=TokenFlag.USER_PIN_TO_BE_CHANGED))
    told(pin.is_set(seen), pin.is_set, FAIL, "ushield pin change", kind="change")


# --- G66: where the PIN is entered ------------------------------------------------------------------------------------

PAD, NO_PAD = UsbId("1234", "0001", pinpad=True), UsbId("1234", "0002", pinpad=False)


def test_a_pin_pad_that_the_module_does_not_use(doctor: Doctor, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "machine")
    tree.device("1234:0001")
    driver = replace(DRIVER, usb=(PAD, NO_PAD))
    finding = pin.entry(doctor.seen(driver=driver, root=tree.root))
    told(finding, pin.entry, WARN, "enable_pinpad = true", DRIVER.product, kind="unused", typed_on="computer")
    by_descriptor = replace(DRIVER, confirm=replace(DRIVER.confirm, kind=ConfirmKind.PINPAD))
    told(pin.entry(doctor.seen(driver=by_descriptor)), pin.entry, WARN, kind="unused")


def test_a_module_that_waits_for_a_pin_pad_that_is_not_there(doctor: Doctor, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "machine")
    tree.device("1234:0002")
    protected = shows(set_flags=TokenFlag.PROTECTED_AUTHENTICATION_PATH)
    seen = doctor.seen(protected, driver=replace(DRIVER, usb=(PAD, NO_PAD)), root=tree.root)
    told(pin.entry(seen), pin.entry, WARN, "enable_pinpad = false", kind="no_pad", typed_on="token")


def test_a_token_that_has_the_pin_typed_on_itself(doctor: Doctor) -> None:
    protected = shows(set_flags=TokenFlag.PROTECTED_AUTHENTICATION_PATH)
    seen = doctor.seen(protected, Fault("C_Login", None, pinpad(doctor.soft.pin)))
    told(pin.entry(seen), pin.entry, OK, typed_on="token")
    told(pin.entry(doctor.seen()), pin.entry, OK, typed_on="computer")


# --- G67, and codes that only an attempt returns ----------------------------------------------------------------------


def test_a_login_of_another_program_shows_in_no_state(doctor: Doctor) -> None:
    told(pin.session(doctor.seen()), pin.session, SKIP, reason="only_a_code_tells")


def ckr(error: UShieldError) -> str:
    return str(error.details["ckr"])


def test_codes_that_a_soft_token_really_gives_lead_to_their_cause(bench: Bench) -> None:
    soft, module, slot = bench.soft, bench.module, bench.slot
    with pytest.raises(UShieldError) as caught:
        module.login(slot, User.USER, WRONG_PIN)
    assert explain(ckr(caught.value)) == "G62"
    with pytest.raises(UShieldError) as caught:
        module.set_pin(slot, soft.pin, "123")
    assert (ckr(caught.value), explain(ckr(caught.value))) == ("CKR_PIN_LEN_RANGE", "G63")
    with pytest.raises(UShieldError) as caught:
        verify_pin(bench.link, Scripted("123"))  # too short: the library says so itself, and nothing is sent
    assert explain(caught.value.code) == "G63"
    login = bench.login()
    with pytest.raises(UShieldError) as caught:
        bench.login()
    assert (ckr(caught.value), explain(ckr(caught.value))) == ("CKR_USER_ALREADY_LOGGED_IN", "G67")
    with pytest.raises(UShieldError) as caught:
        bench.sign(login, label="each")  # a key with CKA_ALWAYS_AUTHENTICATE, used without the PIN
    assert (ckr(caught.value), explain(ckr(caught.value))) == ("CKR_USER_NOT_LOGGED_IN", "H75")


def test_codes_that_a_pin_pad_really_gives_lead_to_their_cause(bench: Bench) -> None:
    bench.plan("C_Login", None, pinpad(bench.soft.pin, only=True))
    with pytest.raises(UShieldError) as caught:
        bench.login()
    assert (ckr(caught.value), explain(ckr(caught.value))) == ("CKR_ARGUMENTS_BAD", "G66")


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("CKR_PIN_LOCKED", "G64"),
        ("pin_locked", "G64"),
        ("0xA4", "G64"),
        ("0x000000a4", "G64"),
        ("63C2", "G62"),
        ("0x63C0", "G64"),
        ("6983", "G64"),
        ("6A82", None),
        ("SCARD_E_NO_SERVICE", "B11"),
        ("0x8010001D", "B11"),
        ("8010001d", "B11"),
        ("-2146435043", "B11"),
        ("SCARD_W_SECURITY_VIOLATION", "B16"),
        ("0A000025", "G64"),
        ("0x0A00002D", "H75"),
        ("0A000032", None),
        ("USED_AFTER_FORK", "F53"),
        ("CKR_VENDOR_DEFINED+0x12", None),
        ("0x9000", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_a_code_by_name_or_number_is_explained(code: str, cause: str | None) -> None:
    assert explain(code) == cause
    assert (explained(code) is None) == (cause is None)


@pytest.mark.parametrize("cause", sorted(codes.CAUSES))
def test_every_cause_that_a_code_leads_to_has_words_for_it(cause: str) -> None:
    finding = Finding(cause, "code", FAIL, "0x1", {"kind": "code", "code": "0x1"})
    assert finding.cause() != finding.remedy()
    readable(texts(finding), cause)


# --- nothing wrong ----------------------------------------------------------------------------------------------------


def test_a_healthy_token_raises_no_alarm_and_is_sent_no_pin(doctor: Doctor) -> None:
    seen = doctor.seen(shows(label="healthy"))
    assert ids(ask_all(pin.PROBES, seen)) == []
    assert calls(seen) == []


def test_a_token_that_was_never_set_up_is_layer_fs_matter(doctor: Doctor) -> None:
    seen = doctor.seen(shows(clear_flags=TokenFlag.TOKEN_INITIALIZED), driver=replace(DRIVER, kind=child.HARDWARE))
    assert ids(ask_all(pin.PROBES, seen)) == []
