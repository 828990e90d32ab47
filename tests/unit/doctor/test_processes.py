"""Processes that have a card or device open, on recorded machines and among real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.doctor.recorded import Tree, told
from ushield_hw.config import Settings
from ushield_hw.doctor.finding import Status
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes import card
from ushield_hw.system.processes import Holders, named, processes, users_of_node, users_of_pcsc
from ushield_hw.system.sockets import Line, lines

pytestmark = pytest.mark.unit

PCSC = "7f00 r-xp 0 fe:00 12 /usr/lib/x86_64-linux-gnu/libpcsclite.so.1.0.0\n"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_programs_with_the_library_and_a_connection_use_cards(tree: Tree) -> None:
    tree.process(101, "scdaemon", maps=PCSC, links=["/dev/null", "socket:[771]"])
    tree.process(102, "firefox", maps=PCSC, links=["/dev/null"])
    tree.process(103, "sshd", links=["socket:[772]"])
    tree.process(104, "pcscd", maps=PCSC, links=["socket:[773]"])
    assert users_of_pcsc(tree.machine()).programs == ("scdaemon (101)",)


def test_a_program_that_drives_the_device_itself_is_named(tree: Tree) -> None:
    tree.family("epass", "096e:0807 ccid")
    tree.device("096e:0807")
    tree.process(812, "pcscd", links=["/dev/bus/usb/001/002"])
    assert card.usb_taken(tree.machine()).status is Status.OK
    tree.process(101, "scdaemon", links=["socket:[771]", "/dev/bus/usb/001/002"])
    told(
        card.usb_taken(tree.machine()),
        card.usb_taken,
        Status.FAIL,
        "scdaemon (101)",
        "disable-ccid",
        holders=["scdaemon (101)"],
    )


def test_a_program_of_another_user_takes_another_remedy(tree: Tree) -> None:
    tree.device("096e:0807")
    tree.process(101, "scdaemon", uid=os.getuid() + 1, links=["/dev/bus/usb/001/002"])
    found = card.usb_taken(tree.machine())
    told(found, card.usb_taken, Status.FAIL, "sudo kill 101", kind="foreign", foreign=["scdaemon (101)"])


def test_a_program_of_ours_that_hides_what_it_has_open_is_a_possible_holder(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pid, name in ((101, "ushield"), (102, "agetty")):
        tree.process(pid, name, maps=PCSC)
        (tree.root / f"proc/{pid}/fd").rmdir()

    def closed(path: str | Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = users_of_pcsc(tree.machine())
    assert (found.programs, found.hidden) == (("ushield (101)",), 2)


def test_without_a_reader_on_the_bus_nobody_can_have_taken_it(tree: Tree) -> None:
    told(card.usb_taken(tree.machine()), card.usb_taken, Status.SKIP, reason="no_ccid_device")


@pytest.mark.slow
def test_the_look_at_thousands_of_programs_ends(tree: Tree) -> None:
    for pid in range(1000, 3000):
        tree.process(pid, "sleep", links=["/dev/null"])
    began = time.monotonic()
    found = users_of_node(tree.machine(), tree.root / "dev/bus/usb/001/002", within_s=0.01)
    assert not found.complete
    assert time.monotonic() - began < 5
    assert users_of_node(tree.machine(), tree.root / "dev/bus/usb/001/002", within_s=60).complete


def test_a_machine_without_proc_has_no_programs(tree: Tree) -> None:
    assert list(processes(tree.machine())) == []
    assert users_of_pcsc(tree.machine()) == Holders()


def test_a_program_that_has_ended_and_one_that_hides_are_passed_over(tree: Tree) -> None:
    tree.file("/proc/101/comm", "gone\n")
    tree.process(102, "scdaemon", maps=PCSC, links=["socket:[771]"])
    assert users_of_pcsc(tree.machine()).programs == ("scdaemon (102)",)


def test_this_machines_programs_are_found_and_our_own_left_out(tmp_path: Path) -> None:
    held = tmp_path / "node"
    held.touch()
    machine = Machine(Settings(), log="")
    hold = "import os, sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    with (
        held.open(),
        subprocess.Popen(
            [sys.executable, "-c", hold, str(held)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child,
    ):
        assert child.stdout is not None
        child.stdout.readline()
        assert users_of_node(machine, held, within_s=60).programs == ()  # this process and its child
        assert any(process.pid == os.getpid() for process in processes(machine))
        assert named(machine, "no such program") == []
        outside = "import sys; from pathlib import Path; from ushield_hw.config import Settings\n"
        outside += "from ushield_hw.doctor.inspect.machine import Machine\n"
        outside += "from ushield_hw.system.processes import users_of_node\n"
        outside += "print(*users_of_node(Machine(Settings(), log=''), Path(sys.argv[1]), 60).programs, sep='\\n')"
        said = subprocess.check_output([sys.executable, "-c", outside, str(held)], text=True)
        assert f"({child.pid})" in said
        child.communicate()


CONNECT = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
sys.stdin.read()
"""
USERS = """
from ushield_hw.config import Settings
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.system.processes import users_of_pcsc
print(*users_of_pcsc(Machine(Settings(), log=""), 60).programs)
"""


@contextmanager
def service(place: Path) -> Iterator[tuple[int, Line]]:
    """A service with a client in another program; yields the client's process id and the service's end."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        command = [sys.executable, "-c", CONNECT, str(place)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as client:
            accepted, _ = listener.accept()
            with accepted:
                ends = {line.inode: line for line in lines()}
                yield client.pid, ends[os.fstat(accepted.fileno()).st_ino]
            client.communicate()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_the_kernel_says_whom_a_socket_leads_to(short: Path) -> None:
    with service(short / "pcscd.comm") as (pid, end):
        links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    assert end.name == str(short / "pcscd.comm")
    assert f"socket:[{end.peer}]" in links


def test_of_the_programs_with_a_connection_only_those_to_pcscd_are_named(short: Path) -> None:
    with service(short / "pcscd.comm") as (user, _), service(short / "other.comm") as (other, _):
        env = {**os.environ, "PCSCLITE_CSOCK_NAME": str(short / "pcscd.comm")}
        said = subprocess.check_output([sys.executable, "-c", USERS], env=env, text=True)
    assert f"({user})" in said
    assert f"({other})" not in said
