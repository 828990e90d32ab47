"""This project's contestants. Each function prepares and returns the work to measure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from threading import Lock
from typing import Final

import ushield_hw as us
from benchmarks.race import Work
from benchmarks.stage import Stage, open_token, orders
from ushield_hw.cms import read
from ushield_hw.config import Settings
from ushield_hw.signing.journal import Journal
from ushield_hw.signing.order import Journaling
from ushield_hw.testing.softhsm import SoftToken

BLOCK: Final = 32
"""Signatures in one piece of work of those who use threads."""

DISK_S: Final = 0.002
"""How long a sync takes on a solid-state disk whose cache is not relied on."""

_SLOW_SYNC_S: Final = 0.005
_JOURNALED: Final = 2_000  # parsed in advance: each can be signed once


def in_process(stage: Stage) -> Work:
    """Order to signed order, the module in this process."""
    return _signing(stage.ec, stage.in_process)


def in_worker(stage: Stage) -> Work:
    """Order to signed order, the module in a worker."""
    return _signing(stage.ec, stage.in_worker)


def prepared_anew(stage: Stage) -> Work:
    """Order to signed order; key and template are selected again for each order."""
    session, endless = open_token(stage.ec, stage.in_process), cycle(orders())

    def work() -> us.SignedOrder:
        session.invalidate()
        return _sign(next(endless), session)

    return work


def with_journal(stage: Stage) -> Work:
    """Order to signed order, each recorded on disk before and after C_Sign."""
    session = open_token(stage.ec, stage.in_process)
    book, fresh = Journal.of(stage.in_process), _fresh_orders()
    next(fresh)  # parses the first ones now
    return lambda: us.sign(next(fresh), session, attendance=us.Attendance.NOBODY, journal=book)


def journaled_one_thread(stage: Stage) -> Work:
    """A block of orders in one thread, recorded, with each disk sync delayed."""
    return _in_threads(1, _journaled_slowly(stage))


def journaled_sixteen_threads(stage: Stage) -> Work:
    """A block of orders in sixteen threads, recorded, with each disk sync delayed."""
    return _in_threads(16, _journaled_slowly(stage))


def _journaled_slowly(stage: Stage) -> Work:
    slow_syncs()
    session, book = open_token(stage.ec, stage.in_process), Journal.of(stage.in_process)
    fresh, turn = _fresh_orders(), Lock()
    next(fresh)

    def work() -> us.SignedOrder:
        with turn:
            order = next(fresh)
        return us.sign(order, session, attendance=us.Attendance.NOBODY, journal=book)

    return work


def with_journal_on_a_disk(stage: Stage) -> Work:
    """As :func:`with_journal`, with each sync as slow as on a solid-state disk."""
    slow_syncs(DISK_S)
    return with_journal(stage)


def slow_syncs(by_s: float = _SLOW_SYNC_S) -> None:
    """Delay every sync of this process."""
    for name in ("fsync", "fdatasync"):
        setattr(os, name, _slowed(getattr(os, name), by_s))


def _slowed(real: Callable[[int], None], by_s: float) -> Callable[[int], None]:
    def sync(descriptor: int) -> None:
        time.sleep(by_s)
        real(descriptor)

    return sync


def one_thread(stage: Stage) -> Work:
    """A block of RSA signatures in one thread, the module in this process."""
    return _in_threads(1, _signing(stage.rsa, stage.in_process))


def two_threads(stage: Stage) -> Work:
    """A block of RSA signatures in two threads, the module in this process."""
    return _in_threads(2, _signing(stage.rsa, stage.in_process))


def one_thread_in_worker(stage: Stage) -> Work:
    """A block of RSA signatures in one thread, the module in a worker."""
    return _in_threads(1, _signing(stage.rsa, stage.in_worker))


def two_threads_in_worker(stage: Stage) -> Work:
    """A block of RSA signatures in two threads, the module in a worker."""
    return _in_threads(2, _signing(stage.rsa, stage.in_worker))


def verify_expected(stage: Stage) -> Work:
    """Verify signed orders that the bank expects, with one trust store."""
    trust, pairs = us.TrustStore([stage.ca]), cycle(signed_orders(stage))

    def verify() -> us.Verified:
        order, der = next(pairs)
        return us.verify(der, trust=trust, expected=order)

    return verify


def verify_strictly(stage: Stage) -> Work:
    """As :func:`verify_expected`, with the strict reader for each signed order although its signer is known."""
    vars(read)["recognised"] = lambda der: None
    return verify_expected(stage)


def verify_unknown(stage: Stage) -> Work:
    """Verify signed orders and extract the order, with one trust store."""
    trust, pairs = us.TrustStore([stage.ca]), cycle(signed_orders(stage))
    return lambda: us.verify(next(pairs)[1], trust=trust)


def verify_first(stage: Stage) -> Work:
    """Verify with a new trust store: the path to the CA is built and checked."""
    pairs = cycle(signed_orders(stage))

    def verify() -> us.Verified:
        order, der = next(pairs)
        return us.verify(der, trust=us.TrustStore([stage.ca]), expected=order)

    return verify


def signed_orders(stage: Stage) -> list[tuple[us.Order, bytes]]:
    """Return orders with their signed orders."""
    with open_token(stage.ec, stage.in_process) as session:
        return [(order, _sign(order, session).der) for order in orders()]


def _fresh_orders() -> Iterator[us.Order]:
    while True:
        yield from orders(_JOURNALED)


def _signing(token: SoftToken, settings: Settings) -> Work:
    session, endless = open_token(token, settings), cycle(orders())
    return lambda: _sign(next(endless), session)


def _sign(order: us.Order, session: us.Session) -> us.SignedOrder:
    return us.sign(order, session, attendance=us.Attendance.NOBODY, journal=Journaling.CALLER)


def _in_threads(count: int, work: Work) -> Work:
    pool = ThreadPoolExecutor(count)

    def some() -> None:
        for _ in range(BLOCK // count):
            work()

    def block() -> None:
        for future in [pool.submit(some) for _ in range(count)]:
            future.result()

    return block
