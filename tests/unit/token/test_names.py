"""Tokens of one module with arbitrary token information: each printed URI selects exactly its token."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ModuleOptions, SlotInfo, TokenFlag, TokenInfo
from ushield_hw.backend.module import Module
from ushield_hw.backend.pkcs11 import text
from ushield_hw.config import Settings, data_dir
from ushield_hw.drivers.catalogue import GENERIC, Catalogue
from ushield_hw.drivers.installed import Installed
from ushield_hw.token.choice import names
from ushield_hw.token.discovery import alike, tokens_in
from ushield_hw.token.token import Token

pytestmark = pytest.mark.unit

SETTINGS = Settings(drivers=(data_dir("drivers"),))
CATALOGUE = Catalogue(SETTINGS.drivers)
MODULE = Path("/usr/lib/vendor-pkcs11.so")

# Possible content of a field of 16 or 32 bytes: empty, blanks, UTF-8, GBK, a truncated character, NULs, any bytes.
odd = st.sampled_from(
    [b"", b" ", b"123", b"123\0x", b"\x8001", b"\x8101", rb"\x8001", "工行".encode("gbk"), "工行".encode()]
)
fields = odd | st.text(max_size=6).map(lambda said: said.encode("utf-8", "replace")) | st.binary(max_size=16)
claims = st.tuples(fields, fields, fields, fields, fields, fields)


def slot(number: int, said: tuple[bytes, ...]) -> SlotInfo:
    """Return a slot as ``cryptoki.slots`` reads it."""
    serial, label, model, manufacturer, description, maker = said
    named = text.label(label), text.label(manufacturer), text.label(model), text.serial(serial)
    info = TokenInfo(number, *named, TokenFlag.TOKEN_INITIALIZED, 4, 8, (1, 0))
    return SlotInfo(number, text.label(description), True, info, None, text.label(maker))


def tokens(*said: tuple[bytes, ...], module: Path = MODULE) -> tuple[Token, ...]:
    entry = Installed(module, GENERIC, "test")
    unloaded = Module(module, Isolation.PROCESS, ModuleOptions(), 30)
    return tokens_in(entry, unloaded, [slot(n, one) for n, one in enumerate(said)], CATALOGUE, SETTINGS)


SAME = (b"123", b"pay", b"M", b"V", b"Reader 00", b"R")


@given(st.lists(claims, max_size=6))
@example([(b"", b"", b"", b"", b"", b""), SAME])
@example([SAME, (b"", *SAME[1:]), (b"123", b"", *SAME[2:])])
@settings(deadline=None)
def test_a_uri_selects_its_token_or_the_token_is_known_to_have_a_double(said: list[tuple[bytes, ...]]) -> None:
    found = tokens(*said)
    for token in found:
        selected = [other for other in found if names(token.uri, other)]
        assert token in selected
        assert (len(selected) > 1) == token.alike
        assert all(other.said() == token.said() for other in selected)
        assert "slot-id" not in token.uri


def test_the_slot_is_named_only_where_that_is_needed() -> None:
    first, second, third = tokens(SAME, (*SAME[:4], b"Reader 01", b"R"), (b"124", *SAME[1:]))
    assert "slot-description=Reader%2001" in second.uri
    assert "slot-" not in third.uri
    assert first.uri != second.uri


@pytest.mark.parametrize("field", range(4))
def test_a_blank_field_is_told_from_one_that_is_not(field: int) -> None:
    blank = tuple(b"" if number == field else value for number, value in enumerate(SAME))
    found = tokens(SAME, blank)
    for token in found:
        assert [other for other in found if names(token.uri, other)] == [token]
        assert "slot-" not in token.uri


def test_two_that_nothing_tells_apart_are_two() -> None:
    found = tokens(SAME, SAME)
    assert [token.alike for token in found] == [True, True]
    assert len(alike(found, lambda _: frozenset())) == 2


def test_what_two_modules_show_is_paired_one_by_one() -> None:
    """Two tokens with the same serial number in each of two modules are two tokens."""
    shown = (SAME, (*SAME[:1], b"other", *SAME[2:]))
    here, there = tokens(*shown), tokens(*shown, module=Path("/usr/lib/proxy.so"))
    groups = alike([*here, *there], lambda _: frozenset())
    assert sorted(sorted(token.label for token in group) for group in groups) == [["other"] * 2, ["pay"] * 2]
    twins, doubles = tokens(SAME, SAME), tokens(SAME, SAME, module=Path("/usr/lib/proxy.so"))
    assert [len(group) for group in alike([*twins, *doubles], lambda _: frozenset())] == [2, 2]


def test_one_serial_number_does_not_make_one_token_of_two_modules() -> None:
    here = tokens(SAME)
    there = tokens((b"123", b"another", b"M", b"V", b"Reader 01", b"R"), module=Path("/usr/lib/other.so"))
    assert len(alike([*here, *there], lambda _: frozenset())) == 2
    assert len(alike([*here, *there], lambda _: frozenset({b"one certificate"}))) == 1


@given(fields, fields)
def test_serial_numbers_read_alike_only_where_their_octets_are_the_same(one: bytes, other: bytes) -> None:
    same = one.rstrip(b" \0") == other.rstrip(b" \0")
    assert (text.serial(one) == text.serial(other)) == same


@given(fields)
def test_what_is_shown_can_be_typed(said: bytes) -> None:
    for shown in (text.label(said), text.serial(said)):
        assert isinstance(shown.encode(), bytes)  # no surrogate
        assert not any(ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0 for letter in shown)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"pay     ", "pay"),
        (b"odd\0garbage", "odd"),
        ("工行U盾".encode(), "工行U盾"),
        ("工行U盾".encode("gb18030"), "工行U盾"),
        ("工行\u3000U盾".encode(), "工行\u3000U盾"),
        ("中国工商银行网上银行优盾".encode()[:32], r"中国工商银行网上银行\xe4\xbc"),
        (b"caf\xe9", r"caf\xe9"),
        (b"\x1b[2J", r"\x1b[2J"),
        ("\u202eabc".encode(), r"\xe2\x80\xaeabc"),
        (rb"a\x5c", r"a\x5cx5c"),
        (b"", ""),
    ],
)
def test_labels(said: bytes, shown: str) -> None:
    assert text.label(said) == shown
