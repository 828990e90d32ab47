"""Message formats: exact round trip, lookup by name and by content, and extension by packages."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.order.samples import BIC_BANK, as_json, login, make_payment, payment
from tests.unit.order.strategies import orders
from ushield_hw.errors import InputError
from ushield_hw.messages import LANGUAGES, Language
from ushield_hw.order import MessageFormat, Order, Rules, decode, message_format
from ushield_hw.order.formats import GROUP, _added

pytestmark = pytest.mark.unit

names = st.sampled_from(["jcs", "xml-tdm"])
languages = st.sampled_from(LANGUAGES)

HEAD = '<?xml version="1.0" encoding="UTF-8"?><T>'
XML_ZH = (
    HEAD + "<D>"
    "<M><k>收款人名称</k><v>杭州某某网络有限公司</v></M>"
    "<M><k>收款账号</k><v>1202021409900012345</v></M>"
    "<M><k>金额</k><v>CNY 128.50</v></M>"
    "<M><k>收款行（行号）</k><v>中国工商银行 102100099996</v></M>"
    "<M><k>付款账号</k><v>6222020200012345678</v></M>"
    "<M><k>用途</k><v>A&amp;B &lt;1&gt; \"'</v></M>"
    "<M><k>订单号</k><v>TB20261124-0001</v></M>"
    "<M><k>银行及网址</k><v>demo-bank https://bank.example</v></M>"
    "<M><k>有效期至</k><v>2026-11-24 02:05:00 UTC</v></M>"
    "</D><E>"
    "<M><k>type</k><v>ushield.payment/1</v></M>"
    "<M><k>tx_id</k><v>3b241101-e2bb-4255-8caf-4136c566a962</v></M>"
    "<M><k>created</k><v>2026-11-24T02:00:00Z</v></M>"
    "<M><k>nonce</k><v>3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA</v></M>"
    "</E></T>"
)
XML_EN_LOGIN = (
    HEAD + "<D>"
    "<M><k>Operation</k><v>LOG IN to the bank - this is not a payment</v></M>"
    "<M><k>Bank and website</k><v>demo-bank https://bank.example</v></M>"
    "<M><k>Customer number</k><v>C10086</v></M>"
    "<M><k>Customer</k><v>李四</v></M>"
    "<M><k>Valid until</k><v>2026-11-24 02:05:00 UTC</v></M>"
    "</D><E>"
    "<M><k>type</k><v>ushield.login/1</v></M>"
    "<M><k>tx_id</k><v>0d1f8f0e-6a43-4f5a-9d4b-2f0c1c9a7e11</v></M>"
    "<M><k>created</k><v>2026-11-24T02:00:00Z</v></M>"
    "<M><k>nonce</k><v>3q2-7wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA</v></M>"
    "</E></T>"
)
SIGNED = payment(purpose="A&B <1> \"'")


def refused(content: bytes, name: str | None = None, rules: Rules | None = None) -> InputError:
    with pytest.raises(InputError) as refusal:
        if name is None:
            decode(content)
        else:
            message_format(name).parse(content, rules or Rules())
    return refusal.value


# --- round trip -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(orders, names, languages)
def test_there_and_back(order: Order, name: str, lang: Language) -> None:
    written = message_format(name).encode(order, lang)
    assert message_format(name).parse(written, Rules()) == order
    assert decode(written) == (name, order)


@pytest.mark.slow
@given(orders, names, languages, st.data())
def test_no_other_bytes_are_the_order(order: Order, name: str, lang: Language, data: st.DataObject) -> None:
    """Change any byte: the result is rejected or is the encoding of another order."""
    written = bytearray(message_format(name).encode(order, lang))
    at = data.draw(st.integers(0, len(written) - 1))
    written[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    content = bytes(written)
    try:
        found, other = decode(content)
    except InputError:
        return
    assert content in {message_format(found).encode(other, either) for either in LANGUAGES}


@given(st.binary(max_size=60))
def test_fuzz_decode(content: bytes) -> None:
    for start in (b"", b"{", HEAD.encode(), HEAD.encode() + b"<D></D><E><M><k>type</k><v>ushield.login/1</v></M>"):
        refused(start + content)


def test_jcs_is_the_canonical_form_and_nothing_else() -> None:
    order = payment()
    assert message_format("jcs").encode(order, "zh") == order.canonical
    for other in (
        as_json(make_payment()),
        order.canonical + b"\n",
        order.canonical.replace(b'"purpose"', b'"\\u0070urpose"'),
    ):
        assert refused(other, "jcs").code == "ORDER_NOT_CANONICAL"
        assert refused(other).code == "ORDER_NOT_CANONICAL"


def test_rules_reach_the_order() -> None:
    demo = Rules(demo=True)
    order = payment(demo, bank__origin="http://localhost:8080")
    for name in ("jcs", "xml-tdm"):
        content = message_format(name).encode(order, "en")
        assert decode(content, rules=demo) == (name, order)
        assert refused(content).code == "ORDER_ORIGIN"
        assert refused(content, name).code == "ORDER_ORIGIN"


# --- xml-tdm ----------------------------------------------------------------------------------------------------------


def test_xml_of_a_payment() -> None:
    """These bytes are signed and verified years later: they must never change."""
    assert message_format("xml-tdm").encode(SIGNED, "zh").decode() == XML_ZH
    assert decode(XML_ZH.encode()) == ("xml-tdm", SIGNED)


def test_xml_of_a_login() -> None:
    order = login(customer__name="李四")
    assert message_format("xml-tdm").encode(order, "en").decode() == XML_EN_LOGIN
    assert decode(XML_EN_LOGIN.encode()) == ("xml-tdm", order)


def test_every_value_is_in_the_xml_once() -> None:
    order = payment(payer__name="张三", payee__bank=BIC_BANK)
    content = message_format("xml-tdm").encode(order, "zh").decode()
    for place, value in order.values.items():
        if place != "expires":
            assert len(re.findall(rf"[> ]{re.escape(value)}[< ]", content)) == 1, place


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (HEAD, "<T>", "ORDER_FORMAT_UNRECOGNISED"),
        (HEAD, "\ufeff" + HEAD, "ORDER_FORMAT_UNRECOGNISED"),
        (HEAD, HEAD.replace('"', "'"), "ORDER_FORMAT_UNRECOGNISED"),
        (HEAD, HEAD.replace("<T>", "<!DOCTYPE T [<!ENTITY a 'b'>]><T>"), "ORDER_FORMAT_UNRECOGNISED"),
        (HEAD, HEAD + "<!-- -->", "ORDER_MESSAGE_FORM"),
        (HEAD, HEAD + "<?pi?>", "ORDER_MESSAGE_FORM"),
        (HEAD, HEAD + "\n", "ORDER_MESSAGE_FORM"),
        ("</T>", "</T>\n", "ORDER_MESSAGE_FORM"),
        ("</T>", "</T><T></T>", "ORDER_MESSAGE_FORM"),
        ("</D>", "</D><D></D>", "ORDER_MESSAGE_FORM"),
        ("<D>", "<D x=''>", "ORDER_MESSAGE_FORM"),
        ("<v>", "<v><![CDATA[x]]>", "ORDER_MESSAGE_FORM"),
        ("<k>金额</k><v>CNY 128.50</v>", "<v>CNY 128.50</v><k>金额</k>", "ORDER_MESSAGE_FORM"),
        ("&amp;", "&", "ORDER_NOT_CANONICAL"),
        ("&amp;", "&#38;", "ORDER_NOT_CANONICAL"),
        ("&amp;", "&#x26;", "ORDER_NOT_CANONICAL"),
        ("&amp;", "&amp;amp;", None),
        ("&gt;", ">", "ORDER_MESSAGE_FORM"),
        ('"', "&quot;", "ORDER_NOT_CANONICAL"),
        ("&lt;", "&bogus;", "ORDER_NOT_CANONICAL"),
        ("金额", "金額", "ORDER_MESSAGE_FORM"),
        ("金额", "Amount", "ORDER_MESSAGE_FORM"),
        ("金额", "用途", "ORDER_MISSING_KEY"),
        ("收款账号", "付款账号", "ORDER_MISSING_KEY"),
        ("CNY 128.50", "CNY  128.50", "ORDER_MESSAGE_FORM"),
        ("CNY 128.50", "128.50", "ORDER_MESSAGE_FORM"),
        ("CNY 128.50", "CNY 128.5", "ORDER_AMOUNT_DIGITS"),
        ("（行号）", "（BIC）", "ORDER_BIC"),
        ("02:05:00 UTC", "02:05:00", "ORDER_TIME"),
        ("2026-11-24 02:05:00 UTC", "2026-11-24T02:05:00Z", "ORDER_NOT_CANONICAL"),
        ("ushield.payment/1", "ushield.payment/9", "ORDER_TYPE"),
        ("ushield.payment/1", "ushield.login/1", "ORDER_MESSAGE_FORM"),
        ("<k>type</k>", "<k>kind</k>", "ORDER_TYPE"),
        ("<k>tx_id</k>", "<k>tx</k>", "ORDER_UNKNOWN_KEY"),
        ("<E>", "<E><M><k>purpose</k><v>x</v></M>", "ORDER_NOT_CANONICAL"),
        ("<E>", "<E><M><k>payee</k><v>x</v></M>", "ORDER_UNKNOWN_KEY"),
        ("<E>", "<E><M><k>type</k><v>ushield.payment/1</v></M>", "ORDER_NOT_CANONICAL"),
        ("<D>", "<D><M><k>金额</k><v>CNY 1.00</v></M>", "ORDER_NOT_CANONICAL"),
        ("<M><k>用途</k><v>A&amp;B &lt;1&gt; \"'</v></M>", "", "ORDER_MISSING_KEY"),
        ("杭州", "杭\u202e州", "ORDER_TEXT_CHARACTER"),
    ],
)
def test_xml_is_a_closed_grammar(old: str, new: str, code: str | None) -> None:
    assert old in XML_ZH.removeprefix(HEAD) or old == HEAD
    at = 0 if old == HEAD else len(HEAD)
    content = (XML_ZH[:at] + XML_ZH[at:].replace(old, new, 1)).encode()
    if code is None:
        assert decode(content)[1] != SIGNED
    else:
        assert refused(content).code == code


@pytest.mark.parametrize(("key", "place"), [("", '""'), ("\u202e", "\\u{202e}"), ("k" * 50, "k" * 39 + "…")])
def test_a_place_nobody_knows_is_named_and_safe_to_show(key: str, place: str) -> None:
    found = refused(XML_ZH.replace("<k>tx_id</k>", f"<k>{key}</k>").encode())
    assert (found.code, found.place) == ("ORDER_UNKNOWN_KEY", place)


def test_order_of_xml_items_matters() -> None:
    one, two = "<M><k>金额</k><v>CNY 128.50</v></M>", "<M><k>付款账号</k><v>6222020200012345678</v></M>"
    content = XML_ZH.replace(one, "@").replace(two, one).replace("@", two)
    assert refused(content.encode()).code == "ORDER_NOT_CANONICAL"


def test_a_value_may_not_move_between_the_blocks() -> None:
    item = "<M><k>用途</k><v>A&amp;B &lt;1&gt; \"'</v></M>"
    content = XML_ZH.replace(item, "").replace("<E>", "<E>" + item.replace("用途", "purpose"))
    assert refused(content.encode()).code == "ORDER_NOT_CANONICAL"


def test_xml_is_bounded_and_utf8() -> None:
    assert refused(HEAD.encode() + b"x" * 70_000).code == "ORDER_TOO_LARGE"
    assert refused(XML_ZH.encode().replace("杭州".encode(), b"\xff")).code == "ORDER_NOT_UTF8"
    assert refused(XML_ZH.encode("gb18030")).code == "ORDER_NOT_UTF8"


# --- registry ---------------------------------------------------------------------------------------------------------


class Upper:
    """A bank's own format: canonical bytes after a prefix."""

    name = "upper"
    starts = b"UP"

    def encode(self, order: Order, lang: Language) -> bytes:
        return b"UP" + order.canonical

    def parse(self, content: bytes, rules: Rules) -> Order:
        return Order.parse(content.removeprefix(b"UP"), rules=rules)


class Sloppy(Upper):
    name = "jcs-2"
    starts = b"{"


class Impostor(Upper):
    name = "jcs"
    starts = b"ZZ"


upper, sloppy, impostor, nameless = Upper(), Sloppy(), Impostor(), object()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Installs message formats as entry points of packages."""
    lines: list[str] = []

    def entry_points(group: str) -> list[EntryPoint]:
        assert group == GROUP
        return [EntryPoint(name, f"{__name__}:{name}", group) for name in lines]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    _added.cache_clear()
    yield lines
    _added.cache_clear()


def test_built_in_formats_keep_the_protocol() -> None:
    found: list[MessageFormat] = [message_format(name) for name in ("jcs", "xml-tdm")]
    assert [one.name for one in found] == ["jcs", "xml-tdm"]


def test_a_package_adds_a_format(installed: list[str]) -> None:
    installed.append("upper")
    order = payment()
    added = message_format("upper")
    assert added is upper
    assert decode(added.encode(order, "zh")) == ("upper", order)
    assert decode(order.canonical) == ("jcs", order)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(InputError) as refusal:
        message_format("pdf")
    assert refusal.value.code == "ORDER_FORMAT_UNKNOWN"
    assert refusal.value.details == {"place": "order", "format": "pdf", "known": ("jcs", "xml-tdm")}


def test_an_added_format_must_be_exact_too(installed: list[str]) -> None:
    installed.append("sloppy")
    refusal = refused(as_json(make_payment()))
    assert refusal.code == "ORDER_NOT_CANONICAL"
    assert refusal.details["format"] == "jcs"  # the first refusal is reported
    installed[:] = ["upper"]
    _added.cache_clear()
    assert refused(b"UP" + as_json(make_payment())).details["format"] == "upper"


def test_an_added_format_cannot_call_itself_built_in(installed: list[str]) -> None:
    installed.append("impostor")
    assert message_format("jcs") is not impostor
    assert refused(b"ZZ" + payment().canonical).code == "ORDER_FORMAT_UNRECOGNISED"


@pytest.mark.parametrize("name", ["missing", "nameless"])
def test_a_broken_package_is_named(installed: list[str], name: str) -> None:
    installed.append(name)
    order = payment()
    assert decode(order.canonical) == ("jcs", order)
    assert refused(as_json(make_payment())).code == "ORDER_NOT_CANONICAL"
    refusal = refused(b"??")
    assert (refusal.code, refusal.details["format"]) == ("ORDER_FORMAT_BROKEN", name)
    assert isinstance(refusal.__cause__, AttributeError)
    with pytest.raises(InputError) as again:
        message_format(name).encode(order, "zh")
    assert again.value.code == "ORDER_FORMAT_BROKEN"


def test_no_package_is_looked_for_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ushield_hw.order.formats._added", lambda: pytest.fail("looked for packages"))
    assert decode(payment().canonical)[0] == "jcs"
    assert message_format("xml-tdm").name == "xml-tdm"


def test_formats_are_listed_where_the_docstring_says() -> None:
    assert GROUP in (Path(__file__).parents[3] / "ushield_hw/order/formats.py").read_text().partition('"""\n\nfrom')[0]
