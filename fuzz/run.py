"""Fuzzes one target with atheris, or runs it on files: ``python -m fuzz.run TARGET [FILE…] [-option=…]``.

Options are libFuzzer's. Without ``-max_total_time`` it does not end by itself.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["ushield_hw"]):
    from fuzz import authority, cms_reader, texts
    from fuzz.target import Target, seen

TARGETS = {**cms_reader.TARGETS, **authority.TARGETS, **texts.TARGETS}

SEEN = "fuzz-seen: "


def main(arguments: list[str]) -> None:
    """Fuzz the named target."""
    name, *options = arguments
    target = TARGETS[name]
    files = [word for word in options if not word.startswith("-")]
    if files:
        for file in files:
            target.one(Path(file).read_bytes())
        return
    with tempfile.TemporaryDirectory() as corpus:
        for n, seed in enumerate(target.seeds):
            (Path(corpus) / f"seed-{n}").write_bytes(seed)
        mutate = {"custom_mutator": _mutator(target)} if target.mutate else {}
        atheris.Setup(["fuzz", *options, corpus], _telling(target), **mutate)
        atheris.Fuzz()


def _telling(target: Target) -> Callable[[bytes], None]:
    """Return a function that tests one input and prints the counters once a second: libFuzzer has no exit callback."""
    due = 0.0

    def one(data: bytes) -> None:
        nonlocal due
        target.one(data)
        if time.monotonic() > due:
            due = time.monotonic() + 1
            print(f"{SEEN}{json.dumps(dict(seen.most_common()))}", file=sys.stderr, flush=True)

    return one


def _mutator(target: Target) -> Callable[[bytes, int, int], bytes]:
    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if target.mutate is None or random.random() < 0.1:
            return bytes(atheris.Mutate(data, max_size))
        made = target.mutate(data, random)
        return made if len(made) <= max_size else data

    return mutate


if __name__ == "__main__":
    main(sys.argv[1:])
