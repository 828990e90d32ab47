"""``ushield demo``: the complete workflow as a sequence of commands.

It runs in a temporary folder with its own state folder.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click

from ushield_hw import messages
from ushield_hw.cli import output
from ushield_hw.cli.help import Command
from ushield_hw.cli.terminal import Terminal
from ushield_hw.config import data_dir, data_file
from ushield_hw.errors import DriverNotFound, UShieldError
from ushield_hw.order.fresh import renewed

_REFUSED: Final = 10
_STEPS: Final = 12
_CA_CONFIG: Final = """\
basicConstraints = critical, CA:FALSE
keyUsage = critical, nonRepudiation
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(slots=True)
class _Demo:
    """The state of a run."""

    folder: Path
    environment: dict[str, str]
    attended: bool
    step: int = 0
    token: str = ""

    def say(self, name: str) -> None:
        """Print the heading of a step."""
        self.step += 1
        output.lines(["", f"[{self.step}/{_STEPS}] {messages.text(f'demo.{name}')}"])

    def ushield(self, *words: str, exits: int = 0) -> None:
        """Run a ``ushield`` command and print it with its output."""
        shown = " ".join('"$TOKEN"' if word == self.token else shlex.quote(word) for word in words)
        output.lines([f"  $ ushield {shown}"])
        self._run([sys.executable, "-m", "ushield_hw.cli", "--lang", messages.language(), *words], exits)

    def openssl(self, *words: str, quiet: bool = False) -> None:
        """Run openssl and print it with its output."""
        if not quiet:
            output.lines([f"  $ openssl {' '.join(shlex.quote(word) for word in words)}"])
        self._run(["openssl", *words], 0, quiet=quiet)

    def json(self, *words: str) -> Any:
        """Run a ``ushield`` command with --json and return the document."""
        done = subprocess.run(
            [sys.executable, "-m", "ushield_hw.cli", *words, "--json"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise UShieldError("DEMO_FAILED", command=" ".join(words), code=done.returncode)
        return json.loads(done.stdout)

    def _run(self, command: Sequence[str], exits: int, *, quiet: bool = False) -> None:
        sys.stdout.flush()
        keeps_terminal = self.attended and "sign" in command
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=None if keeps_terminal else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if keeps_terminal else subprocess.STDOUT,
            check=False,
            text=True,
        )
        if not quiet:
            output.lines(f"    {row}" for row in done.stdout.splitlines())
        if done.returncode != exits:
            raise UShieldError("DEMO_FAILED", command=" ".join(command[2:]), code=done.returncode)


@click.command("demo", cls=Command, help=messages.text("help.demo"))
@click.option("--keep", is_flag=True, help=messages.text("help.option.keep"))
def demo_command(keep: bool) -> None:
    """Run the demo."""
    if shutil.which("openssl") is None:
        raise DriverNotFound("OPENSSL_MISSING", searched=["openssl"])
    folder = Path(tempfile.mkdtemp(prefix="ushield-demo-"))
    started = time.monotonic()
    try:
        _walk(_start(folder))
    finally:
        if keep:
            output.hint("demo.kept", folder=folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    output.lines(["", messages.text("demo.done", seconds=f"{time.monotonic() - started:.1f}")])


def _start(folder: Path) -> _Demo:
    """Create the environment, separate from the user's own state, configuration and tokens."""
    environment = os.environ | {
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "SOFTHSM2_CONF": str(folder / "tokens" / "softhsm2.conf"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    attended = Terminal.present() and sys.stdin.isatty() and sys.stderr.isatty()
    output.lines([messages.text("demo.attended" if attended else "demo.unattended")])
    return _Demo(folder, environment, attended)


def _walk(demo: _Demo) -> None:
    demo.say("token")
    demo.ushield("softhsm", "init", "--dir", "tokens")
    token = demo.json("softhsm", "init", "--dir", "tokens")["tokens"][0]
    uri, pin = token["uri"], str(Path(token["pin_file"]).relative_to(demo.folder))
    demo.token = uri
    output.lines([f"  $ TOKEN={shlex.quote(uri)}"])
    demo.say("list")
    demo.ushield("list")
    demo.say("pin")
    demo.ushield("pin", "verify", "--token", uri, "--pin-source", pin)
    _enrol(demo, uri, pin)
    _sign(demo, uri, pin)
    _refuse(demo)


def _enrol(demo: _Demo, uri: str, pin: str) -> None:
    demo.say("enrol")
    subject = "CN=张三,O=Demo Bank"
    demo.ushield(
        *(
            "cert",
            "request",
            "--token",
            uri,
            "--key",
            "ec-p256",
            "--subject",
            subject,
            "--pin-source",
            pin,
            "-o",
            "csr.pem",
        )
    )
    (demo.folder / "leaf.ext").write_text(_CA_CONFIG)
    new_ca = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 3650"
    demo.openssl(*new_ca.split(), "-subj", "/CN=Throw-away CA", quiet=True)
    demo.openssl(
        *"x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -out cert.pem -days 730 -extfile leaf.ext".split(), quiet=True
    )
    output.lines([f"    {messages.text('demo.issued')}"])
    demo.ushield("cert", "install", "cert.pem", "--token", uri, "--pin-source", pin)


def _sign(demo: _Demo, uri: str, pin: str) -> None:
    order = fresh_order()
    _write_order(demo.folder / "order.json", order)
    demo.say("show")
    demo.ushield("show", "order.json")
    demo.say("sign")
    unattended = () if demo.attended else ("--unattended",)
    demo.ushield("sign", "order.json", "--token", uri, "--pin-source", pin, *unattended, "-o", "signed.p7m")
    demo.say("again")
    demo.ushield("sign", "order.json", "--token", uri, "--pin-source", pin, *unattended, "-o", "signed-again.p7m")
    demo.say("verify")
    demo.ushield("verify", "signed.p7m", "--ca", "ca.pem", "--order", "order.json")
    demo.say("openssl")
    demo.openssl(
        *"cms -verify -binary -inform DER -purpose any -CAfile ca.pem -in signed.p7m -out content.json".split()
    )


def _refuse(demo: _Demo) -> None:
    signed = (demo.folder / "signed.p7m").read_bytes()
    demo.say("changed")
    changed = signed.replace(b"128.50", b"928.50")
    (demo.folder / "changed.p7m").write_bytes(changed)
    demo.ushield("verify", "changed.p7m", "--ca", "ca.pem", exits=_REFUSED)
    demo.say("payee")
    order = json.loads((demo.folder / "order.json").read_text(encoding="utf-8"))
    order["payee"]["account"] = "1202021409900099999"
    _write_order(demo.folder / "other.json", order)
    demo.ushield("verify", "signed.p7m", "--ca", "ca.pem", "--order", "other.json", exits=_REFUSED)
    demo.say("malformed")
    order["payee"]["name"] = "杭州\u202e某某"
    _write_order(demo.folder / "spoofed.json", order)
    demo.ushield("show", "spoofed.json", exits=2)


def fresh_order() -> dict[str, Any]:
    """Return the example order with a new transaction id, nonce and times; it expires after five minutes."""
    order: dict[str, Any] = json.loads(data_file(data_dir("examples") / "order.json"))
    return renewed(order, timedelta(minutes=5))


def _write_order(path: Path, order: dict[str, Any]) -> None:
    path.write_text(json.dumps(order, ensure_ascii=False, indent=2), encoding="utf-8")
