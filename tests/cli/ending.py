"""Ends a command at each persistent step: a wrapper runs the real command and kills itself or fakes a full disk there.

The functions to watch are given as ``(owner, name)``: functions of ``os``, and methods by the path of their class. The
token is behind the faulty module, whose record of calls survives the process.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cli import forked
from tests.cli.world import Done, Home
from ushield_hw.testing.faulty import FaultyModule, faulty_module

SOFTHSM: Final = Path("/usr/lib/softhsm/libsofthsm2.so").resolve()
DISK: Final = ("os.fsync", "os.replace", "os.link")
ON_TOKEN: Final = ("generate", "write_certificate", "relabel", "destroy", "sign")
"""What changes a token or makes it sign: methods of the engine, and of the module in front of it."""

_PROGRAM: Final = """
import errno, os, signal, sys
from importlib import import_module
end, point, log, watched, words = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4].split(), sys.argv[5:]
steps = 0

def step(name, owner):
    global steps
    steps += 1
    with open(log, "a") as file:
        file.write(name + "\\n")
    if steps == point and end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if (steps == point or end == "full for ever" and steps > point) and owner is os:
        raise OSError(errno.ENOSPC, "No space left on device")

def watch(owner, name):
    real = getattr(owner, name)
    def call(*arguments, **options):
        step("before " + name, owner)
        answer = real(*arguments, **options)
        step("after " + name, owner)
        return answer
    setattr(owner, name, call)

for place in watched:
    path, _, name = place.rpartition(".")
    module, _, owner = path.partition(":")
    found = import_module(module)
    watch(getattr(found, owner) if owner else found, name)
from dataclasses import replace
from ushield_hw import config
# As where the system's configuration consents to the descriptor: its module runs in this process.
load_settings = config.load_settings
config.load_settings = lambda *arguments, **options: replace(load_settings(*arguments, **options), consent=("counted",))
from ushield_hw.cli.app import run
sys.exit(run(words))
"""

_DESCRIPTOR: Final = """
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
    """A home whose first token is used through the faulty module."""

    home: Home
    module: FaultyModule
    uri: str

    def run(self, *words: object) -> Done:
        """Run a command without ending it."""
        return self._forked(self._words(words))

    def ended_at(self, point: int, words: Sequence[object], watched: Sequence[str], end: str = "kill") -> Ended:
        """Run a command and end it at a point; 0: never."""
        log = self.home.folder / "steps"
        log.unlink(missing_ok=True)
        program, *arguments = ending(point, log, watched, end)[2:]
        done = self._forked([*arguments, *self._words(words)], program)
        return Ended(done, log.read_text().splitlines() if log.exists() else [])

    def _words(self, words: Sequence[object]) -> list[str]:
        return ["--drivers", "drivers", *map(str, words)]

    def _forked(self, words: list[str], program: str | None = None) -> Done:
        return forked.run(words, self.home.folder, self.home.environment, program)


def ending(point: int, log: Path, watched: Sequence[str], end: str = "kill") -> list[str]:
    """Return the prefix of a command that runs ``ushield`` and ends it at a point; the steps are logged to ``log``."""
    return [sys.executable, "-c", _PROGRAM, end, str(point), str(log), " ".join(watched)]


@dataclass(frozen=True)
class Ended:
    """The result of a command, and the steps it performed."""

    done: Done
    steps: list[str]

    @property
    def code(self) -> int:
        """Its exit code; -9: killed."""
        return self.done.code


def points(steps: list[str]) -> list[int]:
    """Return the points after each completed step: nothing changes between such a point and the next step."""
    return [number for number, step in enumerate(steps, start=1) if step.startswith("after")]


def counted(shared: Home, folder: Path) -> Counted:
    """Return a copy of a home with its first token behind the faulty module."""
    home = shared.copy(folder)
    for name in ("drivers", "recorder"):  # the home may itself be such a copy
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    module = faulty_module(folder / "recorder", SOFTHSM)
    (folder / "drivers" / "counted.toml").write_text(_DESCRIPTOR.format(path=module.path))
    return Counted(home, module, home.token.uri.partition("?")[0] + f"?module-path={module.path}")
