"""Token events: cards through pcscd and OpenSC, soft tokens in a folder, modules that fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from smartcard import scard

import ushield_hw as us
from tests.soft import SETTINGS, SOFTHSM, Soft
from tests.stack.virtual.desks import SOON_S, WITHIN_S, Blank, another_program, inserted, token
from ushield_hw.config import Settings
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.drivers.installed import Installed
from ushield_hw.errors import TokenRemoved
from ushield_hw.system import pcsc
from ushield_hw.system.pcsc import readers
from ushield_hw.testing.authority import Authority
from ushield_hw.testing.card.piv.contents import Slot, blank, hold
from ushield_hw.testing.card.piv.yubikey import YubiKey
from ushield_hw.testing.faulty import Action, Fault, FaultyModule, crashes, faulty_module, late, returns
from ushield_hw.testing.readers import PcscHost
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.watch import EventKind, TokenEvent, TokenWatch, watch_tokens

pytestmark = pytest.mark.stack

INSERTED, REMOVED = EventKind.INSERTED, EventKind.REMOVED
QUIET_S = 0.7  # no event may come within this time


@pytest.fixture
def no_soft_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))


@pytest.fixture
def watch(desk: PcscHost, no_soft_tokens: None) -> Iterator[TokenWatch]:
    """A watch on virtual readers without cards."""
    with watch_tokens(SETTINGS) as watching:
        assert watching.get(QUIET_S) is None
        yield watching


def expect(watching: TokenWatch, *expected: tuple[EventKind, str], within_s: float = WITHIN_S) -> list[TokenEvent]:
    """Assert the next events and return them."""
    found = []
    for kind, serial in expected:
        event = watching.get(within_s)
        assert event is not None, f"no {kind.value} of {serial}"
        assert (event.kind, event.token.serial) == (kind, serial)
        found.append(event)
    return found


# --- cards ------------------------------------------------------------------------------------------------------------


def test_what_is_there_comes_first(desk: PcscHost, no_soft_tokens: None) -> None:
    inserted(desk, token())
    with watch_tokens(SETTINGS) as watching:
        (event,) = expect(watching, (INSERTED, "WATCH1"))
        assert event.token.driver.id == "opensc"
        assert event.token.uri == us.find_token(serial="WATCH1", settings=SETTINGS).uri
        assert watching.get(QUIET_S) is None


def test_a_token_is_plugged_in_and_pulled_out(desk: PcscHost, watch: TokenWatch) -> None:
    for within_s in (WITHIN_S, SOON_S, SOON_S):  # at first the modules may still be loading
        insertion = desk.insert(token())
        (came,) = expect(watch, (INSERTED, "WATCH1"), within_s=within_s)
        insertion.eject()
        (went,) = expect(watch, (REMOVED, "WATCH1"), within_s=within_s)
        assert went.token is came.token
        assert came.at < went.at


def test_a_token_that_was_announced_can_be_opened_while_it_is_watched(desk: PcscHost, watch: TokenWatch) -> None:
    desk.insert(token())
    (event,) = expect(watch, (INSERTED, "WATCH1"))
    with event.token.open(Scripted("123456")) as session:
        assert session.link.module.logged_in(session.login_id)
        assert watch.get(QUIET_S) is None  # our own use of the token is not an event
        assert session.link.module.logged_in(session.login_id)


def test_another_token_in_its_place(desk: PcscHost, watch: TokenWatch) -> None:
    first = desk.insert(token("WATCH1"))
    expect(watch, (INSERTED, "WATCH1"))
    first.eject()
    out_of_sight(desk)
    inserted(desk, token("WATCH2"))
    expect(watch, (REMOVED, "WATCH1"), (INSERTED, "WATCH2"))


def test_the_same_token_pulled_out_and_put_back_is_both(desk: PcscHost, watch: TokenWatch) -> None:
    first = desk.insert(token())
    expect(watch, (INSERTED, "WATCH1"))
    first.eject()
    out_of_sight(desk)
    inserted(desk, token())
    expect(watch, (REMOVED, "WATCH1"), (INSERTED, "WATCH1"))
    assert watch.get(QUIET_S) is None


def out_of_sight(desk: PcscHost) -> None:
    """Wait until PC/SC sees no card: it would take the next card for the same one."""
    deadline = time.monotonic() + WITHIN_S
    while any(reader.atr for reader in readers()):
        assert time.monotonic() < deadline


def test_two_modules_that_show_one_token_show_one(desk: PcscHost, watch: TokenWatch) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    memory = blank(4711, "123456", "12345678")
    subject = x509.Name.from_rfc4514_string("CN=张三")
    hold(memory, Slot.AUTHENTICATION, key, Authority().issue(subject, key.public_key()).public_bytes(Encoding.DER))
    insertion = desk.insert(YubiKey(memory), 1)
    (came,) = expect(watch, (INSERTED, "4711"))
    assert came.token.driver.id == "yubikey-piv"
    assert [path.name for path in came.token.also_in] == ["opensc-pkcs11.so"]
    assert watch.get(QUIET_S) is None
    insertion.eject()
    expect(watch, (REMOVED, "4711"))
    assert watch.get(QUIET_S) is None


@pytest.mark.parametrize(
    ("names", "reader"),
    [(["某银行读卡器"], 0), (["Lecteur à carte"], 0), (["A" * 90, "A" * 90], 1), (["A" * 90, "A" * 90], 0)],
    ids=["Chinese", "French", "the second of one description", "the first of one description"],
)
def test_readers_of_any_name(names: list[str], reader: int, tmp_path: Path) -> None:
    """In a separate program: the PC/SC library looks for its service once per process."""
    with PcscHost(names) as desk:
        env = {**os.environ, **desk.env, "SOFTHSM2_CONF": str(tmp_path / "none.conf"), "HOME": str(tmp_path)}
        command = [sys.executable, "-c", _WATCHES]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as watching:
            assert watching.stdout is not None
            assert watching.stdout.readline() == "nothing\n"
            insertion = desk.insert(token(), reader)
            assert watching.stdout.readline() == "inserted WATCH1\n"
            assert watching.stdout.readline() == "nothing\n"  # exactly once
            insertion.eject()
            assert watching.stdout.readline() == "removed WATCH1\n"
            watching.terminate()


_WATCHES = f"""
from ushield_hw.token.watch import watch_tokens
with watch_tokens() as watch:
    watch.get({QUIET_S})
    print("nothing", flush=True)
    for _ in range(3):
        event = watch.get({WITHIN_S} if _ != 1 else {QUIET_S})
        print(f"{{event.kind.value}} {{event.token.serial}}" if event else "nothing", flush=True)
"""


def test_a_reader_that_pcsc_lists_twice_is_one(
    desk: PcscHost, watch: TokenWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers with the same name: PC/SC is queried by name, and the first reader answers for both."""
    once = pcsc.winscard._names
    monkeypatch.setattr(pcsc.winscard, "_names", lambda context: [*once(context), *once(context)])
    assert [reader.name for reader in readers()] == [*dict.fromkeys(reader.name for reader in readers())]
    inserted(desk, token())
    expect(watch, (INSERTED, "WATCH1"))
    assert watch.get(QUIET_S) is None


def test_a_card_that_no_module_knows_is_no_token(desk: PcscHost, watch: TokenWatch) -> None:
    inserted(desk, Blank())
    assert watch.get(QUIET_S) is None


def test_a_card_that_another_program_has_let_go(desk: PcscHost, no_soft_tokens: None) -> None:
    inserted(desk, token())
    with another_program(scard.SCARD_SHARE_EXCLUSIVE):
        watching = watch_tokens(SETTINGS)
        assert watching.get(QUIET_S) is None
    with watching:
        expect(watching, (INSERTED, "WATCH1"))


# --- the service ------------------------------------------------------------------------------------------------------


def test_pcscd_is_restarted(desk: PcscHost, watch: TokenWatch) -> None:
    for _ in range(2):
        inserted(desk, token())
        expect(watch, (INSERTED, "WATCH1"))
        desk.restart()
        expect(watch, (REMOVED, "WATCH1"))


def test_pcscd_comes_later(desk: PcscHost, no_soft_tokens: None) -> None:
    desk.stop()
    with watch_tokens(SETTINGS) as watching:
        assert watching.get(QUIET_S) is None
        desk.restart()
        inserted(desk, token())
        expect(watching, (INSERTED, "WATCH1"))


# --- the end ----------------------------------------------------------------------------------------------------------


def test_closing_ends_the_iteration_at_once() -> None:
    watch = TokenWatch([], Catalogue([]), SETTINGS, None)  # without a module nothing else can end the wait
    events: list[TokenEvent] = []
    waiting = threading.Thread(target=lambda: events.extend(watch), daemon=True)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    watch.close()
    waiting.join(WITHIN_S)
    assert not waiting.is_alive()
    assert (events, watch.closed, list(watch)) == ([], True, [])


def test_an_event_of_the_caller_ends_the_iteration(desk: PcscHost, no_soft_tokens: None) -> None:
    stop = threading.Event()
    with watch_tokens(SETTINGS, stop=stop) as watching:
        threading.Timer(0.2, stop.set).start()
        assert list(watching) == []
        assert watching.closed


def test_a_program_that_forgets_to_close_ends_all_the_same(desk: PcscHost, no_soft_tokens: None) -> None:
    forgetful = "import ushield_hw as us; us.watch_tokens().get(0.5); print('done')"
    ended = subprocess.run([sys.executable, "-c", forgetful], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout == "done\n"
    assert "Traceback" not in ended.stderr


# --- soft tokens ------------------------------------------------------------------------------------------------------


def make_soft_token(label: str) -> None:
    """Create a token as another program would."""
    words = ["--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", "123456"]
    subprocess.run(["softhsm2-util", *words], check=True, capture_output=True, timeout=30)


def soft_settings(soft: Soft) -> Settings:
    return replace(SETTINGS, state_dir=soft.state)


def test_soft_tokens_are_made_and_deleted(desk: PcscHost, soft: Soft) -> None:
    with watch_tokens(soft_settings(soft)) as watching:
        there = [watching.get(WITHIN_S), watching.get(WITHIN_S)]
        assert soft.serial in [event.token.serial for event in there if event]
        make_soft_token("another")
        event = watching.get(WITHIN_S)
        assert event is not None
        assert (event.kind, event.token.label) == (INSERTED, "another")
        with event.token.open(Scripted("123456")) as session:
            assert session.serial == event.token.serial
        shutil.rmtree(folder_of(soft, event.token.serial))
        expect(watching, (REMOVED, event.token.serial))
        assert watching.get(QUIET_S) is None


def folder_of(soft: Soft, serial: str) -> Path:
    """SoftHSM2 uses the token's serial number in the name of its folder."""
    (found,) = (path for path in (soft.folder / "tokens").iterdir() if path.name.replace("-", "").endswith(serial))
    return found


def test_an_open_session_is_not_disturbed_by_what_is_seen_meanwhile(desk: PcscHost, soft: Soft) -> None:
    settings = soft_settings(soft)
    with watch_tokens(settings) as watching:
        first = [event for event in (watching.get(WITHIN_S), watching.get(WITHIN_S)) if event]
        (mine,) = (event for event in first if event.token.serial == soft.serial)
        with mine.token.open(Scripted(soft.pin)) as session:
            make_soft_token("another")
            event = watching.get(WITHIN_S)
            assert event is not None
            assert event.token.label == "another"
            assert session.link.module.logged_in(session.login_id)
            assert any(key.private for key in session.link.module.keys(session.link.slot_id))
        with opened_soon(event.token) as other:
            assert other.serial == event.token.serial


def opened_soon(token: us.Token) -> us.Session:
    """Open a token that SoftHSM2 in this process sees only after the last logout."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            return token.open(Scripted("123456"))
        except TokenRemoved:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_soft_tokens_where_nobody_says_where_they_are(
    desk: PcscHost, soft: Soft, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / ".config" / "softhsm2").mkdir(parents=True)
    shutil.copy(soft.conf, home / ".config" / "softhsm2")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SOFTHSM2_CONF")
    with watch_tokens(soft_settings(soft)) as watching:
        assert watching.get(WITHIN_S) and watching.get(WITHIN_S)
        make_soft_token("another")
        event = watching.get(WITHIN_S)
        assert event is not None
        assert event.token.label == "another"


# --- modules that fail ------------------------------------------------------------------------------------------------

DESCRIPTOR = """\
id = "bench"
vendor = "V"
product = "P"
kind = "{kind}"
interface = "pkcs11"
sources = []
confidence = "low"
[module]
linux = ["{path}"]
deadline_s = 1
"""


def faulty_watch(faulty: FaultyModule, kind: str) -> TokenWatch:
    """A watch on one module: for cards, or polled twice a second."""
    folder = faulty.path.parent / "drivers"
    folder.mkdir()
    (folder / "bench.toml").write_text(DESCRIPTOR.format(kind=kind, path=faulty.path))
    catalogue = Catalogue([folder])
    settings = Settings(drivers=(folder,), state_dir=faulty.path.parent / "state")
    return TokenWatch([Installed(faulty.path, catalogue.get("bench"), "bench")], catalogue, settings, None)


@pytest.fixture
def faulty(soft: Soft, tmp_path: Path) -> FaultyModule:
    """A faulty module that wraps SoftHSM2 and shows two tokens."""
    return faulty_module(tmp_path / "faulty", SOFTHSM)


def called(faulty: FaultyModule, function: str, times: int) -> None:
    """Wait until a function was called the given number of times from now on."""
    wanted, deadline = faulty.count(function) + times, time.monotonic() + WITHIN_S
    while faulty.count(function) < wanted:
        assert time.monotonic() < deadline, f"{function} is not called"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("function", "action"),
    [
        ("C_GetSlotList", returns("GENERAL_ERROR")),
        ("C_GetTokenInfo", returns("DEVICE_ERROR")),
        ("C_GetSlotList", crashes()),
    ],
    ids=["no-list", "no-token", "crash"],
)
def test_a_module_that_fails_takes_no_token_away(faulty: FaultyModule, function: str, action: Action) -> None:
    with faulty_watch(faulty, "software") as watching:
        there = {event.token.serial for event in (watching.get(WITHIN_S), watching.get(WITHIN_S)) if event}
        assert len(there) == 2
        faulty.plan([Fault(function, None, action)])
        called(faulty, function, 3)
        assert watching.get(0) is None
        faulty.plan([Fault("C_GetTokenInfo", None, returns("TOKEN_NOT_PRESENT"))])
        gone = [watching.get(WITHIN_S), watching.get(WITHIN_S)]
        assert {(event.kind, event.token.serial) for event in gone if event} == {(REMOVED, serial) for serial in there}
        faulty.plan([])
        back = [watching.get(WITHIN_S), watching.get(WITHIN_S)]
        assert {(event.kind, event.token.serial) for event in back if event} == {(INSERTED, serial) for serial in there}


def test_a_module_that_is_slow_keeps_its_login(faulty: FaultyModule, soft: Soft) -> None:
    with faulty_watch(faulty, "software") as watching:
        found = {event.token.serial: event.token for event in (watching.get(WITHIN_S), watching.get(WITHIN_S)) if event}
        with found[soft.serial].open(Scripted(soft.pin)) as session:
            faulty.plan([Fault("C_GetSlotList", None, late(1.5))])  # longer than a call is normally allowed
            called(faulty, "C_GetSlotList", 2)
            faulty.plan([])
            assert session.link.module.logged_in(session.login_id)
            assert watching.get(0) is None


def faulty_opensc(folder: Path) -> FaultyModule:
    opensc = Catalogue(SETTINGS.drivers).get("opensc").module_files()[0]
    return faulty_module(folder, opensc.resolve())


def test_a_token_that_was_out_while_its_module_was_slow(desk: PcscHost, tmp_path: Path) -> None:
    faulty = faulty_opensc(tmp_path / "faulty")
    with faulty_watch(faulty, "token") as watching:
        insertion = inserted(desk, token())
        expect(watching, (INSERTED, "WATCH1"))
        faulty.plan([Fault("C_GetSlotList", None, late(3))])  # the token is back before the next check
        insertion.eject()
        out_of_sight(desk)
        inserted(desk, token())
        expect(watching, (REMOVED, "WATCH1"), (INSERTED, "WATCH1"))


def test_what_pcsc_says_is_gone_is_gone(desk: PcscHost, tmp_path: Path) -> None:
    faulty = faulty_opensc(tmp_path / "faulty")
    with faulty_watch(faulty, "token") as watching:
        insertion = desk.insert(token())
        expect(watching, (INSERTED, "WATCH1"))
        faulty.plan([Fault("C_GetSlotList", None, returns("GENERAL_ERROR"))])
        insertion.eject()
        expect(watching, (REMOVED, "WATCH1"))
        faulty.plan([])
        desk.insert(token())
        expect(watching, (INSERTED, "WATCH1"))
