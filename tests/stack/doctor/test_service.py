"""Layer B: a PC/SC service that is absent, does not answer, or denies access. The client library is real."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from tests.stack.bench import ends
from tests.stack.doctor.asking import Answer, ask
from tests.unit.doctor.recorded import NO_SERVICE, POWERLESS, TOKEN, Tree, texts, told
from ushield_hw.doctor import runner
from ushield_hw.doctor.finding import Finding, Probe, Status
from ushield_hw.doctor.inspect import pcscd
from ushield_hw.doctor.probes import service
from ushield_hw.system.pcsc import Failure, Reader, ReaderList, Slot
from ushield_hw.testing.readers import PcscHost

pytestmark = pytest.mark.stack

NOWHERE: Final = "/run/nobody/pcscd.comm"
NO_SERVICE_CODE: Final = "0x8010001D"
# Unprivileged users can create user namespaces in which they appear as root.
AS_WHOM: Final = [] if os.geteuid() == 0 else ["--map-root-user"]


def pcscd_of(desk: PcscHost) -> int:
    return int((desk.folder / "run" / "pcscd.pid").read_text().strip("\0\n"))


# --- no service -------------------------------------------------------------------------------------------------------


def test_a_service_that_answers_gives_no_alarm(tree: Tree, desk: PcscHost) -> None:
    found = ask("B", tree, desk.env)
    assert found.alarms == []
    found.of(service.not_running).says(Status.OK)
    found.of(service.protocol_differs).says(Status.OK)


def test_pcscd_that_was_not_started(tree: Tree) -> None:
    tree.device(TOKEN)
    found = ask("B", tree, {"PCSCLITE_CSOCK_NAME": NOWHERE})
    found.of(service.not_running).says(
        Status.FAIL,
        "systemctl enable --now pcscd.socket",
        NOWHERE,
        name="SCARD_E_NO_SERVICE",
        number=NO_SERVICE_CODE,
        program="/usr/sbin/pcscd",
        devices=[TOKEN],
    )
    assert found.alarms == ["B11"]


def test_without_pcscd_and_without_a_reader_it_is_only_a_warning(tree: Tree) -> None:
    (tree.root / "usr/sbin/pcscd").unlink()
    found = ask("B", tree, {"PCSCLITE_CSOCK_NAME": NOWHERE})
    found.of(service.not_running).says(Status.WARN, "apt install pcscd", program="-", devices=["-"])
    assert found.alarms == ["B11"]


def test_a_pcscd_that_is_there_has_to_be_started_and_one_that_is_not_to_be_installed(tree: Tree) -> None:
    found = told_of(tree, service.not_running)
    assert "apt install" not in "".join(map("".join, texts(found).values()))
    (tree.root / "usr/sbin/pcscd").unlink()
    told(told_of(tree, service.not_running), service.not_running, Status.WARN, "apt install pcscd", kind="missing")


def told_of(tree: Tree, probe: Probe[Any], reader_list: ReaderList = NO_SERVICE, **environ: str) -> Finding:
    return probe(tree.machine(reader_list, environ=environ))


def test_a_service_that_listens_elsewhere_and_one_that_is_looked_for_elsewhere(tree: Tree, desk: PcscHost) -> None:
    tree.link("/var/run/pcscd/pcscd.comm", desk.env[pcscd.VARIABLE])
    found = told_of(tree, service.not_running)
    told(found, service.not_running, Status.WARN, "export PCSCLITE_CSOCK_NAME=/var/run/pcscd/pcscd.comm")
    (tree.root / "var/run/pcscd/pcscd.comm").unlink()
    found = told_of(tree, service.not_running, PCSCLITE_CSOCK_NAME="/mnt/pcscd.comm")
    told(found, service.not_running, Status.WARN, "unset PCSCLITE_CSOCK_NAME", "/mnt/pcscd.comm", kind="variable")


def test_without_the_library_it_is_the_library_that_is_named(tree: Tree) -> None:
    reader_list = ReaderList(failure=Failure("dlopen", "NO_LIBRARY"))
    found = told_of(tree, service.not_running, reader_list)
    told(found, service.not_running, Status.WARN, "libpcsclite.so.1", kind="library")


@pytest.mark.parametrize(("contained", "probe"), [(True, service.out_of_reach), (False, service.not_running)])
def test_a_link_that_leads_nowhere(tree: Tree, contained: bool, probe: Probe[Any]) -> None:
    tree.link("/run/pcscd/pcscd.comm", "/outside/pcscd.comm")
    if contained:
        tree.file("/.dockerenv")
    told(told_of(tree, probe), probe, Status.WARN, "/outside/pcscd.comm", kind="link", target="/outside/pcscd.comm")
    others = [one for one in service.PROBES if told_of(tree, one).is_problem]
    assert others == [probe]


def test_pcscd_that_greets_and_then_hangs_is_of_no_other_version(tree: Tree) -> None:
    machine = tree.machine(ReaderList(failure=Failure("SCardEstablishContext", "NO_ANSWER")))
    machine.hail = "4:5"
    told(service.no_answer(machine), service.no_answer, Status.FAIL, "pcscd", kind="hangs")
    assert service.protocol_differs(machine).status is Status.SKIP


def test_pcscd_that_was_killed_leaves_its_socket(tree: Tree) -> None:
    with PcscHost() as desk:
        pid = pcscd_of(desk)
        with ends(pid):
            os.kill(pid, signal.SIGKILL)
        found = ask("B", tree, desk.env)
        found.of(service.no_answer).says(Status.FAIL, "systemctl restart", hail="deaf", name="SCARD_E_NO_SERVICE")
        assert found.alarms == ["B12"]
        desk.restart()
        assert ask("B", tree, desk.env).alarms == []


def test_pcscd_that_hangs(tree: Tree, desk: PcscHost) -> None:
    pid = pcscd_of(desk)
    os.kill(pid, signal.SIGSTOP)
    try:
        found = ask("B", tree, desk.env, timeout_s=0.5)
    finally:
        os.kill(pid, signal.SIGCONT)
    found.of(service.no_answer).says(Status.FAIL, "journalctl -u pcscd", hail="silent", name="NO_ANSWER")
    assert found.alarms == ["B12"]


def test_somebody_at_whose_door_as_many_wait_as_may_is_silent_not_gone(tmp_path: Path) -> None:
    place = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server, ExitStack() as waiting:
        server.bind(str(place))
        server.listen(1)
        for _ in range(8):
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(str(place))
        assert pcscd.hail(place) == pcscd.SILENT


# --- access denied ----------------------------------------------------------------------------------------------------


@contextmanager
def polkit_refuses(folder: Path, answer: bytes = b"") -> Iterator[dict[str, str]]:
    """A socket that behaves like a pcscd whose polkit denies access; Debian 12's pcscd has no polkit support.

    Older versions close the connection, newer ones answer with SCARD_W_SECURITY_VIOLATION.
    """
    place = folder / "pcscd.comm"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        if answer:
                            client.recv(20, socket.MSG_WAITALL)
                            client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield {"PCSCLITE_CSOCK_NAME": str(place)}
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="doctor-", dir="/tmp") as folder:
        yield Path(folder)


NOT_AUTHORIZED: Final = (
    "pcscd[812]: 00000000 auth.c:143:IsClientAuthorized() "
    "Process 4711 (user: 1000) is NOT authorized for action: access_pcsc"
)
VIOLATION: Final = struct.pack("=iiI", 4, 5, 0x8010006A)


@pytest.mark.parametrize(
    ("answer", "name", "hail"),
    # Without an answer the client library returns a code of its own, which varies.
    [
        (b"", "SCARD_(E_NO_SERVICE|F_COMM_ERROR|W_SECURITY_VIOLATION)", "closed"),
        (VIOLATION, "SCARD_W_SECURITY_VIOLATION", "4:5"),
    ],
    ids=["older", "newer"],
)
def test_a_session_that_polkit_does_not_let_in(tree: Tree, short: Path, answer: bytes, name: str, hail: str) -> None:
    tree.file("/etc/polkit-1/rules.d/50-cards.rules", 'if (action.id == "org.debian.pcsc-lite.access_pcsc") {}')
    with polkit_refuses(short, answer) as env:
        found = ask("B", tree, {**env, "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, log=NOT_AUTHORIZED)
    found.of(service.not_authorized).says(
        Status.FAIL,
        "org.debian.pcsc-lite.access_pcsc",
        NOT_AUTHORIZED,
        hail=hail,
        session="ssh",
        rules=["/etc/polkit-1/rules.d/50-cards.rules"],
    )
    assert re.fullmatch(name, found.of(service.not_authorized).evidence["name"])
    assert found.alarms == ["B16"]


def test_a_socket_that_this_user_may_not_open(tree: Tree, short: Path) -> None:
    with polkit_refuses(short) as env:
        (short / "pcscd.comm").chmod(0o000)
        found = ask("B", tree, env, prefix=POWERLESS)
    found.of(service.not_authorized).says(Status.FAIL, "SocketMode=0666", "0000", hail="barred", kind="mode")
    assert found.alarms == ["B16"]


def test_a_folder_of_the_socket_that_is_closed(tree: Tree, short: Path) -> None:
    with polkit_refuses(short) as env:
        short.chmod(0o600)
        found = ask("B", tree, env, prefix=POWERLESS)
        short.chmod(0o700)
    found.of(service.not_authorized).says(Status.FAIL, "chmod 755", hail="barred", kind="folder")


def test_a_socket_whose_mode_allows_it_is_barred_by_a_profile(tree: Tree) -> None:
    tree.file("/run/pcscd/pcscd.comm")
    tree.file("/proc/self/attr/current", "bank-client (enforce)\n")
    machine = tree.machine(NO_SERVICE)
    machine.hail = "barred"
    told(service.not_authorized(machine), service.not_authorized, Status.FAIL, "bank-client (enforce)", kind="policy")


def in_namespaces(script: str, *values: str) -> list[str]:
    """Return the prefix of a command that runs in new namespaces, set up by a shell script.

    The values are the script's ``$1`` and so on; the script must run the remaining arguments, ``"$@"``.
    """
    return ["unshare", *AS_WHOM, "--mount", "--pid", "--fork", "sh", "-ec", script, "sh", *values]


def test_proc_that_hides_other_users_programs(short: Path) -> None:
    prefix = in_namespaces('mount -t proc -o hidepid=2 proc /proc; exec "$@"')
    with polkit_refuses(short) as env:
        found = ask("B", None, env, prefix=prefix)
        found.of(service.hidden_processes).says(Status.FAIL, "hidepid=0", "polkitd")
        assert found.of(service.hidden_processes).evidence["hidepid"] in {"2", "invisible"}
        assert ask("B", None, env).of(service.hidden_processes).status is Status.OK


def test_proc_that_hides_programs_disturbs_nobody_who_is_let_in(desk: PcscHost) -> None:
    prefix = in_namespaces('mount -t proc -o hidepid=2 proc /proc; exec "$@"')
    assert ask("B", None, desk.env, prefix=prefix).of(service.hidden_processes).status is Status.OK


_CHROOT: Final = """
jail=$1; shift
mount -t tmpfs none "$jail"
for place in /*; do
    if [ -L "$place" ]; then cp -d "$place" "$jail$place"
    elif [ "$place" = /run ] || [ "$place" = /proc ]; then mkdir "$jail$place"
    elif [ -d "$place" ]; then mkdir "$jail$place"; mount --rbind "$place" "$jail$place"
    fi
done
mount -t proc proc "$jail/proc"
chroot "$jail" sh -c 'cd "$0"; exec "$@"' "$PWD" "$@"
"""


def test_a_chroot_without_the_socket(tmp_path: Path) -> None:
    found = ask("B", None, {}, prefix=in_namespaces(_CHROOT, str(tmp_path)))
    found.of(service.out_of_reach).says(Status.WARN, "/run/pcscd", kind="chroot", socket="/run/pcscd/pcscd.comm")
    assert found.alarms == ["B18"]


def test_a_container_without_the_socket(tree: Tree) -> None:
    tree.file("/.dockerenv")
    (tree.root / "usr/sbin/pcscd").unlink()
    tree.device(TOKEN)
    found = ask("B", tree, {"PCSCLITE_CSOCK_NAME": NOWHERE})
    found.of(service.out_of_reach).says(Status.FAIL, "-v /run/pcscd:/run/pcscd", kind="container", devices=[TOKEN])
    assert found.alarms == ["B18"]


def test_a_container_with_a_pcscd_of_its_own_has_to_start_it(tree: Tree, desk: PcscHost) -> None:
    tree.file("/.dockerenv")
    assert ask("B", tree, {"PCSCLITE_CSOCK_NAME": NOWHERE}).alarms == ["B11"]
    assert ask("B", tree, desk.env).alarms == []


def library_of_another_version(folder: Path) -> Path:
    """Copy the PC/SC library with protocol version 4:5; return the folder."""
    (real,) = Path("/usr/lib").glob("*-linux-gnu/libpcsclite.so.1")
    content, spoken = bytearray(real.read_bytes()), struct.pack("=ii", 4, 4)
    place = content.rfind(spoken)  # the first ones belong to ELF
    assert content.count(spoken, 0x1000) == 1, "this build keeps its version elsewhere"
    content[place : place + 8] = struct.pack("=ii", 4, 5)
    folder.mkdir()
    (folder / "libpcsclite.so.1").write_bytes(content)
    return folder


def test_a_library_of_another_version_than_the_service(tree: Tree, desk: PcscHost, tmp_path: Path) -> None:
    folder = library_of_another_version(tmp_path / "other")
    env = {**desk.env, "LD_LIBRARY_PATH": str(folder)}
    before = len(desk.log)
    ask("B", tree, env)
    log = desk.log[before:]
    assert "Communication protocol mismatch!" in log
    found = ask("B", tree, env, log=log)
    found.of(service.protocol_differs).says(Status.FAIL, "4:4", "4:5", "libpcsclite", server="4:4", client="4:5")
    assert found.alarms == ["B19"]
    assert ask("B", tree, desk.env).alarms == []


def install(tree: Tree, path: str, looks_in: bytes = b"/run/pcscd/pcscd") -> None:
    (real,) = Path("/usr/lib").glob("*-linux-gnu/libpcsclite.so.1")
    content = real.read_bytes()
    assert b"/run/pcscd/pcscd" in content
    tree.file(path, content.replace(b"/run/pcscd/pcscd", looks_in))


def test_two_installations_of_pcsc_lite(tree: Tree, desk: PcscHost) -> None:
    install(tree, "/usr/lib/x86_64-linux-gnu/libpcsclite.so.1")
    install(tree, "/usr/lib64/libpcsclite.so.1")  # the same file through another path
    assert ask("B", tree, desk.env).alarms == []
    install(tree, "/usr/local/lib/libpcsclite.so.1", looks_in=b"/opt/pcscd/pcscd")
    libraries = [
        "/usr/lib/x86_64-linux-gnu/libpcsclite.so.1 -> /run/pcscd",
        "/usr/local/lib/libpcsclite.so.1 -> /opt/pcscd",
    ]
    ask("B", tree, desk.env).of(service.two_libraries).says(Status.WARN, "ldconfig", *libraries, libraries=libraries)
    found = ask("B", tree, {"PCSCLITE_CSOCK_NAME": NOWHERE})
    found.of(service.two_libraries).says(Status.FAIL, libraries=libraries)


@pytest.mark.parametrize(("kind", "variable"), [("flatpak", "FLATPAK_ID"), ("snap", "SNAP")])
def test_a_sandbox_that_was_not_given_the_socket(tree: Tree, desk: PcscHost, kind: str, variable: str) -> None:
    env = {**desk.env, variable: "cn.bank.App"}
    hide = in_namespaces('mount -t tmpfs none "$1"; shift; exec "$@"', str(desk.folder / "run"))
    found = ask("B", tree, env, prefix=hide)
    found.of(service.sandboxed).says(Status.WARN, "snap connect", "--socket=pcsc", kind=kind, number=NO_SERVICE_CODE)
    assert found.alarms == ["B22"]
    assert ask("B", tree, env).alarms == []


def test_a_vendors_own_daemon_beside_pcscd(tree: Tree, desk: PcscHost, tmp_path: Path) -> None:
    daemon = tmp_path / "pcscd_wd"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", daemon)
    tree.link("/proc", "/proc")
    assert ask("B", tree, desk.env).alarms == []
    with subprocess.Popen([daemon, "600"]) as process:
        try:
            found = ask("B", tree, desk.env)
        finally:
            process.kill()
    found.of(service.two_drivers).says(Status.WARN, f"pcscd_wd ({process.pid})", bundles=["-"])


def test_two_drivers_for_one_reader(tree: Tree, desk: PcscHost) -> None:
    tree.device(TOKEN)
    tree.reader_driver(TOKEN, "08e6:3437")
    tree.reader_driver("072f:90cc", name="ifd-acsccid", any_ccid=False)
    assert ask("B", tree, desk.env).alarms == []
    tree.reader_driver(TOKEN, name="ifd-vendor", any_ccid=False)
    bundles = [f"/usr/lib/pcsc/drivers/{name}.bundle" for name in ("ifd-ccid", "ifd-vendor")]
    ask("B", tree, desk.env).of(service.two_drivers).says(Status.WARN, *bundles, bundles=bundles, daemons=["-"])


# --- recorded ---------------------------------------------------------------------------------------------------------

SELINUX: Final = (
    'audit: type=1400 avc:  denied  { connectto } for  pid=99 comm="bank" path="/run/pcscd/pcscd.comm" '
    "scontext=user_t tcontext=pcscd_t tclass=unix_stream_socket permissive=0"
)
APPARMOR: Final = 'audit: type=1400 apparmor="DENIED" operation="connect" profile="bank" name="/run/pcscd/pcscd.comm"'


@pytest.mark.parametrize(("log", "module"), [(SELINUX, "SELinux"), (APPARMOR, "AppArmor")])
@pytest.mark.parametrize(("reader_list", "status"), [(NO_SERVICE, Status.FAIL), (ReaderList(), Status.WARN)])
def test_a_policy_that_forbids_it(tree: Tree, log: str, module: str, reader_list: ReaderList, status: Status) -> None:
    tree.file("/sys/fs/selinux/enforce", "1")
    told(
        service.denied_by_policy(tree.machine(reader_list, log=log)),
        service.denied_by_policy,
        status,
        log,
        module=module,
    )
    assert service.denied_by_policy(tree.machine(reader_list)).status is Status.OK


def windows(tree: Tree, reader_list: ReaderList, **environ: str) -> Any:
    return tree.machine(reader_list, system="win32", environ=environ)


def test_windows_stops_its_service_with_the_last_reader(tree: Tree) -> None:
    stopped = windows(tree, NO_SERVICE, SESSIONNAME="Console")
    told(service.windows_service_stopped(stopped), service.windows_service_stopped, Status.WARN, "sc start SCardSvr")
    assert service.windows_service_stopped(windows(tree, ReaderList())).status is Status.OK
    assert service.not_running(stopped).status is Status.SKIP


def test_a_remote_desktop_without_readers(tree: Tree) -> None:
    remote = windows(tree, ReaderList(), SESSIONNAME="RDP-Tcp#3")
    told(service.remote_desktop(remote), service.remote_desktop, Status.FAIL, "RDP-Tcp#3", session="RDP-Tcp#3")
    redirected = ReaderList((Reader("Maker Token 0", Slot.CARD, b"\x3b\x00"),))
    assert service.remote_desktop(windows(tree, redirected, SESSIONNAME="RDP-Tcp#3")).status is Status.OK
    assert service.remote_desktop(windows(tree, ReaderList(), SESSIONNAME="Console")).status is Status.OK


def test_a_windows_service_account(tree: Tree) -> None:
    denied = ReaderList(failure=Failure("SCardEstablishContext", "SCARD_E_NO_ACCESS", 0x80100027))
    told(
        service.service_account(windows(tree, denied, USERNAME="HOST$")), service.service_account, Status.FAIL, "HOST$"
    )
    assert service.service_account(windows(tree, denied, USERNAME="li", SESSIONNAME="Console")).status is Status.OK


def test_what_belongs_to_windows_is_not_asked_elsewhere(tree: Tree) -> None:
    for probe in (service.windows_service_stopped, service.remote_desktop, service.service_account):
        told(probe(tree.machine(NO_SERVICE)), probe, Status.SKIP, reason="not_on_this_system")


def test_every_cause_is_asked_once_and_in_order() -> None:
    numbers = [int(re.sub(r"\D", "", probe.id)) for probe in service.PROBES]
    assert numbers == list(range(11, 24))
    assert isinstance(Answer([]).alarms, list)


# --- pyscard ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("devices", "status"), [(False, Status.WARN), (True, Status.FAIL)])
def test_without_pyscard_readers_are_not_examined(tree: Tree, devices: bool, status: Status) -> None:
    if devices:
        tree.device(TOKEN)
    machine = tree.machine(ReaderList(failure=Failure("import", "NO_PYSCARD")))
    first, *others = runner._service(machine)
    assert (first.id, first.status, first.evidence["kind"]) == ("B11", status, "package")
    assert "pyscard" in str(first.cause())
    assert str(first.evidence["install"]) in str(first.remedy())
    assert all(one.unchecked and one.evidence["reason"] == "no_pyscard" for one in others)
    assert len(others) == len(service.PROBES) - 1
