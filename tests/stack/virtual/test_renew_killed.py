"""``kill -9`` of the command after every step of a renewal on the virtual U-shield, followed by the same command."""

from __future__ import annotations

import os
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.cli.ending import DISK, ON_TOKEN, ending, points
from tests.rotation import share
from tests.stack.virtual.test_renew import Renewing, begin_anew
from ushield_hw.backend.module import close_modules
from ushield_hw.testing.shield import VirtualShield

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

MODULE: Final = "ushield_hw.backend.module:Module."
WATCHED: Final = (
    *DISK,
    *(MODULE + name for name in ON_TOKEN),
)


class Command:
    """``ushield cert renew`` for a U-shield, with request and certificate files."""

    def __init__(self, renewing: Renewing, folder: Path, options: tuple[str, ...]) -> None:
        self.renewing = renewing
        self.options = options
        self.folder = folder
        (folder / "ca.pem").write_bytes(renewing.ca.pem)
        memory = renewing.shield.card.memory
        self._before = deepcopy((memory.files, memory.keys))

    def afresh(self) -> None:
        """Restore the initial state of the card and this host."""
        memory = self.renewing.shield.card.memory
        memory.files, memory.keys = deepcopy(self._before)
        for name in ("request", "new.pem"):
            (self.folder / name).unlink(missing_ok=True)
        begin_anew(self.renewing)

    def out(self, point: int = 0) -> int:
        return self._run(point, "--out", "request", *self.options)

    def certify(self) -> None:
        der = self.renewing.certify((self.folder / "request").read_bytes())
        self.renewing.issued = der
        (self.folder / "new.pem").write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))

    def into(self, point: int = 0) -> int:
        return self._run(point, "--in", "new.pem", "--ca", "ca.pem")

    def steps(self) -> list[str]:
        return (self.folder / "steps").read_text().splitlines()

    def check_middle(self, told: tuple[int, str]) -> None:
        """After any kill, exactly one pair is in use and its key is present.

        One exception: if the key is kept, OpenSC writes the new certificate only after the old one is deleted.
        """
        close_modules()
        if self.options and told[1] == "after destroy":
            assert self.renewing.pairs() == ()
            return
        assert self.renewing.in_use().has_key, told

    def check_end(self, told: tuple[int, str]) -> None:
        """Only the new pair is left."""
        close_modules()
        assert self.renewing.in_use().facts.der == self.renewing.issued, told
        assert self.renewing.on_card() == (1, 1), told

    def _run(self, point: int, *words: Any) -> int:
        shield = self.renewing.shield
        (self.folder / "steps").unlink(missing_ok=True)
        program = ending(point, self.folder / "steps", WATCHED)
        known = ("cert", "renew", "--token", shield.uri, "--pin-source", str(shield.pin_file))
        whole = [*program, *known, *words]
        done = subprocess.run(whole, cwd=self.folder, env=os.environ, capture_output=True, timeout=60, check=False)
        return done.returncode


@pytest.fixture(params=[(), ("--same-key",)], ids=["new key", "same key"])
def command(virtual_shield: VirtualShield, tmp_path: Path, request: pytest.FixtureRequest) -> Command:
    virtual_shield.answer("ok")
    command = Command(Renewing(virtual_shield), tmp_path, request.param)
    assert command.out() == 0  # the first command on a host writes more files
    command.afresh()
    return command


def test_the_request_is_made_whatever_is_killed(command: Command) -> None:
    assert command.out() == 0
    steps = command.steps()
    assert len(points(steps)) > 5, steps
    for point in share(points(steps), 4):
        command.afresh()
        told = (point, steps[point - 1])
        assert command.out(point) == -9, told
        command.check_middle(told)
        assert command.out() == 0, told
        command.certify()
        assert command.into() == 0, told
        command.check_end(told)
    command.renewing.signs()


def test_the_certificate_is_taken_whatever_is_killed(command: Command) -> None:
    assert command.out() == 0
    command.certify()
    assert command.into() == 0
    steps = command.steps()
    assert len(points(steps)) > 5, steps
    for point in share(points(steps), 4):
        command.afresh()
        told = (point, steps[point - 1])
        assert command.out() == 0, told
        command.certify()
        assert command.into(point) == -9, told
        command.check_middle(told)
        assert command.into() == 0, told
        command.check_end(told)
    command.renewing.signs()
