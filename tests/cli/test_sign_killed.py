"""``kill -9`` and a full disk at every step of ``sign``: then the journal knows whether the token may have signed.

A driver program runs the real command in one process and kills it before or after the n-th thing that lasts (a sync, a
rename, a link, a login, a signature), or lets the disk be full there. The token is behind the recording module, which
counts every C_Sign that was made, also by a process that is dead.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.cli.world import USHIELD, Bank, Done, Home
from ushield_hw.testing.faulty import FaultyModule, faulty_module

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

SIGN_CALLED: Final = 4
SOFTHSM: Final = Path("/usr/lib/softhsm/libsofthsm2.so").resolve()

PROGRAM: Final = """
import errno, os, signal, sys
end, point, log, words = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
steps = 0

def step(name, owner):
    global steps
    steps += 1
    with open(log, "a") as file:
        file.write(name + "\\n")
    if steps == point and end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if steps == point and owner is os:
        raise OSError(errno.ENOSPC, "No space left on device")

def watched(owner, name):
    real = getattr(owner, name)
    def call(*arguments, **options):
        step("before " + name, owner)
        answer = real(*arguments, **options)
        step("after " + name, owner)
        return answer
    setattr(owner, name, call)

for name in ("fsync", "replace", "link"):
    watched(os, name)
from ushield_hw.cryptoki.abi import Signer
from ushield_hw.cryptoki.engine import Engine
watched(Engine, "_c_login")
for name in ("begin", "finish"):
    watched(Signer, name)
from ushield_hw.cli.app import run
sys.exit(run(words))
"""

DESCRIPTOR: Final = """
id = "counted"
vendor = "ushield"
product = "SoftHSM2 behind a recorder"
kind = "software"
interface = "pkcs11"
confidence = "high"
sources = ["tests"]
[module]
linux = ["{path}"]
isolation = "in-process"
[pin]
policy_tries = 6
[pin.unblock]
via = "so-init-pin"
"""


@dataclass(frozen=True)
class Counted:
    """A home whose token is driven through the recording module."""

    home: Home
    module: FaultyModule
    uri: str

    def words(self, out: str) -> list[str]:
        sign = ["sign", "order.json", "--token", self.uri, "--pin-source", self.home.token.pin_file]
        return ["--drivers", "drivers", *map(str, sign), "--unattended", "-o", out, "--json"]

    def run(self, out: str) -> Done:
        """Run ``sign`` as anybody would."""
        return self._ended([USHIELD, *self.words(out)])

    def ended_at(self, point: int, end: str = "kill") -> tuple[int, list[str]]:
        """Run ``sign`` and end it at a point; return its exit code and the steps it made."""
        log = self.home.folder / "steps"
        done = self._ended([sys.executable, "-c", PROGRAM, end, str(point), str(log), *self.words("signed.p7m")])
        return done.code, log.read_text().splitlines() if log.exists() else []

    def _ended(self, command: list[str]) -> Done:
        done = subprocess.run(
            command,
            cwd=self.home.folder,
            env=self.home.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
            text=True,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def counted(shared: Home, tmp_path: Path) -> Counted:
    return fresh(shared, tmp_path / "counted")


def fresh(shared: Home, folder: Path) -> Counted:
    home = shared.copy(folder)
    (folder / "drivers").mkdir()
    module = faulty_module(folder, SOFTHSM)
    (folder / "drivers" / "counted.toml").write_text(DESCRIPTOR.format(path=module.path))
    home.order()
    uri = home.token.uri.partition("?")[0] + f"?module-path={module.path}"
    return Counted(home, module, uri)


def signatures(module: FaultyModule) -> int:
    """Count the signatures the token has made."""
    return sum(1 for call in module.calls if call.function == "C_Sign" and call.rv == 0 and not call.out_null)


def test_whatever_is_killed_nothing_is_signed_twice_and_nothing_signed_is_lost(
    shared: Home, bank: Bank, tmp_path: Path
) -> None:
    for point in count(1):
        case = fresh(shared, tmp_path / f"at-{point}")
        code, steps = case.ended_at(point)
        if code == 0:
            break
        assert code == -9, (point, steps)
        after_a_kill(case, bank, steps)
    assert point > 30, "the walk has become shorter: is every step still watched?"
    assert signatures(case.module) == 1


def after_a_kill(case: Counted, bank: Bank, steps: list[str]) -> None:
    """Run the same command again after a kill, without any: what it says must be what is true."""
    told = f"killed at {len(steps)}: {steps[-3:]}"
    renamed = steps.count("after replace")  # try counted, try given back, prepared, sign-called, signed
    before, made = signatures(case.module), (case.home.folder / "signed.p7m").exists()
    again = case.run("again.p7m" if made else "signed.p7m")
    if renamed == SIGN_CALLED:
        assert (again.code, again.document["error"]["code"]) == (9, "OUTCOME_STILL_UNKNOWN"), told
        assert signatures(case.module) == before, told
        return
    assert again.code == 0, (told, again.out)
    assert signatures(case.module) == 1, told
    assert again.document["again"] is (renamed > SIGN_CALLED), told
    written = case.home.folder / ("again.p7m" if made else "signed.p7m")
    assert bank.accepts(written), told
    assert not made or written.read_bytes() == (case.home.folder / "signed.p7m").read_bytes(), told


def test_wherever_the_disk_is_full_it_is_said_and_nothing_is_signed_twice(
    shared: Home, bank: Bank, tmp_path: Path
) -> None:
    for point in count(1):
        case = fresh(shared, tmp_path / f"at-{point}")
        code, steps = case.ended_at(point, "full")
        if len(steps) < point:
            break
        told = (point, steps[point - 1])
        assert code == (12 if told[1].split()[1] in {"fsync", "replace", "link"} else 0), told
        signed = signatures(case.module)
        after_a_full_disk(case, bank, told)
        assert signatures(case.module) == max(signed, 1), told


def after_a_full_disk(case: Counted, bank: Bank, told: object) -> None:
    """Run the same command again with room on the disk."""
    out = case.home.folder / "signed.p7m"
    made, signed = out.exists(), signatures(case.module)
    if made:  # the journal could not be written, the output could
        assert bank.accepts(out), told
        return
    again = case.run("signed.p7m")
    assert again.code == 0, (told, again.out)
    assert again.document["again"] is (signed > 0), told
    assert bank.accepts(out), told


def test_a_signature_whose_answer_is_lost_stays_unknown(counted: Counted, shared: Home, tmp_path: Path) -> None:
    _, whole = fresh(shared, tmp_path / "probe").ended_at(0)
    code, steps = counted.ended_at(whole.index("after finish") + 1)
    assert (code, signatures(counted.module)) == (-9, 1), steps
    again = counted.run("again.p7m")
    assert again.code == 9
    assert again.document["error"]["details"]["tx_id"] == counted.home.document("order.json")["tx_id"]
    assert signatures(counted.module) == 1


def test_the_walk_sees_every_step(counted: Counted) -> None:
    code, steps = counted.ended_at(0)
    assert code == 0
    assert {step.removeprefix("before ") for step in steps if step.startswith("before")} == {
        *("fsync", "replace", "link"),
        *("_c_login", "begin", "finish"),
    }
    assert os.path.exists(counted.home.folder / "signed.p7m")
