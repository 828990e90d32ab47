"""Cause B16 with a real pcscd, polkitd and D-Bus in separate namespaces.

``tools/polkit_pcscd.sh`` builds the pcscd. polkitd must run as root, and root is always authorised; so the doctor runs
as another user.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.project.tree import ROOT
from tests.stack.doctor.asking import ask
from tests.unit.doctor.recorded import Tree
from ushield_hw.doctor.finding import Status
from ushield_hw.doctor.probes import service

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]

MADE: Final = ROOT / ".venv" / "polkit"
NOBODY: Final = 65534
AS_ROOT: Final = [] if os.geteuid() == 0 else ["sudo", "-n", "-E"]
# Another user with root's read permission: the interpreter may be in a home folder.
READS: Final = "+dac_override,+dac_read_search"
AS_NOBODY: Final = (
    *AS_ROOT,
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *(f"--inh-caps={READS}", f"--ambient-caps={READS}"),
)

_BUS: Final = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={bus}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
# $1: the folder; $2: pcscd. Prints "ready" when pcscd listens; exits at the end of its input.
_SCRIPT: Final = """
cd "$1"
exec 2>said
daemons=
trap 'kill $daemons' EXIT
wait_for() {
    for _ in $(seq 200); do if "$@" >tried 2>&1; then return; fi; sleep 0.05; done
    cat tried >&2; exit 1
}
mount --bind actions /usr/share/polkit-1/actions
mkdir -p /etc/polkit-1/rules.d
mount --bind rules /etc/polkit-1/rules.d
mount -t tmpfs none /run
mkdir /run/pcscd
mount --bind run /run/pcscd
dbus-daemon --config-file=bus.conf --nofork --nopidfile &
daemons="$daemons $!"
wait_for [ -S bus ]
export DBUS_SYSTEM_BUS_ADDRESS="unix:path=$1/bus"
/usr/lib/polkit-1/polkitd --no-debug &
daemons="$daemons $!"
wait_for dbus-send --system --print-reply --dest=org.freedesktop.DBus / \\
    org.freedesktop.DBus.GetNameOwner string:org.freedesktop.PolicyKit1
"$2" --foreground --config "$1/readers" >log 2>&1 &
daemons="$daemons $!"
wait_for [ -S run/pcscd.comm ]
echo ready
read -r _ || true
"""


class Guarded:
    """A pcscd that checks polkit.

    Attributes:
        folder: holds its socket, its log and polkit's rules.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("actions", "rules", "run", "readers"):
            (folder / name).mkdir()
        for place in (folder, *folder.iterdir()):
            place.chmod(0o755)  # polkitd and the doctor run as other users
        policy = "org.debian.pcsc-lite.policy"
        (folder / "actions" / policy).write_bytes((MADE / policy).read_bytes())
        (folder / "bus.conf").write_text(_BUS.format(bus=folder / "bus"))

    @property
    def env(self) -> dict[str, str]:
        return {"PCSCLITE_CSOCK_NAME": str(self.folder / "run" / "pcscd.comm")}

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def allow(self, rule: str) -> None:
        (self.folder / "rules" / "50-cards.rules").write_text(rule)


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    with tempfile.TemporaryDirectory(prefix="polkit-", dir="/tmp") as short:
        yield Guarded(Path(short))


@pytest.fixture
def running(guarded: Guarded) -> Iterator[Guarded]:
    namespaces = ("unshare", "--mount", "--net")
    command = [*AS_ROOT, *namespaces, "sh", "-ec", _SCRIPT, "sh", str(guarded.folder), str(MADE / "pcscd")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", (guarded.folder / "said").read_text()
        yield guarded


RULE: Final = """polkit.addRule(function(action, subject) {
    var pcsc = ["org.debian.pcsc-lite.access_pcsc", "org.debian.pcsc-lite.access_card"];
    if (pcsc.indexOf(action.id) >= 0 && subject.user == "nobody") { return polkit.Result.YES; }
});
"""


def test_a_session_that_is_not_at_the_machines_own_screen(running: Guarded, tree: Tree) -> None:
    ask("B", tree, running.env, prefix=AS_NOBODY)
    assert f"(user: {NOBODY}) is NOT authorized for action: access_pcsc" in running.log
    found = ask(
        "B", tree, {**running.env, "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, prefix=AS_NOBODY, log=running.log
    )
    said = found.of(service.not_authorized)
    said.says(Status.FAIL, "org.debian.pcsc-lite.access_pcsc", f"user: {NOBODY}", session="ssh", rules=["-"])
    assert found.alarms == ["B16"]


def test_root_is_let_in(running: Guarded, tree: Tree) -> None:
    assert ask("B", tree, running.env, prefix=AS_ROOT).alarms == []


def test_the_rule_of_the_remedy_lets_in(guarded: Guarded, request: pytest.FixtureRequest, tree: Tree) -> None:
    guarded.allow(RULE)
    running: Guarded = request.getfixturevalue("running")
    assert ask("B", tree, running.env, prefix=AS_NOBODY).alarms == []
