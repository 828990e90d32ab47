"""Runs the fuzz targets sequentially for a bounded time and reports the results.

Run it with ``make fuzz`` or ``make fuzz SECONDS=600 TARGETS="cms verify"``. A violation ends with exit code 1 and keeps
the input, which ``.venv-fuzz/bin/python -m fuzz.run TARGET FILE`` reproduces.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

NAMES: Final = ("cms", "verify", "certificate", "request", "crl", "answer", "order", "message", "uri", "descriptor")
KEPT: Final = Path("build/fuzz")
LARGEST: Final = 16 * 1024

_PATIENCE_S: Final = 600  # a busy machine starts slowly

_SEEN: Final = re.compile(r"^fuzz-seen: (.*)$", re.MULTILINE)
_RUNS: Final = re.compile(r"^Done (\d+) runs in (\d+) second", re.MULTILINE)


def main() -> int:
    """Fuzz every named target; return 0 if there was no violation."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzz the readers.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all, or some of: {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together (default: 60)")
    asked = parser.parse_args()
    names = asked.targets or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    KEPT.mkdir(parents=True, exist_ok=True)
    each = max(1, asked.seconds // len(names))
    return max(_run(name, each) for name in names)


def _run(name: str, seconds: int) -> int:
    options = [f"-max_total_time={seconds}", f"-max_len={LARGEST}", f"-artifact_prefix={KEPT}/{name}-", "-timeout=20"]
    command = [sys.executable, "-m", "fuzz.run", name, *options]
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=seconds + _PATIENCE_S
    )
    (KEPT / f"{name}.log").write_text(ended.stderr)
    seen = json.loads(found[-1]) if (found := _SEEN.findall(ended.stderr)) else {}
    done = _RUNS.search(ended.stderr)
    if ended.returncode or done is None:
        print(f"{name}: FAILED\n{_story(ended.stderr)}", flush=True)
        return 1
    print(f"{name}: {int(done[1]):,} executions in {done[2]} s; {_summary(seen)}", flush=True)
    return 0


def _summary(seen: Mapping[str, int]) -> str:
    refused = {what: n for what, n in seen.items() if what.startswith("refused")}
    others = ", ".join(f"{what} {n:,}" for what, n in seen.items() if what not in refused)
    return f"{others or 'accepted 0'}; refused {sum(refused.values()):,} in {len(refused)} ways"


def _story(log: str) -> str:
    """Return the end of the log, from the exception on, with the path of the stored input."""
    at = log.rfind("Uncaught Python exception")
    return log[at:] if at >= 0 else log[-3000:]


if __name__ == "__main__":
    sys.exit(main())
