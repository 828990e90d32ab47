"""The backend returns plain data and raises errors of this library only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from enum import Enum

import pytest

from tests.contract.checks import call_of, self_signed, write
from tests.contract.subjects import Can, Subject, needs
from ushield_hw.backend.model import SignCall
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.public_key import PublicKey
from ushield_hw.errors import UShieldError

pytestmark = pytest.mark.contract

NO_SLOT = 123456789


def parts(value: object) -> Iterator[object]:
    yield value
    if dataclasses.is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        for item in value:
            yield from parts(item)
    if isinstance(value, dict):
        yield from parts((*value, *value.values()))


def assert_ours(*values: object) -> None:
    plain = {bool, int, str, bytes, tuple, dict, type(None)}
    for part in parts(values):
        kind = type(part)
        assert kind in plain or kind.__module__.startswith("ushield_hw."), kind
        assert not isinstance(part, Enum) or kind.__module__.startswith("ushield_hw.")


@needs(Can.GENERATE, Can.WRITE_CERTIFICATE)
def test_only_our_own_types_come_out(subject: Subject) -> None:
    module, slot, login = subject.module, subject.slot, subject.login()
    handle = write(subject, login, self_signed())
    made = module.generate(login, subject.usual, 2048, b"\x77", "new", always_authenticate=False)
    signature = module.sign(login, call_of(subject.key(subject.usual)))
    assert_ours(login, handle, made, signature, module.info(), module.slots(), module.token(slot))
    assert_ours(module.mechanisms(slot), module.keys(slot), module.certificates(slot), module.logged_in(login))
    assert isinstance(made, PublicKey)


def assert_refused(*attempts: Callable[[], object]) -> None:
    for attempt in attempts:
        with pytest.raises(UShieldError) as caught:
            attempt()
        assert_ours(caught.value.details)


def test_only_our_own_errors_come_out_and_they_carry_plain_facts(subject: Subject) -> None:
    module, login = subject.module, subject.login()
    assert_refused(
        lambda: module.keys(NO_SLOT),
        lambda: module.mechanisms(NO_SLOT),
        lambda: module.sign(login, SignCall(999999, "ECDSA", b"")),
    )


@needs(Can.GENERATE)
def test_only_our_own_errors_come_out_of_what_would_change_the_token(subject: Subject) -> None:
    module, login = subject.module, subject.login()
    assert_refused(
        lambda: module.destroy(login, 999999),
        lambda: module.generate(login, KeyKind.RSA, 7, b"", "", always_authenticate=False),
    )
