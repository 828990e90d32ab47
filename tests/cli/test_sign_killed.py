"""``kill -9`` and a full disk at every step of ``sign``: the journal then shows whether the token may have signed.

Before or after the n-th persistent step: a write, a sync, a rename, a link, a login, a signature.
"""

from __future__ import annotations

import os
from base64 import b64decode
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.cli.ending import DISK, Counted, counted
from tests.cli.world import Bank, Done, Home
from ushield_hw.testing.faulty import Fault, FaultyModule, returns

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

SIGN_CALLED: Final = 1
"""The journal's writes up to that one; nobody is asked, so that prepared and sign-called are one."""

WATCHED: Final = (
    *DISK,
    "os.write",
    "os.pwrite",
    "os.fdatasync",
    "ushield_hw.backend.pkcs11.engine:Engine._c_login",
    "ushield_hw.backend.pkcs11.function_list:Signer.begin",
    "ushield_hw.backend.pkcs11.function_list:Signer.finish",
)


@dataclass(frozen=True)
class Case:
    """An order to be signed with a token behind the faulty module."""

    counted: Counted

    @property
    def home(self) -> Home:
        return self.counted.home

    @property
    def module(self) -> FaultyModule:
        return self.counted.module

    def run(self, out: str) -> Done:
        """Run ``sign`` without ending it."""
        return self.counted.run(*self.words(out))

    def ended_at(self, point: int, end: str = "kill") -> tuple[int, list[str]]:
        """Run ``sign`` and end it at a point; return its exit code and the steps it performed."""
        ended = self.counted.ended_at(point, self.words("signed.p7m"), WATCHED, end)
        return ended.code, ended.steps

    def words(self, out: str) -> list[object]:
        known = ["--token", self.counted.uri, "--pin-source", self.home.token.pin_file]
        return ["sign", "order.json", *known, "--unattended", "-o", out, "--json"]


@pytest.fixture
def case(shared: Home, tmp_path: Path) -> Case:
    return fresh(shared, tmp_path / "counted")


def fresh(shared: Home, folder: Path) -> Case:
    made = Case(counted(shared, folder))
    made.home.order()
    return made


def signatures(module: FaultyModule) -> int:
    """Return how many signatures the token has made."""
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


def after_a_kill(case: Case, bank: Bank, steps: list[str]) -> None:
    """Run the same command again after a kill; its result must match what happened."""
    told = f"killed at {len(steps)}: {steps[-3:]}"
    written = steps.count("after write")
    before, made = signatures(case.module), (case.home.folder / "signed.p7m").exists()
    again = case.run("again.p7m" if made else "signed.p7m")
    if written == SIGN_CALLED:
        assert (again.code, again.document["error"]["code"]) == (9, "OUTCOME_STILL_UNKNOWN"), told
        assert signatures(case.module) == before, told
        return
    assert again.code == 0, (told, again.out)
    assert signatures(case.module) == 1, told
    assert again.document["replayed"] is (written > SIGN_CALLED), told
    out = case.home.folder / ("again.p7m" if made else "signed.p7m")
    assert bank.accepts(out), told
    assert not made or out.read_bytes() == (case.home.folder / "signed.p7m").read_bytes(), told


def test_wherever_the_disk_is_full_it_is_said_and_nothing_is_signed_twice(
    shared: Home, bank: Bank, tmp_path: Path
) -> None:
    for point in count(1):
        case = fresh(shared, tmp_path / f"at-{point}")
        code, steps = case.ended_at(point, "full")
        if len(steps) < point:
            break
        told = (point, steps[point - 1])
        assert code == (12 if told[1].split()[1] in {"write", "fsync", "fdatasync", "replace", "link"} else 0), told
        signed = signatures(case.module)
        after_a_full_disk(case, bank, told)
        assert signatures(case.module) == max(signed, 1), told


def after_a_full_disk(case: Case, bank: Bank, told: object) -> None:
    """Run the same command again with free disk space."""
    out = case.home.folder / "signed.p7m"
    made, signed = out.exists(), signatures(case.module)
    if made:  # the journal could not be written, the output file could
        assert bank.accepts(out), told
        return
    again = case.run("signed.p7m")
    assert again.code == 0, (told, again.out)
    assert again.document["replayed"] is (signed > 0), told
    assert bank.accepts(out), told


def test_a_signature_whose_answer_is_lost_stays_unknown(case: Case, shared: Home, tmp_path: Path) -> None:
    _, whole = fresh(shared, tmp_path / "probe").ended_at(0)
    code, steps = case.ended_at(whole.index("after finish") + 1)
    assert (code, signatures(case.module)) == (-9, 1), steps
    again = case.run("again.p7m")
    assert again.code == 9
    assert again.document["error"]["details"]["tx_id"] == case.home.document("order.json")["tx_id"]
    assert signatures(case.module) == 1


def test_the_walk_sees_every_step(case: Case) -> None:
    code, steps = case.ended_at(0)
    assert code == 0
    assert {step.removeprefix("before ") for step in steps if step.startswith("before")} == {
        *("write", "pwrite", "fsync", "fdatasync", "replace", "link"),
        *("_c_login", "begin", "finish"),
    }
    assert os.path.exists(case.home.folder / "signed.p7m")


def test_a_token_that_does_not_end_well_has_signed_all_the_same(case: Case, bank: Bank) -> None:
    endings = ("C_Logout", "C_CloseSession", "C_CloseAllSessions", "C_Finalize")
    case.module.plan([Fault(function, None, returns("CKR_GENERAL_ERROR")) for function in endings])
    done = case.run("signed.p7m")
    assert (done.code, done.document["replayed"]) == (0, False), done.err
    assert bank.accepts(case.home.folder / "signed.p7m")


def test_the_only_copy_is_never_lost(case: Case, shared: Home, bank: Bank, tmp_path: Path) -> None:
    """Neither the journal nor the output file can be written after the token has signed."""
    _, whole = fresh(shared, tmp_path / "probe").ended_at(0)
    point = whole.index("after finish") + 2
    ended = case.counted.ended_at(point, case.words("signed.p7m"), WATCHED, "full for ever")
    assert (ended.code, ended.done.document["error"]["code"]) == (12, "SIGNED_NOT_KEPT"), ended.done.err
    (copy,) = [line for line in ended.done.err.splitlines() if line.startswith("MII")]
    (case.home.folder / "copy.p7m").write_bytes(b64decode(copy))
    assert bank.accepts(case.home.folder / "copy.p7m")
