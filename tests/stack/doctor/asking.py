"""Runs the doctor's probes in a separate process: the PC/SC library reads the socket path once per process.

``python -m tests.stack.doctor.asking`` reads a request, prints ``seen`` once it has listed the readers, waits for
another line, runs the layer's probes and prints the findings in both languages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.project.tree import ROOT
from tests.unit.doctor.recorded import Tree, readable, texts
from ushield_hw.config import Settings
from ushield_hw.doctor.finding import Finding, Probe, Status
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes import card, reader, service
from ushield_hw.system import pcsc

_WITHIN_S: Final = 30.0
_HOME: Final = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


@dataclass(frozen=True)
class Told:
    """A finding as returned by the other process."""

    id: str
    probe: str
    subject: str
    status: Status
    evidence: dict[str, Any]
    texts: dict[str, tuple[str, str]]

    def says(self, status: Status, *words: str, **evidence: Any) -> None:
        """Assert status and evidence; the words must occur in the texts of each language."""
        assert self.status is status, self.evidence
        assert {name: self.evidence.get(name) for name in evidence} == evidence
        readable(self.texts, self.id, *words)


@dataclass
class Answer:
    """All findings of one run."""

    findings: list[Told]

    def of(self, probe: Probe[Any], subject: str | None = None) -> Told:
        """Return the finding of a probe, optionally for one subject."""
        (found,) = (one for one in self.findings if one.id == probe.id and subject in {None, one.subject})
        return found

    @property
    def alarms(self) -> list[str]:
        """The ids of warnings and failures."""
        return [one.id for one in self.findings if one.status in {Status.WARN, Status.FAIL}]


class Asking:
    """A process that examines a machine. ``tree``: its recorded files; None: this machine."""

    def __init__(
        self,
        layer: str,
        tree: Tree | None = None,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        **how: Any,
    ) -> None:
        if tree is not None:
            how = {"root": str(tree.root), "drivers": str(tree.drivers), **how}
            _show_socket(tree, (env or {}).get("PCSCLITE_CSOCK_NAME"))
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.stack.doctor.asking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**_HOME, **(env or {})},
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"layer": layer, **how}) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "seen\n"

    def go(self) -> None:
        """Start the probes."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def answer(self) -> Answer:
        """Return the findings."""
        said, _ = self._process.communicate(timeout=_WITHIN_S)
        assert self._process.returncode == 0
        assert "probe_failed" not in said
        return Answer([Told(**{**one, "status": Status(one["status"])}) for one in json.loads(said)])


def ask(layer: str, tree: Tree | None = None, env: Mapping[str, str] | None = None, **how: Any) -> Answer:
    """Examine a machine without a pause between listing the readers and running the probes."""
    asking = Asking(layer, tree, env, **how)
    asking.go()
    return asking.answer()


def _show_socket(tree: Tree, place: str | None) -> None:
    """Link pcscd's socket into the tree at the path that the environment names."""
    if place is not None and os.path.lexists(place) and not (tree.root / place.lstrip("/")).is_symlink():
        tree.link(place, place)


@contextmanager
def another_program(env: Mapping[str, str], reader_name: str, does: str) -> Iterator[int]:
    """Another program that uses the card in a reader; yields its process id.

    ``does``: ``exclusive`` or ``transaction``: keeps the card locked; ``reset``: resets it repeatedly.
    """
    command = [sys.executable, "-c", _PROGRAM, reader_name, does]
    with subprocess.Popen(command, env={**_HOME, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"has it\n"
        try:
            yield program.pid
        finally:
            program.kill()


_PROGRAM: Final = """
import select, sys
from smartcard import scard
name, does = sys.argv[1:]
share = scard.SCARD_SHARE_EXCLUSIVE if does == "exclusive" else scard.SCARD_SHARE_SHARED
context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)[1]
def connected():
    rv, card, _ = scard.SCardConnect(context, name, share, scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1)
    assert rv == 0, hex(rv & 0xFFFFFFFF)
    return card
card = connected()
if does == "transaction":
    assert scard.SCardBeginTransaction(card) == 0
print("has it", flush=True)
while not select.select([sys.stdin], [], [], 0.05)[0]:
    if does == "reset":
        scard.SCardDisconnect(card, scard.SCARD_RESET_CARD)
        card = connected()
"""


def _find(layer: str, machine: Machine, hold_s: float) -> list[Finding]:
    if layer == "B":
        return [probe(machine) for probe in service.PROBES]
    if layer == "C":
        return [probe(machine) for probe in reader.PROBES]
    found = [probe(machine) for probe in card.MACHINE_PROBES]
    for one in card.readers(machine):
        here = card.InReader(machine, one.reader, hold_s)
        found += [probe(here, one.reader.name) for probe in card.PROBES]
    return found


def _main() -> None:
    request = json.loads(sys.stdin.readline())
    pcsc.DEADLINE_S = request.get("timeout_s", pcsc.DEADLINE_S)  # type: ignore[misc]
    settings = Settings(drivers=(Path(request["drivers"]),) if "drivers" in request else ())
    machine = Machine(
        settings, Path(request.get("root", "/")), log=request.get("log", ""), selector=request.get("selector")
    )
    assert machine.reader_list is not None
    print("seen", flush=True)
    sys.stdin.readline()
    findings = _find(request["layer"], machine, request.get("hold_s", 0.1))
    rows = [
        {
            "id": finding.id,
            "probe": finding.probe,
            "subject": finding.subject,
            "status": finding.status.value,
            "evidence": finding.evidence,
            "texts": texts(finding) if finding.is_problem else {},
        }
        for finding in findings
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    _main()
