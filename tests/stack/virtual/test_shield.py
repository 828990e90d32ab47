"""The virtual U-shield with real pcscd and OpenSC: every outcome, PIN lock, removal, and its card's commands."""

from __future__ import annotations

import os
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

import ushield_hw as us
from tests.unit.order.samples import live, login, payment
from ushield_hw import cms
from ushield_hw.backend.model import SignCall
from ushield_hw.backend.module import Module, close_modules
from ushield_hw.certificates.certificate import install, request
from ushield_hw.cms import Profile
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.errors import (
    ConfirmationRejected,
    ConfirmationTimedOut,
    InputError,
    OutcomeUnknown,
    PinIncorrect,
    PinLocked,
    TokenBusy,
    TokenError,
    TokenFull,
    TokenMultiple,
    TokenNotFound,
    TokenRemoved,
    UShieldError,
)
from ushield_hw.interaction import TokenAction
from ushield_hw.order import Order, screen_lines
from ushield_hw.signing.order import SignedOrder, sign
from ushield_hw.testing.authority import Authority
from ushield_hw.testing.readers import PcscHost
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.shield import Outcome, VirtualShield
from ushield_hw.token.choice import find_token
from ushield_hw.token.pin_operations import change_pin, unblock_pin, verify_pin
from ushield_hw.token.token import Token
from ushield_hw.verifier import TrustStore, verify

pytestmark = pytest.mark.stack

WRONG = "0000000"


@dataclass
class Host:
    """A program that uses the token: it finds it by its URI and is never restarted."""

    shield: VirtualShield

    @property
    def token(self) -> Token:
        return find_token(self.shield.uri)

    def person(self, *pins: str) -> Scripted:
        """A user who enters the PIN at login and again for the signature."""
        return Scripted(*(pins or (self.shield.pin, self.shield.pin)))

    def sign(self, order: Order, person: Scripted | None = None) -> SignedOrder:
        with self.token.open(person or self.person()) as session:
            return sign(order, session)

    def verified(self, signed: SignedOrder, order: Order) -> None:
        verify(signed, trust=TrustStore([self.shield.ca_pem]), expected=order)


@pytest.fixture
def host(virtual_shield: VirtualShield) -> Host:
    return Host(virtual_shield)


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


InForce = Callable[[VirtualShield], None]


@pytest.fixture
def in_force() -> Iterator[InForce]:
    """Make a token that the test created visible to this process and to modules loaded from now on."""
    with pytest.MonkeyPatch.context() as patch:

        def use(shield: VirtualShield) -> None:
            close_modules()
            for name, value in shield.env.items():
                patch.setenv(name, value)

        yield use
        close_modules()


def fresh() -> Order:
    return payment(**live(datetime.now(UTC)), tx_id=str(uuid.uuid4()))


def when_asked(shield: VirtualShield, aside: ThreadPoolExecutor, do: Callable[[], object]) -> Future[list[str]]:
    """Call a function as soon as the token asks for confirmation; the future returns what its screen showed."""

    def watch() -> list[str]:
        screen = shield.wait_for_screen()
        do()
        return screen

    return aside.submit(watch)


# --- outcomes ---------------------------------------------------------------------------------------------------------


def test_ok_signs_what_the_screen_showed(host: Host, aside: ThreadPoolExecutor, tmp_path: Path) -> None:
    shield, order, person = host.shield, fresh(), host.person()
    screen = when_asked(shield, aside, lambda: shield.press("ok"))
    signed = host.sign(order, person)
    assert [row for row in screen.result() if row in {"杭州某某网络有限公司", "1202021409900012345", "CNY 128.50"}]
    assert (signed.profile, signed.confirmation) == (Profile.PLAIN, None)
    assert cms.parse(signed.der).signed_bytes == order.canonical
    assert person.shown[0].lines == screen_lines(order.canonical, "en")
    assert (shield.signatures, shield.asked, shield.outcome) == (1, 1, Outcome.SIGNED)
    assert person.prompts[:3] == ["user PIN to sign", f"compare {order.type} on the token", "context PIN to sign"]
    host.verified(signed, order)
    openssl_agrees(signed, shield.ca_pem, tmp_path)


def openssl_agrees(signed: SignedOrder, ca: Path, folder: Path) -> None:
    file = folder / "signed.p7m"
    file.write_bytes(signed.der)
    command = ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-purpose", "any", "-CAfile", str(ca)]
    subprocess.run([*command, "-in", str(file), "-out", "/dev/null"], check=True, capture_output=True, timeout=60)


def test_login_challenges_are_shown_too(host: Host) -> None:
    host.shield.answer("ok")
    signed = host.sign(login(**live(datetime.now(UTC))))
    assert signed.profile is Profile.PLAIN
    assert host.shield.signatures == 1


@pytest.mark.parametrize(
    ("answer", "error", "code", "outcome"),
    [
        ("refuse", ConfirmationRejected, "CONFIRMATION_REJECTED", Outcome.REJECTED),
        ("timeout", ConfirmationTimedOut, "CONFIRMATION_TIMED_OUT", Outcome.TIMED_OUT),
    ],
)
def test_no_is_no_and_the_person_may_be_asked_again(
    host: Host, answer: str, error: type[UShieldError], code: str, outcome: Outcome
) -> None:
    order = fresh()
    host.shield.answer(answer)  # type: ignore[arg-type]
    with pytest.raises(error) as refused:
        host.sign(order)
    assert refused.value.code == code
    assert refused.value.details["tx_id"] == order.tx_id
    assert (host.shield.signatures, host.shield.asked, host.shield.outcome) == (0, 1, outcome)
    host.shield.answer("ok")
    host.verified(host.sign(order), order)
    assert (host.shield.signatures, host.shield.asked) == (1, 2)


def test_the_same_order_again_asks_nobody(host: Host) -> None:
    order = fresh()
    host.shield.answer("ok")
    first, second = host.sign(order), host.sign(order, host.person(host.shield.pin))
    assert (second.der, second.replayed) == (first.der, True)
    assert (host.shield.signatures, host.shield.asked) == (1, 1)


def test_its_own_patience_ends(host: Host) -> None:
    host.shield.card.panel.timeout_s = 0.3
    with pytest.raises(ConfirmationTimedOut):
        host.sign(fresh())
    assert host.shield.outcome is Outcome.TIMED_OUT


def test_pulled_out_while_it_asks(host: Host, aside: ThreadPoolExecutor) -> None:
    order = fresh()
    when_asked(host.shield, aside, host.shield.eject)
    with pytest.raises(TokenRemoved):
        host.sign(order)
    assert (host.shield.signatures, host.shield.outcome) == (0, Outcome.PULLED_OUT)
    host.shield.insert()
    host.shield.answer("ok")
    host.verified(host.sign(order), order)  # the same process, the same order
    assert host.shield.signatures == 1


class Impatient(Scripted):
    """A user who cancels as soon as the token waits for confirmation."""

    def waiting_for_token(self, action: TokenAction) -> None:
        super().waiting_for_token(action)
        assert not action.can_cancel  # cancelling does not reach the token, as the action says beforehand
        action.cancel()


def test_cancelled_on_the_host_while_the_token_asks_is_unknown_and_rightly_so(host: Host) -> None:
    shield, order = host.shield, fresh()
    with pytest.raises(OutcomeUnknown) as unknown:
        host.sign(order, Impatient(shield.pin, shield.pin))
    assert unknown.value.details["tx_id"] == order.tx_id
    shield.press("ok")  # by its user, who still sees the prompt
    assert wait_until(lambda: shield.signatures == 1)  # the token has signed: the outcome was indeed unknown
    with pytest.raises(OutcomeUnknown):
        host.sign(order, host.person(shield.pin))
    assert shield.asked == 1


def wait_until(condition: Callable[[], bool], deadline_s: float = 10) -> bool:
    waiting = threading.Event()
    for _ in range(int(deadline_s / 0.01)):
        if condition():
            return True
        waiting.wait(0.01)
    return False


def test_a_token_that_takes_its_time_after_ok(host: Host) -> None:
    order, person = fresh(), host.person()
    host.shield.delay(1.2)
    host.shield.answer("ok")
    host.verified(host.sign(order, person), order)
    assert [prompt for prompt in person.prompts if prompt.startswith("waiting")] == ["waiting: display"]


def test_the_payment_key_signs_no_digest(host: Host) -> None:
    host.shield.answer("ok")
    with host.token.open(host.person(host.shield.pin)) as session:
        key = next(key for key in session.keys() if key.private)
        call = SignCall(key.handle, "ECDSA", bytes(32), "sha256")
        with pytest.raises(TokenError):
            session.link.module.sign(session.login_id, call)
    assert (host.shield.signatures, host.shield.asked, host.shield.outcome) == (0, 0, Outcome.NOT_SUPPORTED)


def test_cades_is_not_offered(host: Host) -> None:
    with host.token.open(host.person(host.shield.pin)) as session, pytest.raises(InputError) as refused:
        sign(fresh(), session, profile=Profile.CADES)
    assert refused.value.code == "PROFILE_NOT_POSSIBLE"
    assert host.shield.asked == 0


# --- the other models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "driver", "asked"), [("button", "ushield-virtual-button", 1), ("none", "opensc", 0)])
def test_without_a_screen_the_host_asks(model: str, driver: str, asked: int, in_force: InForce, tmp_path: Path) -> None:
    with VirtualShield(model=model) as shield:
        in_force(shield)
        shield.answer("ok")
        host, order = Host(shield), fresh()
        person = Scripted(shield.pin, shield.pin, confirms=[True])
        signed = host.sign(order, person)
        host.verified(signed, order)
        assert host.token.driver.id == driver
        assert signed.profile is Profile.CADES
        assert signed.confirmation is not None
        assert signed.confirmation.value == ("button" if asked else "host")
        assert (shield.signatures, shield.asked) == (1, asked)


# --- keys and certificates --------------------------------------------------------------------------------------------


def test_a_key_is_made_certified_and_used(in_force: InForce) -> None:
    with VirtualShield(certified=False) as shield:
        in_force(shield)
        shield.answer("ok")
        host, authority = Host(shield), Authority()
        with host.token.open(host.person()) as session:
            asked = request(session, KeySpec.EC_P256, "CN=阿依古丽·买买提,O=Demo Bank")
            pair = install(session, authority.certify(asked.pem))
        assert pair.has_key
        assert shield.signatures == 1  # the request itself, which the screen showed
        shield.ca_pem.write_bytes(authority.pem)
        order = fresh()
        host.verified(host.sign(order), order)


def test_a_request_that_its_owner_refuses_leaves_nothing_behind(host: Host) -> None:
    memory = host.shield.card.memory
    files, keys = dict(memory.files), dict(memory.keys)
    host.shield.answer("refuse")
    with host.token.open(host.person()) as session, pytest.raises(ConfirmationRejected):
        request(session, KeySpec.EC_P256, "CN=X")
    del memory.files[0xCE02]  # OpenSC 0.23 leaves the new key's card verifiable request, which it overwrites next time
    assert (memory.files, memory.keys) == (files, keys)


def test_a_full_token_says_so_and_keeps_what_it_has(host: Host) -> None:
    before = dict(host.shield.card.memory.files), dict(host.shield.card.memory.keys)
    host.shield.fill()
    with host.token.open(host.person()) as session, pytest.raises(TokenFull):
        request(session, KeySpec.EC_P256, "CN=X")
    assert (host.shield.card.memory.files, host.shield.card.memory.keys) == before
    host.shield.answer("ok")
    order = fresh()
    host.verified(host.sign(order), order)


# --- the PIN ----------------------------------------------------------------------------------------------------------


def lock(host: Host) -> None:
    """Use every attempt with a wrong PIN, the last one with consent."""
    for _ in range(2):
        with pytest.raises(PinIncorrect):
            verify_pin(host.token.link, Scripted(WRONG))
    with pytest.raises((PinLocked, PinIncorrect)):
        verify_pin(host.token.link, Scripted(WRONG, consents=[True]))
    assert host.shield.card.memory.secrets["user"].left == 0


def test_the_flags_tell_how_near_the_lock_is(host: Host) -> None:
    seen = []
    for _ in range(2):
        with suppress(PinIncorrect):
            verify_pin(host.token.link, Scripted(WRONG))
        state = host.token.pin_state()
        seen.append((state.low, state.final_try, state.locked))
    assert seen == [(True, None, None), (True, True, False)]
    verify_pin(host.token.link, Scripted(host.shield.pin, consents=[True]))
    assert host.token.pin_state().low is None


def test_locked_is_locked_until_the_so_unblocks(host: Host) -> None:
    lock(host)
    with pytest.raises(PinLocked):
        host.sign(fresh(), host.person(host.shield.pin))
    host.shield.eject()
    host.shield.insert()
    with pytest.raises(PinLocked):
        verify_pin(host.token.link, Scripted(host.shield.pin))
    assert host.token.pin_state().locked

    unblock_pin(host.token.link, Scripted(host.shield.so_pin, "864209"))
    with pytest.raises(PinIncorrect):
        verify_pin(host.token.link, Scripted(host.shield.pin))
    host.shield.answer("ok")
    order = fresh()
    host.verified(host.sign(order, Scripted("864209", "864209")), order)


def test_after_a_wrong_pin_other_programs_reach_the_token(host: Host) -> None:
    """OpenSC with lock_login keeps the card locked after a failed login until it is re-initialised."""
    with pytest.raises(PinIncorrect):
        verify_pin(host.token.link, Scripted(WRONG))
    other = ["pkcs11-tool", "--module", str(host.token.module), "-L"]
    done = subprocess.run(
        other, check=True, env={**os.environ, **host.shield.env}, capture_output=True, text=True, timeout=20
    )
    assert host.shield.serial in done.stdout


def test_a_wrong_so_pin_changes_nothing(host: Host) -> None:
    lock(host)
    with pytest.raises(PinIncorrect) as refused:
        unblock_pin(host.token.link, Scripted("0" * 16, "864209"))
    assert refused.value.code == "SO_PIN_INCORRECT"
    assert host.token.pin_state().locked


def test_the_pin_is_changed_on_the_token(host: Host) -> None:
    change_pin(host.token.link, Scripted(host.shield.pin, "135790"))
    with pytest.raises(PinIncorrect):
        verify_pin(host.token.link, Scripted(host.shield.pin))
    verify_pin(host.token.link, Scripted("135790"))


def test_a_wrong_pin_for_the_signature_signs_nothing(host: Host) -> None:
    order = fresh()
    host.shield.answer("ok")
    with pytest.raises(PinIncorrect):
        host.sign(order, Scripted(host.shield.pin, WRONG))
    assert (host.shield.signatures, host.shield.asked) == (0, 0)
    host.verified(host.sign(order), order)


# --- removal and insertion --------------------------------------------------------------------------------------------


def test_pulled_out_before_it_is_opened(host: Host) -> None:
    token = host.token
    host.shield.eject()
    with pytest.raises((TokenRemoved, TokenNotFound)):
        token.open(host.person())
    with pytest.raises(TokenNotFound):
        _ = host.token
    host.shield.insert()
    host.shield.answer("ok")
    order = fresh()
    host.verified(host.sign(order), order)


def test_pulled_out_while_it_is_open(host: Host) -> None:
    order = fresh()
    host.shield.answer("ok")
    with host.token.open(host.person()) as session:
        host.shield.eject()
        with pytest.raises(UShieldError) as gone:
            sign(order, session)
    assert isinstance(gone.value, TokenRemoved), gone.value.code
    assert host.shield.signatures == 0
    host.shield.insert()
    with suppress(TokenRemoved):  # OpenSC polls once a second and may detect the removal only at the next login
        host.verified(host.sign(order), order)
        return
    host.verified(host.sign(order), order)


def test_pulled_out_after_the_signature(host: Host) -> None:
    order = fresh()
    host.shield.answer("ok")
    with host.token.open(host.person()) as session:
        signed = sign(order, session)
        host.shield.eject()
    host.verified(signed, order)


def test_another_token_in_the_same_reader_is_another_token(host: Host) -> None:
    host.shield.answer("ok")
    with host.token.open(host.person()) as session:
        host.shield.eject()
        host.shield.claim("US00000001")
        host.shield.insert()
        with pytest.raises(TokenRemoved):
            sign(fresh(), session)
    assert host.shield.signatures == 0
    with pytest.raises(TokenNotFound):
        find_token(host.shield.uri.replace("US00000001", "US99999999"))


def test_pcscd_ends_and_comes_back(in_force: InForce) -> None:
    with PcscHost() as desk, VirtualShield(host=desk) as shield:
        in_force(shield)
        host, order = Host(shield), fresh()
        shield.answer("ok")
        with host.token.open(host.person()) as session:
            desk.restart()
            shield.insert()
            with pytest.raises(TokenError):
                sign(order, session)
        host.verified(host.sign(order), order)
        assert shield.signatures == 1


# --- several tokens ---------------------------------------------------------------------------------------------------


def test_maker_and_checker_sign_one_order_with_two_tokens(in_force: InForce) -> None:
    with (
        PcscHost(("Left", "Right")) as desk,
        VirtualShield(host=desk) as maker,
        VirtualShield(host=desk, reader=1, holder="李四") as checker,
    ):
        in_force(maker)
        order = fresh()
        for shield in (maker, checker):
            shield.answer("ok")
            host = Host(shield)
            host.verified(host.sign(order), order)
        assert (maker.signatures, checker.signatures) == (1, 1)


def test_two_tokens_that_claim_one_serial_number_are_both_named(in_force: InForce) -> None:
    with (
        PcscHost(("Left", "Right")) as desk,
        VirtualShield(host=desk) as one,
        VirtualShield(host=desk, reader=1) as two,
    ):
        in_force(one)
        two.eject()
        two.claim(one.serial)
        two.insert()
        with pytest.raises(TokenMultiple) as several:
            find_token(one.uri)
        assert several.value.details["n"] == 2


def test_two_threads_sign_two_orders_one_after_the_other(host: Host) -> None:
    orders = [fresh(), fresh()]
    host.shield.answer("ok", after_s=0.1)
    with ThreadPoolExecutor(2) as pool:
        signed = list(pool.map(host.sign, orders))
    for done, order in zip(signed, orders, strict=True):
        host.verified(done, order)
    assert host.shield.signatures == 2


def test_the_public_names_are_enough(virtual_shield: VirtualShield) -> None:
    virtual_shield.answer("ok")
    order = fresh()
    token = us.find_token(virtual_shield.uri)
    with token.open(Scripted(virtual_shield.pin, virtual_shield.pin)) as session:
        signed = us.sign(order, session)
    assert us.verify(signed, trust=us.TrustStore([virtual_shield.ca_pem]), expected=order)


# --- the readers ------------------------------------------------------------------------------------------------------


def test_without_root_too(monkeypatch: pytest.MonkeyPatch, in_force: InForce) -> None:
    """As another user id: the namespaces then belong to a user namespace."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with VirtualShield() as shield:
        monkeypatch.undo()
        in_force(shield)
        assert find_token(shield.uri).serial == shield.serial


def test_nothing_listens_outside(virtual_shield: VirtualShield) -> None:
    def listening() -> set[str]:
        rows = [
            line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{name}").read_text().splitlines()
        ]
        return {row[1].rpartition(":")[2] for row in rows[1:] if row[3] == "0A"}

    assert not listening() & {f"{port:04X}" for port in (0x8C7B, 0x8C7C)}


def test_the_folder_and_the_daemon_go_with_the_desk() -> None:
    desk = PcscHost()
    pid = int((desk.folder / "run" / "pcscd.pid").read_text().split("\n")[0])
    assert Path(f"/proc/{pid}").exists()
    desk.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not desk.folder.exists()
    desk.close()


def test_a_desk_refuses_what_makes_no_sense() -> None:
    with PcscHost() as desk, VirtualShield(host=desk) as shield:
        for reader in (0, 1, -1):
            with pytest.raises(InputError) as refused:
                desk.insert(shield.card, reader)
            assert refused.value.code == "PCSC_HOST_REFUSED"


def test_a_token_that_is_kept_is_found_again(tmp_path: Path, in_force: InForce) -> None:
    with VirtualShield(keep=tmp_path / "kept") as shield:
        shield.card.memory.secrets["user"].check(b"000000")
        shield.card.memory.save()
        serial, pin = shield.serial, shield.pin
    with VirtualShield(keep=tmp_path / "kept") as again:
        in_force(again)
        assert (again.serial, again.pin) == (serial, pin)
        assert find_token(again.uri).pin_state().low


def test_somebody_who_looks_meanwhile_does_not_end_a_signature_that_waits(
    host: Host, aside: ThreadPoolExecutor
) -> None:
    module, order = host.token.link.module, fresh()
    assert isinstance(module, Module)

    def look() -> None:
        module.deadline_s = 0.3  # the deadline of an enumeration; a signature has the user's deadline
        with pytest.raises(TokenBusy):
            module.slots()
        host.shield.press("ok")

    looked = when_asked(host.shield, aside, look)
    host.verified(host.sign(order), order)
    looked.result(10)
    module.deadline_s = 30
    assert len(module.slots()) == 1  # the same worker, unaffected
    assert host.shield.signatures == 1
