"""Measurement: contestants run in turn, round after round."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Final

from benchmarks.rows import Times
from benchmarks.stage import Stage

Timed = Callable[[int], float]
"""Does the work so many times and returns the seconds it took."""

Work = Callable[[], object]
"""One piece of what is measured."""

Make = Callable[[Stage], Work]
"""Gets everything ready in a process of its own, and returns the work. A function of a module, so that it travels."""

_GIVE_UP_S: Final = 60.0
_TRIES: Final = 3


def race(contestants: Mapping[str, Timed], rounds: int, slice_s: float) -> Times:
    """Run each contestant for about ``slice_s`` in each round; every other round in the opposite order."""
    counts = {name: _count(timed, slice_s) for name, timed in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            times[name].append(contestants[name](counts[name]) / counts[name])
    return times


def race_apart(makers: Mapping[str, Make], stage: Stage, rounds: int, slice_s: float) -> Times:
    """Run :func:`race` with each contestant in a separate process: each loads the module differently."""
    runners: dict[str, Runner] = {}
    try:
        for name, make in makers.items():  # sequentially: SoftHSM2 rewrites the token's file at every login
            runners[name] = Runner(make, stage)
        return race(runners, rounds, slice_s)
    finally:
        for runner in runners.values():
            runner.close()


def _count(timed: Timed, slice_s: float) -> int:
    """Warm up and return the number of runs that fill a slice; the best of several tries excludes other load."""
    timed(1)
    count = 1
    while (took := min(timed(count) for _ in range(_TRIES))) < slice_s / 4:
        count *= 4
    return max(1, math.ceil(count * slice_s / took))


class Runner:
    """A contestant in a separate process; idle while the others run."""

    def __init__(self, make: Make, stage: Stage) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = make.__name__
        self._channel, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, stage), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def __call__(self, count: int) -> float:
        """Do the work the given number of times; return the seconds used in the process."""
        self._channel.send(count)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._channel.close()
        self._process.join(5)
        self._process.kill()

    def _answer(self) -> float:
        if not self._channel.poll(_GIVE_UP_S):
            raise RuntimeError(f"{self._name}: no answer in {_GIVE_UP_S:g} s")
        try:
            seconds: float = self._channel.recv()
        except EOFError as error:
            raise RuntimeError(f"{self._name} has ended; see above") from error
        return seconds


def _serve(channel: Connection, make: Make, stage: Stage) -> None:
    work = make(stage)
    channel.send(0.0)
    try:
        while True:
            count = channel.recv()
            started = time.perf_counter()
            for _ in range(count):
                work()
            channel.send(time.perf_counter() - started)
    except (EOFError, OSError):
        return
