"""``kill -9`` and a full disk after every persistent step of a renewal, followed by the same command.

In every case: exactly one pair is in use and signs; no orphaned object is left at the end; the bank gets one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.ending import DISK, ON_TOKEN, Counted, counted, points
from tests.cli.test_renew import issue, objects
from tests.cli.world import Bank, Home
from tests.rotation import share

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

ENGINE: Final = "ushield_hw.backend.pkcs11.engine:Engine."
WATCHED: Final = (
    *DISK,
    *(ENGINE + name for name in ON_TOKEN),
)
SAME_KEY: Final = ("--same-key",)


@dataclass(frozen=True)
class Case:
    """A renewal in its own home, with the token behind the faulty module."""

    counted: Counted
    options: tuple[str, ...] = ()

    @property
    def home(self) -> Home:
        return self.counted.home

    def words(self, *more: object) -> tuple[object, ...]:
        known = ("--token", self.counted.uri, "--pin-source", self.home.token.pin_file)
        return ("cert", "renew", *known, *more, "--json")

    @property
    def out(self) -> tuple[object, ...]:
        return self.words("--out", "request", *self.options)

    @property
    def into(self) -> tuple[object, ...]:
        return self.words("--in", "new.pem")

    def certificates(self) -> list[dict[str, Any]]:
        found = self.counted.run("cert", "list", "--token", self.counted.uri, "--json")
        return found.document["certificates"]  # type: ignore[no-any-return]

    def in_use(self, told: object) -> dict[str, Any]:
        """Return the only pair in use."""
        (found,) = [one for one in self.certificates() if one["activated"] and one["has_key"]]
        assert found, told
        return found

    def sign(self, bank: Bank, told: object) -> str:
        """Sign an order; return the serial number of the certificate that signed."""
        order, signed = self.home.order("order.json"), self.home.file("signed.p7m")
        signed.unlink(missing_ok=True)
        known = ("--token", self.counted.uri, "--pin-source", self.home.token.pin_file)
        done = self.counted.run("sign", order, *known, "--unattended", "-o", "signed.p7m", "--json")
        assert done.code == 0, (told, done)
        assert bank.accepts(signed), told
        said = self.counted.run("verify", "signed.p7m", "--ca", bank.ca, "--json")
        return str(said.document["signer"]["serial"])


def renewing(shared: Home, folder: Path, options: tuple[str, ...] = ()) -> Case:
    return Case(counted(shared, folder), options)


def steps_of(case: Case, words: tuple[object, ...]) -> list[str]:
    ended = case.counted.ended_at(0, words, WATCHED)
    assert ended.code == 0, ended
    return ended.steps


def check_middle(case: Case, bank: Bank, told: object) -> None:
    """After any kill, exactly one pair is in use, and it signs."""
    assert case.sign(bank, told) == case.in_use(told)["serial"], told


def check_end(case: Case, bank: Bank, told: object) -> None:
    """Only the new pair is left, and it signs."""
    (left,) = case.certificates()
    assert left["activated"], told
    assert case.sign(bank, told) == left["serial"], told
    assert {kind for kind, *_ in objects(case.home)} == {"certificate", "private", "public"}, told
    assert len(objects(case.home)) == 3, told


@pytest.mark.parametrize("options", [(), SAME_KEY], ids=["new key", "same key"])
def test_the_request_is_made_once_whatever_is_killed(
    shared: Home, bank: Bank, tmp_path: Path, options: tuple[str, ...]
) -> None:
    whole = renewing(shared, tmp_path / "whole", options)
    steps = steps_of(whole, whole.out)
    assert len(points(steps)) > (8 if options else 12), steps
    for point in share(points(steps), 4):
        case = renewing(shared, tmp_path / f"at-{point}", options)
        ended = case.counted.ended_at(point, case.out, WATCHED)
        told = (point, steps[point - 1])
        assert ended.code == -9, told
        check_middle(case, bank, told)
        written = case.home.file("request")
        before = written.read_bytes() if written.exists() else None
        again = case.counted.run(*case.out)
        assert again.code == 0, (told, again)
        assert before in {None, written.read_bytes()}, told
        issue(case.home, bank)
        done = case.counted.run(*case.into)
        assert done.code == 0, (told, done)
        check_end(case, bank, told)


@pytest.mark.parametrize("options", [(), SAME_KEY], ids=["new key", "same key"])
def test_the_certificate_is_taken_whatever_is_killed(
    shared: Home, bank: Bank, tmp_path: Path, options: tuple[str, ...]
) -> None:
    begun = renewing(shared, tmp_path / "begun", options)
    assert begun.counted.run(*begun.out).code == 0
    issue(begun.home, bank)
    whole = renewing(begun.home, tmp_path / "whole", options)
    steps = steps_of(whole, whole.into)
    assert len(points(steps)) > 12, steps
    for point in share(points(steps), 4):
        case = renewing(begun.home, tmp_path / f"at-{point}", options)
        ended = case.counted.ended_at(point, case.into, WATCHED)
        told = (point, steps[point - 1])
        assert ended.code == -9, told
        check_middle(case, bank, told)
        again = case.counted.run(*case.into)
        assert again.code == 0, (told, again)
        check_end(case, bank, told)


def test_wherever_the_disk_is_full_it_is_said_and_the_same_command_goes_on(
    shared: Home, bank: Bank, tmp_path: Path
) -> None:
    whole = renewing(shared, tmp_path / "whole")
    steps = whole.counted.ended_at(0, whole.out, DISK).steps
    assert len(steps) > 20, steps
    for point in share(range(1, len(steps) + 1), 4):
        case = renewing(shared, tmp_path / f"at-{point}")
        ended = case.counted.ended_at(point, case.out, DISK, "full")
        told = (point, ended.steps[point - 1])
        assert ended.code == 12, (told, ended.done)
        check_middle(case, bank, told)
        assert case.counted.run(*case.out).code == 0 or case.home.file("request").exists(), told
        issue(case.home, bank)
        assert case.counted.run(*case.into).code == 0, told
        check_end(case, bank, told)
