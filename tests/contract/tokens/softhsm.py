"""SoftHSM2, the reference token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.contract.subjects import Can, Kind, Place, Subject
from tests.soft import KEYS, SOFTHSM
from ushield_hw.backend.interface import Isolation

CANNOT: Final = {Can.LOCK: "Never locks: twenty wrong PINs only keep CKF_USER_PIN_COUNT_LOW set."}


@contextmanager
def make(place: Place, isolation: Isolation) -> Iterator[Subject]:
    """Create a token; ``place.soft`` ends with the test."""
    soft = place.soft
    yield Subject(soft.module(isolation, SOFTHSM), soft.module(), soft.serial, soft.pin, soft.so_pin, KEYS)


KIND: Final = Kind("softhsm", "SoftHSM 2.6.1", make, CANNOT)
