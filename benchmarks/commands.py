"""Whole commands, from start to exit."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from benchmarks.stage import Stage, order_document, pin

_BIN: Final = Path(sys.executable).parent  # .venv-bench


@dataclass(frozen=True, slots=True)
class Command:
    """Runs a command repeatedly; ``line`` returns the arguments of each run, before the timer starts."""

    line: Callable[[], Sequence[str]]
    environment: Mapping[str, str]

    def __call__(self, runs: int) -> float:
        """Run it the given number of times; return the seconds used."""
        seconds = 0.0
        for _ in range(runs):
            words = self.line()
            started = time.perf_counter()
            ended = subprocess.run(words, env=self.environment, capture_output=True, check=False)  # noqa: S603
            seconds += time.perf_counter() - started
            if ended.returncode:
                raise RuntimeError(f"{Path(words[0]).name}: exit {ended.returncode}: {ended.stderr.decode()}")
        return seconds


def ushield_sign(stage: Stage, *options: str) -> Command:
    """Sign a new order: cold start, unattended, with the PIN from a file."""
    numbers, folder = count(), stage.folder / f"sign{len(options)}"
    folder.mkdir()

    def line() -> Sequence[str]:
        order, signed = (folder / f"{next(numbers)}{suffix}" for suffix in (".json", ".p7m"))
        order.write_bytes(order_document())
        token = ("--token", stage.ec.uri, "--pin-source", str(stage.ec.pin_file))
        return [str(_BIN / "ushield"), *options, "sign", str(order), *token, "--unattended", "-o", str(signed)]

    return Command(line, stage.environment)


def ushield_sign_in_worker(stage: Stage) -> Command:
    """The same with the module in a worker."""
    return ushield_sign(stage, "--drivers", str(stage.in_worker.drivers[0]))


def pkcs11_tool(stage: Stage) -> Command:
    """Sign a digest with OpenSC's pkcs11-tool."""
    digest, signature = stage.folder / "digest", stage.folder / "signature"
    digest.write_bytes(hashlib.sha256(b"order").digest())
    token = ("--module", str(stage.module), "--token-label", stage.ec.label, "--login", "--pin", "env:PIN")
    files = ("--input-file", str(digest), "--output-file", str(signature))
    words = ("pkcs11-tool", *token, "--sign", "--mechanism", "ECDSA", *files)
    return Command(lambda: words, stage.environment | {"PIN": pin(stage.ec)})


def ushield_help(stage: Stage) -> Command:
    """Show the help."""
    return _fixed(stage, str(_BIN / "ushield"), "--help")


def ykman_version(stage: Stage) -> Command:
    """Yubico's ykman with the cheapest command."""
    return _fixed(stage, str(_BIN / "ykman"), "--version")


def bare_python(stage: Stage) -> Command:
    """A Python program that does nothing."""
    return _fixed(stage, sys.executable, "-c", "pass")


def python_with_click(stage: Stage) -> Command:
    """A Python program that imports click: the minimum cost of any command based on it."""
    return _fixed(stage, sys.executable, "-c", "import click")


def _fixed(stage: Stage, *words: str) -> Command:
    return Command(lambda: words, stage.environment)
