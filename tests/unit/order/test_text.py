"""Text that users compare: what is refused, at which position, and the proposed replacement."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.order.strategies import texts
from ushield_hw.errors import InputError
from ushield_hw.order import text as rules
from ushield_hw.order.text import check_text, describe

pytestmark = pytest.mark.unit

# Default_Ignorable_Code_Point that is not Cf and not a variation selector: Other_Default_Ignorable_Code_Point.
OTHER_IGNORABLE = [
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0, *range(0xFFF0, 0xFFF9)),
    *(0xE0000, *range(0xE0002, 0xE0020), *range(0xE0080, 0xE0100), *range(0xE01F0, 0xE1000)),
]


def refusal(value: str) -> InputError:
    with pytest.raises(InputError) as caught:
        check_text(value, "payee.name")
    assert caught.value.place == "payee.name"
    return caught.value


def accepted(value: str) -> bool:
    try:
        check_text(value, "x")
    except InputError:
        return False
    return True


# --- single characters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("character", "described"),
    [
        ("\u202e", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("\u200b", "U+200B ZERO WIDTH SPACE"),
        ("\u00ad", "U+00AD SOFT HYPHEN"),
        ("\u2066", "U+2066 LEFT-TO-RIGHT ISOLATE"),
        ("\ufeff", "U+FEFF ZERO WIDTH NO-BREAK SPACE"),
        ("\u3164", "U+3164 HANGUL FILLER"),
        ("\uffa0", "U+FFA0 HALFWIDTH HANGUL FILLER"),
        ("\u034f", "U+034F COMBINING GRAPHEME JOINER"),
        ("\ufe0f", "U+FE0F VARIATION SELECTOR-16"),
        ("\U000e0100", "U+E0100 VARIATION SELECTOR-17"),
        ("\u2800", "U+2800 BRAILLE PATTERN BLANK"),
        ("\ufff9", "U+FFF9 INTERLINEAR ANNOTATION ANCHOR"),
        ("\u0600", "U+0600 ARABIC NUMBER SIGN"),
        ("\x00", "U+0000 control"),
        ("\x7f", "U+007F control"),
        ("\ud800", "U+D800 surrogate"),
        ("\udfff", "U+DFFF surrogate"),
        ("\ue000", "U+E000 private use"),
        ("\U0010fffd", "U+10FFFD private use"),
        ("\U000f0000", "U+F0000 private use"),
        ("\ufdd0", "U+FDD0 unassigned"),
        ("\uffff", "U+FFFF unassigned"),
        ("\U0002fffe", "U+2FFFE unassigned"),
        ("\U0003ffff", "U+3FFFF unassigned"),
        ("\U0010ffff", "U+10FFFF unassigned"),
        ("\u0378", "U+0378 unassigned"),
        ("\U00040000", "U+40000 unassigned"),
    ],
)
def test_characters_refused(character: str, described: str) -> None:
    found = refusal(f"张{character}三")
    assert found.code == "ORDER_TEXT_CHARACTER"
    assert found.details == {"place": "payee.name", "position": 2, "character": described}


@pytest.mark.parametrize(
    "character", ["\u00a0", "\u2003", "\u202f", "\u1680", "\u205f", "\t", "\n", "\r", "\u2028", "\u2029", "\x85"]
)
def test_other_spaces_are_refused_and_the_plain_one_proposed(character: str) -> None:
    found = refusal(f"a b{character}c")
    assert (found.code, found.details["position"]) == ("ORDER_TEXT_CHARACTER", 4)
    assert found.details["replacement"] == "U+0020 SPACE"


@pytest.mark.parametrize(
    "character",
    ["\U00020000", "\U0002a6df", "\U0002ebf0", "\U00031350", "\U000323af", "\U0003fffd"],
)
def test_ideographs_this_python_may_not_know_pass(character: str) -> None:
    check_text(character, "x")


def edges(plane: int) -> Iterator[int]:
    start = plane * 0x10000
    return chain(range(start, start + 0x1100), range(start + 0xFFF0, start + 0x10000))


@pytest.mark.slow
def test_every_code_point() -> None:
    """Each code point, compared with an independent implementation: planes 0 and 1, and the ends of the others."""
    for code_point in chain(range(0x20000), *(edges(plane) for plane in range(2, 17))):
        character = chr(code_point)
        category = unicodedata.category(character)
        noncharacter = code_point & 0xFFFE == 0xFFFE or 0xFDD0 <= code_point <= 0xFDEF
        named = unicodedata.name(character, "")
        good = (
            category not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs")
            and not noncharacter
            and (category != "Cn" or 0x20000 <= code_point < 0x40000)
            and "VARIATION SELECTOR" not in named
            and code_point not in OTHER_IGNORABLE
            and code_point != 0x2800
            and unicodedata.normalize("NFC", character) == character
        )
        assert accepted(character) == good, hex(code_point)


def test_the_short_cut_takes_nothing_that_the_long_way_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = [
        chr(c) for c in range(sys.maxunicode + 1) if rules._ORDINARY.fullmatch(chr(c)) and chr(c) not in " \u3000"
    ]
    assert len(ordinary) > 20_000
    for character in ordinary:
        rules._check_characters(character, "x")
        assert unicodedata.category(character)[0] != "M"
        # NFC quick check "yes" and combining class zero: nothing composes with it or is reordered past it.
        assert unicodedata.is_normalized("NFC", character)
        assert unicodedata.combining(character) == 0
        assert unicodedata.is_normalized("NFC", "a" + character)


def test_position_is_that_of_the_first() -> None:
    assert refusal("\u200babc\u200b").details["position"] == 1
    assert refusal("abc\u200b").details["position"] == 4
    assert refusal("\U00020000\u200b").details["position"] == 2


# --- normal form ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "position", "character", "replacement"),
    [
        (
            "Cafe\u0301s",
            4,
            "U+0065 LATIN SMALL LETTER E + U+0301 COMBINING ACUTE ACCENT",
            "U+00E9 LATIN SMALL LETTER E WITH ACUTE",
        ),
        ("5 \u212b", 3, "U+212B ANGSTROM SIGN", "U+00C5 LATIN CAPITAL LETTER A WITH RING ABOVE"),
        ("買\uf900", 2, "U+F900 CJK COMPATIBILITY IDEOGRAPH-F900", "U+8C48 CJK UNIFIED IDEOGRAPH-8C48"),
        ("\U0002f800", 1, "U+2F800 CJK COMPATIBILITY IDEOGRAPH-2F800", "U+4E3D CJK UNIFIED IDEOGRAPH-4E3D"),
        (
            "q\u0302\u0323",
            2,
            "U+0302 COMBINING CIRCUMFLEX ACCENT + U+0323 COMBINING DOT BELOW",
            "U+0323 COMBINING DOT BELOW + U+0302 COMBINING CIRCUMFLEX ACCENT",
        ),
        ("\u1100\u1161", 1, "U+1100 HANGUL CHOSEONG KIYEOK + U+1161 HANGUL JUNGSEONG A", "U+AC00 HANGUL SYLLABLE GA"),
        ("a\u0387", 2, "U+0387 GREEK ANO TELEIA", "U+00B7 MIDDLE DOT"),
    ],
)
def test_not_nfc(value: str, position: int, character: str, replacement: str) -> None:
    found = refusal(value)
    assert found.code == "ORDER_TEXT_NOT_NFC"
    assert (found.details["position"], found.details["character"], found.details["replacement"]) == (
        position,
        character,
        replacement,
    )


@given(texts.map(lambda text: unicodedata.normalize("NFD", text)))
def test_what_the_error_proposes_leads_to_nfc(value: str) -> None:
    """Applying the proposals until there is no error yields NFC."""
    target = unicodedata.normalize("NFC", value)
    for _ in range(len(value) + 1):
        if unicodedata.is_normalized("NFC", value):
            break
        start, end, replacement = rules._first_change(value, unicodedata.normalize("NFC", value))
        assert value[start:end] != replacement
        value = value[:start] + replacement + value[end:]
    assert value == target


@pytest.mark.parametrize("value", ["ＡＢＣ１２３", "①", "ﬁ", "㈱", "阿依古丽·买买提", "²", "ｶﾅ"])
def test_compatibility_forms_stay(value: str) -> None:
    assert unicodedata.normalize("NFKC", value) != value or "·" in value
    check_text(value, "x")


# --- spaces and marks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "position"),
    [
        (" a", 1),
        ("a ", 2),
        ("a  b", 3),
        ("\u3000张", 1),
        ("张\u3000", 2),
        ("张 \u3000三", 3),
        ("张\u3000 三", 3),
        ("é ", 2),
        ("a   b", 3),
    ],
)
def test_spaces_that_cannot_be_seen(value: str, position: int) -> None:
    found = refusal(value)
    assert (found.code, found.details["position"]) == ("ORDER_TEXT_SPACES", position)
    assert found.details["character"] in ("U+0020 SPACE", "U+3000 IDEOGRAPHIC SPACE")


@pytest.mark.parametrize("value", ["a b c", "张\u3000三", "é b"])
def test_single_spaces_inside_pass(value: str) -> None:
    check_text(value, "x")


def test_two_marks_pass_and_three_do_not() -> None:
    check_text("q\u0323\u0302x\u0323\u0302", "x")
    check_text("ที่", "x")
    found = refusal("aq\u0327\u0323\u0302")
    assert (found.code, found.details["position"]) == ("ORDER_TEXT_MARKS", 5)
    assert found.details["character"] == "U+0302 COMBINING CIRCUMFLEX ACCENT"
    assert refusal("q\u0489\u0488\u0489").code == "ORDER_TEXT_MARKS"  # enclosing marks count


# --- length -----------------------------------------------------------------------------------------------------------


def test_length_is_counted_in_code_points() -> None:
    check_text("\U00020000" * 140, "x")
    found = refusal("\U00020000" * 141)
    assert found.code == "ORDER_TEXT_TOO_LONG"
    assert found.details == {"place": "payee.name", "length": 141, "longest": 140}


# --- compared with an independent implementation ----------------------------------------------------------------------


def allowed(value: str) -> bool:
    if len(value) > 140 or unicodedata.normalize("NFC", value) != value:
        return False
    if any(
        not accepted(character)
        for character in value
        if character not in " \u3000" and unicodedata.category(character)[0] != "M"
    ):
        return False
    kinds = "".join(" " if c in " \u3000" else "m" if unicodedata.category(c)[0] == "M" else "x" for c in value)
    return not (kinds[:1] == " " or kinds[-1:] == " " or "  " in kinds or "mmm" in kinds)


@given(st.text(st.sampled_from("a é\u3000张\u0301\u0323\u0302\u0327·ｱ"), min_size=1, max_size=12))
def test_text_is_accepted_exactly_when_allowed(value: str) -> None:
    assert accepted(value) == allowed(value)


@given(texts)
def test_good_text_passes(value: str) -> None:
    check_text(value, "x")


@given(st.text(max_size=150))
def test_refusals_point_into_the_text(value: str) -> None:
    try:
        check_text(value, "x")
    except InputError as found:
        if found.code != "ORDER_TEXT_TOO_LONG":
            position = found.details["position"]
            assert isinstance(position, int)
            assert str(found.details["character"]).startswith(describe(value[position - 1]))
