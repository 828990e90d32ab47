"""The journal's file: records persist, threads share syncs, and no damage allows an order to be signed again."""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.order.samples import payment
from tests.unit.signing.journals import break_unlocking, journal_in, move, person
from ushield_hw.errors import OutcomeUnknown, StorageError, TokenBusy
from ushield_hw.signing.journal import Journal, State
from ushield_hw.signing.journal.journal import _expendable
from ushield_hw.signing.journal.log import Log
from ushield_hw.system import storage

pytestmark = pytest.mark.unit

KEYS = ["0" * 31 + f"{number:x}" for number in range(16)]
ME = person()
SIGNED, LEFT, REJECTED = (payment(bank__id=name) for name in ("signed", "left-open", "rejected"))


def record(number: int = 0) -> dict[str, object]:
    return {"n": number}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.of(tmp_path)


def unusable(ask: Callable[[], object]) -> str:
    with pytest.raises(StorageError) as caught:
        ask()
    assert caught.value.code == "JOURNAL_UNUSABLE"
    assert "{" not in caught.value.message + caught.value.remedy
    return str(caught.value.details["problem"]).removeprefix("journal_")


# --- lines ------------------------------------------------------------------------------------------------------------


def test_what_is_appended_is_there(log: Log) -> None:
    log.append(KEYS[1], record(1))
    log.append(KEYS[2], record(2))
    log.append(KEYS[1], record(3))
    assert [line["n"] for line in log.lines(KEYS[1])] == [1, 3]
    assert log.keys() == [KEYS[1], KEYS[2]]
    assert log.lines(KEYS[3]) == []


def test_another_process_sees_it(log: Log, tmp_path: Path) -> None:
    log.append(KEYS[1], record(1))
    child = (
        "import sys; from pathlib import Path; from ushield_hw.signing.journal.log import Log;"
        "log = Log.of(Path(sys.argv[1]));"
        f"log.append({KEYS[1]!r}, {{'n': 2}}); log.sync(); print(len(log.lines({KEYS[1]!r})))"
    )
    seen = subprocess.run([sys.executable, "-c", child, str(tmp_path)], capture_output=True, text=True, check=True)
    assert seen.stdout == "2\n"
    assert [line["n"] for line in log.lines(KEYS[1])] == [1, 2]


def test_a_child_has_its_own_files_and_its_parents_locks_stay(log: Log, tmp_path: Path) -> None:
    with log.holding(KEYS[1]):
        log.append(KEYS[1], record(1))
        if (child := os.fork()) == 0:
            own = Log.of(tmp_path)
            own.append(KEYS[1], record(2))
            os._exit(0 if own is not log and own.is_held(KEYS[1]) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [line["n"] for line in log.lines(KEYS[1])] == [1, 2]


def test_a_line_that_was_not_finished_is_none(log: Log, tmp_path: Path) -> None:
    log.append(KEYS[1], record(1))
    log.sync()
    with log.path.open("ab") as file:
        file.write(b'01234567 {"id":"' + KEYS[2].encode())
    assert log.lines(KEYS[2]) == []
    log.append(KEYS[3], record(3))
    assert fresh(tmp_path).keys() == [KEYS[1], KEYS[3]]


def fresh(folder: Path) -> Log:
    """Return the log as another process would open it."""
    Log.forget()
    return Log.of(folder)


def test_the_disk_is_full_in_the_middle_of_a_line(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(KEYS[1], record(1))
    real, calls = os.write, []

    def half(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    assert unusable(lambda: log.append(KEYS[2], record(2))) == "io"
    monkeypatch.setattr(os, "write", real)
    assert log.keys() == [KEYS[1]]
    log.append(KEYS[3], record(3))
    assert fresh(tmp_path).keys() == [KEYS[1], KEYS[3]]


# --- files that are not a journal -------------------------------------------------------------------------------------


def test_records_of_another_format_are_not_an_empty_journal(log: Log, tmp_path: Path) -> None:
    (tmp_path / "0123.json").write_text('{"version": 1}')
    assert unusable(lambda: log.append(KEYS[1], record())) == "version"


def rewritten(header: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(header), header)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (rewritten(b'{"format":"ushield-journal","version":2}'), "version"),
        (rewritten(b"{}"), "damaged"),
        (b"\n", "damaged"),
        (b"x" * 100 + b"\n", "damaged"),
        (b"\0" * (5 << 20), "damaged"),
        (b"0" * (5 << 20) + b"\n", "damaged"),
    ],
    ids=["version", "no-version", "empty-line", "short", "zeros", "long"],
)
def test_files_that_are_no_journal(log: Log, content: bytes, problem: str) -> None:
    log.path.write_bytes(content)
    assert unusable(lambda: log.lines(KEYS[1])) == problem
    assert unusable(lambda: log.append(KEYS[1], record())) == problem
    assert log.path.read_bytes() == content


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_what_is_no_file(log: Log, tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        log.path.mkdir()
    elif kind == "fifo":
        os.mkfifo(log.path)
    else:
        log.path.symlink_to(tmp_path / "elsewhere")
    assert unusable(lambda: log.lines(KEYS[1])) == "no_file"
    assert unusable(lambda: log.append(KEYS[1], record())) == "no_file"


def line_with(log: Log, body: bytes) -> None:
    """Append a well-formed line with this content."""
    log.append(KEYS[0], record())
    with log._locked:
        assert log._file is not None
        log._file.append([body])


@pytest.mark.parametrize(
    "rest",
    [b'"n":', b"}", b'"n":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'"n":' + b"9" * 5000 + b"}", b'"n":"\xff"}'],
    ids=["cut off", "no record", "nested", "long number", "no UTF-8"],
)
def test_a_line_that_is_no_record(log: Log, rest: bytes) -> None:
    line_with(log, b'{"id":"' + KEYS[1].encode() + b'",' + rest)
    assert unusable(lambda: log.lines(KEYS[1])) == "damaged"


@pytest.mark.parametrize(
    "change",
    [
        {"n": []},
        {"state": "nonsense"},
        {"state": 7},
        {"at": None},
        {"subject": "zz"},
        {"token": ["a"]},
        {"token": 7},
        {"token": [1, 2, 3, 4]},
        {"payee": [1]},
        {"amount": {"value": 7}},
        {"tx_id": None},
    ],
    ids=str,
)
def test_an_entry_that_says_something_else_than_it_should(tmp_path: Path, change: dict[str, object]) -> None:
    journal = journal_in(tmp_path)
    move(journal, ME, LEFT, State.SIGN_CALLED)
    log = Log.of(tmp_path / "journal")
    (key,) = log.keys()
    first = {name: value for name, value in log.lines(key)[0].items() if name != "id"}
    with log._locked:
        os.truncate(log.path, 0)
        os.truncate(log.path.with_name("journal.lock"), 0)
    again = fresh(tmp_path / "journal")
    again.append(key, first | change)
    assert unusable(lambda: journal.signed(LEFT, ME.signatory)) == "entry"
    assert unusable(journal.entries) == "entry"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EPERM, errno.EIO])
@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    def fails(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, call, fails)
    journal = journal_in(tmp_path)
    assert unusable(lambda: move(journal, ME, LEFT, State.SIGN_CALLED)) == "io"
    assert not (tmp_path / "journal" / "journal.log").exists()


def test_a_lock_that_is_interrupted_is_tried_again(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = fcntl.flock, []

    def interrupted(descriptor: int, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            raise InterruptedError(errno.EINTR, "Interrupted system call")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", interrupted)
    log.append(KEYS[1], record())
    assert log.keys() == [KEYS[1]]


def test_a_lock_that_cannot_be_released_undoes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_unlocking(monkeypatch)
    journal = journal_in(tmp_path)
    move(journal, ME, SIGNED, State.SIGN_CALLED, State.SIGNED)
    assert journal.signed(SIGNED, ME.signatory)


def test_a_folder_that_may_not_be_entered(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir(mode=0o700)
    if root := os.geteuid() == 0:
        os.chown(tmp_path / "journal", 4711, 4711)
    (tmp_path / "journal").chmod(0)
    os.chdir(tmp_path)
    if (child := os.fork()) == 0:
        try:
            if root:  # root may search any folder
                os.seteuid(4711)
            Log.of(Path("journal"))
        except StorageError as error:
            os._exit(0 if error.code == "JOURNAL_UNUSABLE" else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- syncs ------------------------------------------------------------------------------------------------------------


def slowed(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[str]:
    """Make every sync slow; return the list in which each is recorded."""
    done: list[str] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(descriptor: int) -> None:
            done.append(name)
            time.sleep(seconds)
            real(descriptor)

        monkeypatch.setattr(os, name, call)

    watch("fsync")
    watch("fdatasync")
    return done


def test_an_order_takes_two_syncs_and_the_first_one_a_third(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, done = journal_in(tmp_path), slowed(monkeypatch, 0)
    move(journal, ME, SIGNED, State.PREPARED, State.SIGN_CALLED, State.SIGNED)
    assert done == ["fdatasync", "fsync", "fdatasync"]  # and the folder if the file is new
    del done[:]
    move(journal, ME, LEFT, State.PREPARED, State.SIGN_CALLED, State.SIGNED)
    assert done == ["fdatasync", "fdatasync"]
    del done[:]
    Log.forget()
    move(journal, ME, REJECTED, State.PREPARED, State.SIGN_CALLED, State.SIGNED)
    assert done == ["fdatasync", "fdatasync"]


def test_it_is_in_the_file_before_the_sync(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: seen.append(log.path.read_bytes()))
    log.append(KEYS[1], record())
    log.sync()
    assert KEYS[1].encode() in seen[0]


def test_threads_that_wait_together_share_a_sync(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    done, start = slowed(monkeypatch, 0.05), threading.Barrier(16)

    def one(key: str) -> None:
        start.wait()
        log.append(key, record())
        log.sync()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, KEYS))
    assert len(log.keys()) == 16
    assert done.count("fdatasync") <= 4  # sequentially it would be 16


def test_a_sync_that_fails_fails_for_everyone_who_waited(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Barrier(4)

    def fails(descriptor: int) -> None:
        time.sleep(0.1)
        raise OSError(errno.EIO, "Input/output error")

    def one(key: str) -> str:
        log.append(key, record())
        start.wait()
        return unusable(log.sync)

    monkeypatch.setattr(os, "fdatasync", fails)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, KEYS[:4])) == ["io"] * 4


def test_processes_append_at_the_same_time_and_nothing_is_lost(tmp_path: Path) -> None:
    child = (
        "import sys; from pathlib import Path; from ushield_hw.signing.journal.log import Log\n"
        "log = Log.of(Path(sys.argv[1]))\n"
        "for n in range(50): log.append(sys.argv[2], {'n': n, 'filling': 'x' * 3000}); log.sync()"
    )
    running = [subprocess.Popen([sys.executable, "-c", child, str(tmp_path), key]) for key in KEYS[:3]]
    assert [one.wait(60) for one in running] == [0, 0, 0]
    log = Log.of(tmp_path)
    assert [[line["n"] for line in log.lines(key)] for key in KEYS[:3]] == [list(range(50))] * 3


def test_a_process_that_keeps_the_file_locked_is_named(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LOCK_WAIT_S", 0.1)
    with open(log.path.with_name("journal.lock")) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TokenBusy):
            log.append(KEYS[1], record())


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Return a state folder with one signed, one open and one refused order, and the signed order."""
    folder = tmp_path_factory.mktemp("kept")
    journal = journal_in(folder)
    move(journal, ME, REJECTED, State.SIGN_CALLED, State.REJECTED)
    move(journal, ME, SIGNED, State.SIGN_CALLED, State.SIGNED)
    move(journal, ME, LEFT, State.SIGN_CALLED)
    der = journal.signed(SIGNED, ME.signatory)
    assert der is not None
    return folder, der


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Return one way of damaging a file."""
    at, value, length = draw(st.floats(0, 1)), draw(st.integers(1, 255)), draw(st.integers(1, 2000))
    filling = draw(st.binary(max_size=40))
    lines = draw(st.permutations(range(10)))

    def place(data: bytes) -> int:
        return int(at * max(len(data) - 1, 0))

    def flipped(data: bytes) -> bytes:
        n = place(data)
        return data[:n] + bytes([data[n] ^ value]) + data[n + 1 :]

    ways: list[Callable[[bytes], bytes]] = [
        flipped,
        lambda data: data[: place(data)],
        lambda data: data[: place(data)] + data[place(data) + length :],
        lambda data: data[: place(data)] + filling + data[place(data) :],
        lambda data: data[: place(data)] + b"\0" * length + data[place(data) + length :],
        lambda data: b"".join(line + b"\n" for line in data.split(b"\n")[: place(data) % 10]),
        lambda data: b"".join(data.splitlines(True)[n] for n in lines if n < len(data.splitlines())),
        lambda data: b"".join(line for n, line in enumerate(data.splitlines(True)) if n != lines[0]),
        lambda data: data + data.splitlines(True)[1],
        lambda data: filling,
    ]
    return draw(st.sampled_from(ways))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages(), again=st.booleans())
def test_whatever_is_damaged_nothing_is_signed_again_and_nothing_wrong_is_given(
    kept: tuple[Path, bytes], tmp_path: Path, damage: Callable[[bytes], bytes], again: bool
) -> None:
    folder, der = kept
    shutil.rmtree(tmp_path / "state", ignore_errors=True)
    shutil.copytree(folder, tmp_path / "state")
    file = tmp_path / "state" / "journal" / "journal.log"
    file.write_bytes(damage(file.read_bytes()))
    holds(journal_in(tmp_path / "state"), der)
    if again:  # nor after another order has been signed
        with suppress(StorageError):
            move(journal_in(tmp_path / "state"), ME, payment(), State.SIGN_CALLED, State.SIGNED)
        holds(journal_in(tmp_path / "state"), der)


def holds(journal: Journal, der: bytes) -> None:
    """Assert that the journal reports the true state or an error."""
    for order, right in ((SIGNED, der), (LEFT, OutcomeUnknown)):
        try:
            found: object = journal.signed(order, ME.signatory)
        except StorageError as error:
            assert error.code == "JOURNAL_UNUSABLE"
        except OutcomeUnknown:
            assert right is OutcomeUnknown
        else:
            assert found == right, order.bank_id


@pytest.mark.parametrize("content", [b"", b"garbage", b"0" * 64, b"-0000000000000000001 00000000\n"])
def test_a_note_that_cannot_be_read_is_none(kept: tuple[Path, bytes], tmp_path: Path, content: bytes) -> None:
    folder, der = kept
    shutil.copytree(folder, tmp_path / "state")
    (tmp_path / "state" / "journal" / "journal.lock").write_bytes(content)
    assert journal_in(tmp_path / "state").signed(SIGNED, ME.signatory) == der


def test_another_journal_in_its_place_is_noticed(kept: tuple[Path, bytes], tmp_path: Path) -> None:
    other = journal_in(tmp_path / "other")
    for number in range(20):
        move(other, ME, payment(bank__id=f"bank-{number}"), State.SIGN_CALLED, State.SIGNED)
    shutil.copytree(kept[0], tmp_path / "state")
    shutil.copy(tmp_path / "other" / "journal" / "journal.log", tmp_path / "state" / "journal")
    assert unusable(lambda: journal_in(tmp_path / "state").signed(SIGNED, ME.signatory)) == "replaced"
    os.remove(tmp_path / "state" / "journal" / "journal.log")
    assert unusable(lambda: journal_in(tmp_path / "state").signed(SIGNED, ME.signatory)) == "missing"


def test_the_folder_may_be_moved_away(kept: tuple[Path, bytes], tmp_path: Path) -> None:
    shutil.copytree(kept[0], tmp_path / "state")
    journal = journal_in(tmp_path / "state")
    assert journal.signed(SIGNED, ME.signatory)
    os.rename(tmp_path / "state" / "journal", tmp_path / "state" / "journal.damaged")
    assert journal.entries() == []


def test_the_files_of_a_removed_folder_are_closed_at_once(tmp_path: Path) -> None:
    journal = journal_in(tmp_path / "removed")
    gc.disable()  # no process may wait for it
    try:
        move(journal, ME, SIGNED, State.SIGN_CALLED, State.SIGNED)
        assert opened_under(tmp_path / "removed") == {"journal.log", "journal.lock", "orders.lock"}
        shutil.rmtree(tmp_path / "removed")
        move(journal_in(tmp_path / "other"), ME, SIGNED, State.SIGN_CALLED)
        assert opened_under(tmp_path / "removed") == set()
    finally:
        gc.enable()


def opened_under(folder: Path) -> set[str]:
    """Return the names of files in a folder, including deleted ones, that this process has open."""
    opened = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of the listing
            target = Path(os.readlink(f"/proc/self/fd/{number}").removesuffix(" (deleted)"))
            if target.is_relative_to(folder):
                opened.add(target.name)
    return opened


def test_a_body_is_json_a_person_can_read(tmp_path: Path) -> None:
    move(journal_in(tmp_path), ME, SIGNED, State.SIGN_CALLED)
    lines = (tmp_path / "journal" / "journal.log").read_text().splitlines()
    assert [json.loads(line[9:]).get("state") for line in lines] == [None, "prepared", "sign-called"]


# --- retention --------------------------------------------------------------------------------------------------------


def test_old_orders_leave_and_what_is_unknown_stays(kept: tuple[Path, bytes], tmp_path: Path) -> None:
    shutil.copytree(kept[0], tmp_path / "state")
    file = tmp_path / "state" / "journal" / "journal.log"
    log = Log.of(file.parent)
    assert log.prune(lambda records: False) == 0
    moment = datetime.now(UTC) + timedelta(days=500)
    assert log.prune(partial(_expendable, moment)) == 2  # signed and rejected; all have expired
    assert not file.with_name("journal.new").exists()
    Log.forget()
    journal = journal_in(tmp_path / "state", journal_keep_days=2)
    move(journal, ME, SIGNED, State.SIGN_CALLED, State.REJECTED)  # today
    Log.forget()
    assert [entry.bank_id for entry in journal.entries()] == ["left-open", "signed"]


def test_a_setting_says_how_long(kept: tuple[Path, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(kept[0], tmp_path / "state")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3 * 86400)
    move(journal_in(tmp_path / "state"), ME, payment(bank__id="days-ago"), State.SIGN_CALLED, State.REJECTED)
    monkeypatch.undo()
    Log.forget()
    left = journal_in(tmp_path / "state", journal_keep_days=2).entries()
    assert [entry.bank_id for entry in left] == ["rejected", "signed", "left-open"]


def test_other_processes_go_on_in_the_new_file(log: Log) -> None:
    other = Log(log.path.parent)
    log.append(KEYS[1], record(1))
    log.append(KEYS[2], record(2))
    assert other.keys() == [KEYS[1], KEYS[2]]
    assert log.prune(lambda records: records[0]["n"] == 1) == 1
    other.append(KEYS[3], record(3))
    other.sync()
    assert other.keys() == log.keys() == [KEYS[2], KEYS[3]]


def test_an_order_that_is_being_signed_stays(log: Log) -> None:
    log.append(KEYS[1], record(1))
    with log.holding(KEYS[1]):
        assert log.prune(lambda records: True) == 0
    assert log.prune(lambda records: True) == 1
