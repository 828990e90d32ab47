"""Screens: expected output, complete content, and no line wider than the display."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.order.samples import ABSENT, BIC_BANK, login, payment, renewal
from tests.unit.order.strategies import orders, texts
from ushield_hw.errors import InputError
from ushield_hw.messages import LANGUAGES, Language, text
from ushield_hw.order import TYPES, DisplayProfile, Line, Order, Rules, check_fits, message_format, pages, screen_lines
from ushield_hw.order.order import kind_of

pytestmark = pytest.mark.unit

languages = st.sampled_from(LANGUAGES)
names = st.sampled_from(["jcs", "xml-tdm"])

PAYMENT_ZH = [
    ("收款人名称", "杭州某某网络有限公司"),
    ("收款账号", "1202021409900012345"),
    ("金额", "CNY 128.50"),
    ("收款行（行号）", "中国工商银行 102100099996"),
    ("付款账号", "6222020200012345678"),
    ("用途", "网上购物"),
    ("订单号", "TB20261124-0001"),
    ("银行及网址", "demo-bank https://bank.example"),
    ("有效期至", "2026-11-24 02:05:00 UTC"),
]
PAYMENT_EN = [
    ("Payee", "杭州某某网络有限公司"),
    ("Payee account", "1202021409900012345"),
    ("Amount", "JPY 1200"),
    ("Payee bank (BIC)", "Deutsche Bank AG DEUTDEFF500"),
    ("Payer account", "6222020200012345678"),
    ("Payer", "张三"),
    ("Purpose", "网上购物"),
    ("Order number", "TB20261124-0001"),
    ("Bank and website", "demo-bank https://bank.example"),
    ("Valid until", "2026-11-24 02:05:00 UTC"),
]
LOGIN_ZH = [
    ("操作", "登录网上银行（不是付款）"),
    ("银行及网址", "demo-bank https://bank.example"),
    ("客户号", "C10086"),
    ("客户名称", "李四"),
    ("有效期至", "2026-11-24 02:05:00 UTC"),
]
LOGIN_EN = [
    ("Operation", "LOG IN to the bank - this is not a payment"),
    ("Bank and website", "demo-bank https://bank.example"),
    ("Customer number", "C10086"),
    ("Valid until", "2026-11-24 02:05:00 UTC"),
]
RENEWAL_ZH = [
    ("操作", "启用更新后的证书（不是付款）"),
    ("证书持有人", "CN=张三,O=Demo Bank"),
    ("证书序列号", "5f0c11"),
    ("证书有效期至", "2027-11-24 02:00:00 UTC"),
    ("替换的证书", "4a77"),
    ("银行及网址", "demo-bank https://bank.example"),
    ("有效期至", "2026-11-24 02:05:00 UTC"),
]
RENEWAL_EN = [
    ("Operation", "PUT A RENEWED CERTIFICATE INTO USE - this is not a payment"),
    ("Certificate of", "CN=张三,O=Demo Bank"),
    ("Certificate number", "5f0c11"),
    ("Certificate ends", "2027-11-24 02:00:00 UTC"),
    ("Bank and website", "demo-bank https://bank.example"),
    ("Valid until", "2026-11-24 02:05:00 UTC"),
]
YEN = payment(payer__name="张三", payee__bank=BIC_BANK, amount={"currency": "JPY", "value": "1200"})


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jcs", "xml-tdm"])
@pytest.mark.parametrize(
    ("order", "lang", "expected"),
    [
        (payment(), "zh", PAYMENT_ZH),
        (YEN, "en", PAYMENT_EN),
        (login(customer__name="李四"), "zh", LOGIN_ZH),
        (login(), "en", LOGIN_EN),
        (renewal(), "zh", RENEWAL_ZH),
        (renewal(replaces=ABSENT), "en", RENEWAL_EN),
    ],
)
def test_golden(name: str, order: Order, lang: Language, expected: list[tuple[str, str]]) -> None:
    content = message_format(name).encode(order, lang)
    lines = screen_lines(content, lang)
    assert list(lines) == expected
    assert lines[0].label == expected[0][0]
    assert lines[0].value == expected[0][1]


def test_the_language_asked_for_is_the_one_shown() -> None:
    content = message_format("xml-tdm").encode(payment(), "zh")
    assert [line.value for line in screen_lines(content, "en")] == [value for _, value in PAYMENT_ZH]
    assert screen_lines(content, "en")[0].label == "Payee"


@pytest.mark.slow
@given(orders, names, languages)
def test_every_value_of_the_order_is_shown_whole_or_is_technical(order: Order, name: str, lang: Language) -> None:
    values = [line.value for line in screen_lines(message_format(name).encode(order, lang), lang)]
    for place, value in order.values.items():
        if place not in ("type", "tx_id", "created", "expires", "nonce", "certificate.sha256", "certificate.not_after"):
            assert any(
                shown == value or shown.startswith(value + " ") or shown.endswith(" " + value) for shown in values
            )


def test_lines_come_from_the_bytes_alone() -> None:
    content = message_format("jcs").encode(payment(), "zh")
    assert screen_lines(content.replace(b"128.50", b"928.50"), "zh")[2].value == "CNY 928.50"
    with pytest.raises(InputError):
        screen_lines(content.replace(b"128.50", b"928.5"), "zh")


def test_rules_reach_the_screen() -> None:
    demo = Rules(demo=True)
    content = payment(demo, bank__origin="http://localhost:8080").canonical
    assert ("Bank and website", "demo-bank http://localhost:8080") in screen_lines(content, "en", rules=demo)
    with pytest.raises(InputError) as refusal:
        screen_lines(content, "en")
    assert refusal.value.code == "ORDER_ORIGIN"


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("kind", TYPES)
def test_labels_of_a_type_differ(kind: str, lang: Language) -> None:
    labels = [text(shown.label, lang) for shown in kind_of(kind).screen]
    assert len(set(labels)) == len(labels)
    assert not any(label.startswith("screen.") for label in labels)


@pytest.mark.parametrize("kind", TYPES)
def test_a_line_holds_one_free_text_at_most(kind: str) -> None:
    rules = kind_of(kind).rules
    for shown in kind_of(kind).screen:
        assert sum(rules[place].spaced for place in shown.places) <= 1


# --- display limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "place", "length"),
    [
        ({"payee__name": "字" * 31}, "payee.name", 31),
        ({"payer__name": "字" * 32}, "payer.name", 32),
        ({"purpose": "a" * 140}, "purpose", 140),
        ({"payee__bank__name": "字" * 31}, "payee.bank.name", 31),
        ({"payee__account": "1" * 34}, "payee.account", 34),
        ({"bank__origin": "https://a-very-long-name.bank.example"}, "bank.origin", 37),
    ],
)
def test_what_the_display_cannot_show_is_refused(changes: dict[str, object], place: str, length: int) -> None:
    order = payment(**changes)
    check_fits(order, DisplayProfile())
    check_fits(order, DisplayProfile(max_text=length))
    with pytest.raises(InputError) as refusal:
        check_fits(order, DisplayProfile(max_text=30))
    assert refusal.value.code == "ORDER_TEXT_TOO_LONG"
    assert refusal.value.details == {"place": place, "length": length, "longest": 30}


def test_what_is_not_shown_needs_no_room() -> None:
    check_fits(payment(), DisplayProfile(max_text=20))  # the nonce has 43 characters


# --- pages ------------------------------------------------------------------------------------------------------------


def width(row: str) -> int:
    widths = {"W": 2, "F": 2, "A": 2}
    stacked = [n > 0 and unicodedata.category(c) in ("Mn", "Me") for n, c in enumerate(row)]
    columns = [widths.get(unicodedata.east_asian_width(c), 1) for c in row]
    return sum(0 if on_top else wide for on_top, wide in zip(stacked, columns, strict=True))


@pytest.mark.slow
@given(orders, languages, st.integers(8, 40), st.integers(1, 6))
def test_pages_lose_nothing_and_fit(order: Order, lang: Language, columns: int, rows: int) -> None:
    lines = screen_lines(order.canonical, lang)
    screens = pages(lines, DisplayProfile(columns=columns, rows=rows))
    assert "".join(row for screen in screens for row in screen) == "".join(part for line in lines for part in line)
    assert all(0 < len(screen) <= rows for screen in screens)
    assert all(row and width(row) <= columns for screen in screens for row in screen)


@given(texts, st.integers(2, 9))
def test_rows_are_filled_and_marks_stay_with_their_letter(value: str, columns: int) -> None:
    (screen,) = pages([Line("x", value)], DisplayProfile(columns=columns))
    rows = screen[1:]
    for row, following in pairwise(rows):
        assert unicodedata.category(following[0]) not in ("Mn", "Me")
        assert width(row) + width(following[0]) > columns


def test_pages_of_the_sample() -> None:
    screens = pages([Line(*line) for line in PAYMENT_ZH[:4]], DisplayProfile(columns=16, rows=4))
    assert screens == (
        ("收款人名称", "杭州某某网络有限", "公司"),
        ("收款账号", "1202021409900012", "345"),
        ("金额", "CNY 128.50"),
        ("收款行（行号）", "中国工商银行 102", "100099996"),
    )


def test_lines_share_a_page_if_they_fit() -> None:
    lines = [Line("A", "1"), Line("B", "2"), Line("C", "3")]
    assert pages(lines, DisplayProfile(columns=8, rows=4)) == (("A", "1", "B", "2"), ("C", "3"))
    assert pages(lines, DisplayProfile(columns=8, rows=3)) == (("A", "1"), ("B", "2"), ("C", "3"))
    assert pages(lines, DisplayProfile()) == (("A", "1", "B", "2", "C", "3"),)


def test_a_line_longer_than_a_page_goes_on() -> None:
    lines = [Line("A", "1"), Line("B", "x" * 20)]
    assert pages(lines, DisplayProfile(columns=8, rows=2)) == (("A", "1"), ("B", "x" * 8), ("x" * 8, "x" * 4))


@pytest.mark.parametrize("character", ["张", "Ａ", "\U00031350", "\U0002ebf0", "\U00020000", "·"])
def test_wide_characters_take_two_columns(character: str) -> None:
    assert pages([Line("x", character * 5)], DisplayProfile(columns=8)) == (("x", character * 4, character),)


def test_a_display_must_be_able_to_show_a_character() -> None:
    for columns, rows in ((1, 1), (0, 4), (8, 0)):
        with pytest.raises(ValueError, match="two columns"):
            DisplayProfile(columns=columns, rows=rows)


def test_no_lines_no_pages() -> None:
    assert pages([], DisplayProfile(columns=8, rows=2)) == ()
