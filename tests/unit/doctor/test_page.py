"""The report as a page: what it shows, what it escapes, masks and never loads; commands in remedies."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shlex import quote as shell_quoted
from typing import Final
from xml.etree.ElementTree import Element, fromstring

import pytest

from hatch_build import read_language, singular
from tests.project.tree import ROOT
from tests.unit.doctor.recorded import TOKEN, Tree
from tests.unit.doctor.test_order import MACHINES, Made
from ushield_hw import messages
from ushield_hw.doctor import remedy_text
from ushield_hw.doctor.bundle import mask_for
from ushield_hw.doctor.finding import Finding, Layer, Rule, Status
from ushield_hw.doctor.page import page
from ushield_hw.doctor.remedy_text import Kind, cause_parts, remedy_parts
from ushield_hw.doctor.report import Report, UsableToken
from ushield_hw.doctor.runner import examine

pytestmark = pytest.mark.unit

LAYERS: Final = list(Layer)
FACTS: Final = {"ushield": "1", "python": "3", "system": "Linux", "kind": "plain", "pcsc": "ok"}
HOSTILE: Final = (
    "<script>alert(1)</script>",
    '"><img src=https://evil.example/x onerror=alert(1)>',
    "'><a href='javascript:alert(1)'>x</a>",
    "&lt;b&gt;&amp;&#60;",
    "\u202egnp.exe\u2066",
    "</style></title><!-- x",
    "line\r\nline\x1b[31m\x00",
    "\ue000\ue002sudo reboot\ue001",
    "run sudo reboot; now",
    "\ud800",
)


@pytest.fixture(params=messages.LANGUAGES)
def lang(request: pytest.FixtureRequest) -> Iterator[messages.Language]:
    """The current language, each in turn."""
    messages.set_language(request.param)
    yield request.param
    messages.set_language(None)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.family("epass", f"{TOKEN} ccid", paths=["/usr/lib/libepass.so"], module='discover = "named"')
    tree.family("hidkey", "1ea8:c001 hid", interface="skf")
    tree.family("vendorkey", "096e:0309 vendor", interface="skf")
    tree.family("drivekey", "055c:db08 mass-storage", interface="skf")
    return tree


def recorded(tree: Tree, made: Made) -> Report:
    made.make(tree)
    machine = tree.machine(made.reader_list, log=made.log, **made.how)
    if made.hail is not None:
        machine.hail = made.hail
    return examine(machine)


def parsed(text: str) -> Element:
    """Return the page, which is well-formed XML too: no element is left open, no attribute unquoted."""
    assert text.startswith("<!DOCTYPE html>\n<html ")
    text.encode()
    return fromstring(text)  # noqa: S314 - made here, and expat limits expansion


def having(root: Element, kind: str) -> list[Element]:
    """Return the elements of a class, in order."""
    return [one for one in root.iter() if kind in one.get("class", "").split()]


def said(element: Element) -> str:
    return "".join(element.itertext())


def article(root: Element, lang: str) -> Element:
    (found,) = (one for one in root.iter("article") if one.get("lang") == lang)
    return found


def report_of(*findings: Finding, usable: tuple[UsableToken, ...] = (), **how: object) -> Report:
    first = next((one for one in findings if one.status is Status.FAIL), None)
    return Report(findings, usable, first, environment=FACTS, **how)  # type: ignore[arg-type]


def problem(id: str, status: Status = Status.FAIL, subject: str = "", **evidence: object) -> Finding:
    return Finding(id, "a.probe", status, subject, evidence, Rule())


# --- the path and the first cause -------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", MACHINES.values(), ids=MACHINES)
def test_one_station_is_the_broken_one_and_the_first_cause_is_in_large_type(tree: Tree, made: Made) -> None:
    report = recorded(tree, made)
    assert report.first is not None
    root = parsed(page(report))
    for lang in messages.LANGUAGES:
        with messages.using_language(lang):
            shown = article(root, lang)
            stations = having(shown, "station")
            names = [messages.text(f"doctor.layer.{layer.value}") for layer in LAYERS]
            assert [said(having(one, "name")[0]) for one in stations] == names
            broken = [at for at, one in enumerate(stations) if "broken" in one.get("class", "").split()]
            assert broken == [LAYERS.index(report.first.layer)]
            (here,) = having(shown, "here")
            assert report.first.id in said(here)
            (cause,) = having(shown, "cause")
            assert here.get("href") == f"#{cause.get('id')}"
            masked = mask_for(report).finding(report.first)
            assert str(masked.cause()) in said(having(cause, "what")[0])
            states = [messages.text(report.state(layer)[1]).partition(":")[0].partition("：")[0] for layer in LAYERS]
            assert [said(having(one, "state")[0]) for one in stations] == [
                messages.text("doctor.page.unneeded") if state == messages.text("doctor.unneeded") else state
                for state in states
            ]


def test_the_remedy_of_the_first_cause_and_its_commands(lang: messages.Language) -> None:
    report = report_of(problem("B11", program="-", devices=[], library=True))
    shown = article(parsed(page(report)), lang)
    (remedy,), (commands,) = having(shown, "remedy"), having(shown, "commands")
    assert said(remedy) == problem("B11").remedy()
    assert [said(one) for one in commands] == [
        "sudo apt install pcscd libpcsclite1 libccid",
        "sudo systemctl enable --now pcscd.socket",
    ]


def test_a_long_command_is_shortened_in_the_sentence_and_whole_below() -> None:
    uri = "pkcs11:token=demo;manufacturer=SoftHSM%20project"
    shown = article(parsed(page(report_of(problem("H71", kind="nothing", label="x", uri=uri)))), "en")
    assert "ushield cert request\u00a0…" in said(having(shown, "remedy")[0])
    request, install = (said(one) for one in having(shown, "commands")[0])
    assert request.startswith("ushield cert request --token 'pkcs11:")
    assert request.endswith(" --subject CN=NAME -o REQUEST.pem")  # the mask does not change the catalogue's own words
    assert install.startswith("ushield cert install CERT.pem --token 'pkcs11:")
    assert len(having(shown, "note")) == 1  # what is masked must be replaced
    other = article(parsed(page(report_of(problem("B11")))), "en")
    assert having(other, "note") == []


def test_a_machine_on_which_tokens_can_sign(lang: messages.Language) -> None:
    able = UsableToken("pkcs11:serial=42AB", "pay", "42AB", "CN=Li Si")
    report = report_of(problem("A9", Status.WARN), usable=(able, replace(able, certain=False)))
    root = parsed(page(report))
    shown = article(root, lang)
    assert having(root, "broken") == having(root, "cause") == having(root, "here") == []
    assert messages.text("doctor.page.ready") == said(next(shown.iter("h1")))
    tokens = having(having(shown, "tokens")[0], "item")
    assert [having(one, "mark")[0].get("class") for one in tokens] == ["mark ok", "mark warn"]
    assert [said(next(one.iter("code"))) for one in tokens] == ["pkcs11:serial=<serial-1>"] * 2
    (remark,) = having(having(shown, "others")[0], "item")
    assert str(report.findings[0].remedy()) in said(remark)
    for usable, title in (((replace(able, certain=False),), "undecided"), ((), "no_problem")):
        other = article(parsed(page(report_of(usable=usable))), lang)
        assert messages.text(f"doctor.page.{title}") == said(next(other.iter("h1")))


def test_every_problem_is_in_its_place_and_every_check_is_folded() -> None:
    first, other = problem("E43", path="/m.so", size=0), problem("C26", devices=["x"])
    beside = replace(problem("B23", Status.WARN, daemons=["y"], bundles=["-"]), unrelated=True)
    fine = Finding("G64", "pin.locked", Status.OK, "demo", {"left": 3})
    shown = article(parsed(page(report_of(first, other, beside, fine, skeleton="[match]\nid = 1"))), "en")
    names = {kind: [said(one) for one in having(having(shown, kind)[0], "id")] for kind in ("others", "unrelated")}
    assert names == {"others": ["C26"], "unrelated": ["B23"]}
    (checks,), (draft,) = having(shown, "checks"), having(shown, "draft")
    assert (checks.tag, draft.tag, said(next(draft.iter("pre")))) == ("details", "details", "[match]\nid = 1")
    assert [said(one) for one in having(checks, "id")] == ["B23", "C26", "E43", "G64"]
    assert "pin.locked demo" in said(checks)
    evidence = {said(name): said(value) for name, value in zip(checks.iter("dt"), checks.iter("dd"), strict=True)}
    assert evidence == {"daemons": "y", "devices": "x", "path": "/m.so", "size": "0", "left": "3"}
    assert not any(one.get("open") for one in shown.iter("details"))
    assert all(having(one, "hidden")[0].text for one in having(shown, "item"))  # a word, not only a mark


# --- two languages, nothing loaded ------------------------------------------------------------------------------------


def test_both_languages_are_there_and_the_current_one_is_shown(lang: messages.Language) -> None:
    root = parsed(page(report_of(problem("B11"))))
    other = next(one for one in messages.LANGUAGES if one != lang)
    assert root.get("lang") == lang
    assert [one.get("lang") for one in root.iter("article")] == [lang, other]
    radios = {one.get("id"): one.get("checked") for one in root.iter("input")}
    assert radios == {f"show-{lang}": "checked", f"show-{other}": None}
    assert {one.get("for") for one in root.iter("label")} == set(radios)
    for one in messages.LANGUAGES:
        with messages.using_language(one):
            assert messages.text("doctor.unusable") == said(next(article(root, one).iter("h1")))
        assert f'#show-{one}:checked ~ main > [lang="{other if one == lang else lang}"]' in said(
            next(root.iter("style"))
        )
    ids = [one.get("id") for one in root.iter() if one.get("id")]
    assert len(ids) == len(set(ids))


def test_no_text_is_missing(lang: messages.Language, tree: Tree) -> None:
    text = said(parsed(page(recorded(tree, MACHINES["no reader driver"]))))
    assert re.findall(r"\bdoctor\.\w+", text) == []
    assert re.findall(r"(?<!\\u)\{\w+\}", text) == []


def test_it_loads_and_runs_nothing(tree: Tree) -> None:
    text = page(recorded(tree, MACHINES["a program has the token's node"]))
    root = parsed(text)
    tags = {one.tag for one in root.iter()}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "image", "video", "audio"}
    ids = {f"#{one.get('id')}" for one in root.iter() if one.get("id")}
    assert {one.get("href") for one in root.iter() if one.get("href")} <= ids
    assert not [name for one in root.iter() for name in one.keys() if name.startswith("on") or name in {"src", "style"}]
    style = said(next(root.iter("style")))
    assert not re.search(r"url\(|@import|http|image-set|<|&", style)
    (policy,) = (one.get("content") for one in root.iter("meta") if one.get("http-equiv") == "Content-Security-Policy")
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert text.index("Content-Security-Policy") < text.index("<style>")


# --- untrusted texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", HOSTILE)
def test_what_comes_from_a_token_is_no_markup(label: str, lang: messages.Language) -> None:
    plain = page(_everywhere("label"))
    text = page(_everywhere(label))
    root, harmless = parsed(text), parsed(plain)
    tags = [[one.tag for one in made.iter() if one.tag != "span"] for made in (root, harmless)]
    assert tags[0] == tags[1]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", text)
    commands = [[said(one) for one in having(made, "commands")] for made in (root, harmless)]
    assert commands[0] == [one.replace("label", shell_quoted(_as_shown(label))) for one in commands[1]]
    assert commands[1] == ["sha256sum label"] * 2


def _as_shown(label: str) -> str:
    return re.sub("[\ue000-\ue002]", lambda found: f"\\u{{{ord(found[0]):04x}}}", messages.shown(label))


def _everywhere(text: str) -> Report:
    """Return a report with a text in every place that a machine can fill; nothing in it is masked."""
    facts = {**FACTS, "kind": text, "system": text}
    findings = [
        problem("E43", subject=text, path=text, size=0, list=[text], name=text),
        problem("E40", subject=text, kind="others", installed=[text], path=text),
        replace(problem("B23", Status.WARN, text, daemons=[text], bundles=[text]), unrelated=True),
        Finding("E44", text, Status.SKIP, text, {"reason": text}),
    ]
    return Report(findings, (), findings[0], text, facts)


@pytest.mark.parametrize("part", ["what", "remedy", "commands"])
def test_a_path_is_in_the_command_that_contains_it(part: str) -> None:
    shown = article(parsed(page(report_of(problem("E42", kind="not-a-file", path="/a<b>/x.so")))), "en")
    assert "/a<b>/x.so" in said(having(shown, part)[0])


# --- masking ----------------------------------------------------------------------------------------------------------


def test_it_masks_what_the_bundle_masks() -> None:
    token = UsableToken("pkcs11:token=pay%20card;serial=42AB17", "pay card", "42AB17", "CN=欧阳娜娜,O=某某网络公司")
    findings = [
        problem("H72", subject="pay card (42AB17)", kind="expired", subject_of="x", label="pay card", days=3),
        problem("E43", path="/home/wangxiaoming/6222020200012345678.so", size=0),
        Finding("G64", "pin.locked", Status.OK, "pay card (42AB17)", {"owner": "O=某某网络公司", "serial": "42AB17"}),
        problem("D33", Status.WARN, "Reader (SN20261126) 00 00", holders=["CN=Zhao Liu"]),
    ]
    report = Report(
        findings, (token,), findings[0], "# 42AB17 of 欧阳娜娜", {**FACTS, "system": "of 42AB17"},
        private=lambda: [("serial", "USB0815")],
    )  # fmt: skip
    findings.append(problem("A6", Status.WARN, nodes=["USB0815"]))
    text = page(report)
    secrets = ["pay card", "pay%20card", "42AB17", "欧阳娜娜", "某某网络", "wangxiaoming", "6222020200012345678"]
    secrets += ["SN20261126", "Zhao Liu", "USB0815"]
    assert [secret for secret in secrets if secret in text] == []
    document = mask_for(report).value(report.to_json())
    shown = said(article(parsed(text), "en"))
    for finding in document["findings"]:
        assert finding["subject"] in shown
        values = [one for name, one in finding["evidence"].items() if isinstance(one, str) and name != "kind"]
        assert [one for one in values if one not in shown] == []
    assert document["usable"][0]["uri"] in shown
    assert document["skeleton"] in shown
    assert "<serial-1>" in json.dumps(document)


def test_what_is_masked_does_not_change_the_verdict_of_a_layer() -> None:
    """A token whose label is a part of an identifier of the report."""
    report = report_of(
        Finding("B11", "service.running", Status.SKIP, "", {"reason": "soft_token"}),
        Finding("H71", "objects", Status.OK, "soft (4711)", {"label": "soft", "serial": "token"}),
        usable=(UsableToken("pkcs11:token=soft", "soft", "token", ""),),
    )
    states = having(article(parsed(page(report)), "en"), "state")
    assert said(states[1]) == messages.text("doctor.page.unneeded", "en")


# --- commands in remedies ---------------------------------------------------------------------------------------------


def remedies() -> dict[str, dict[str, str]]:
    """Return every remedy by its id and language, with each value marked."""
    found: dict[str, dict[str, str]] = {}
    for language in messages.LANGUAGES:
        for message in read_language(ROOT, language):
            if re.fullmatch(r"doctor\.[A-H]\d+\.remedy(\..+)?", singular(message)):
                text = re.sub(r"(?<!\{)\{(\w+)\}(?!\})", "\ue000\\1\ue001", str(message.string))
                found.setdefault(singular(message), {})[language] = text.replace("{{", "{").replace("}}", "}")
    return found


@pytest.mark.parametrize(("id", "texts"), remedies().items(), ids=remedies())
def test_both_languages_of_a_remedy_have_the_same_commands(id: str, texts: dict[str, str]) -> None:
    english, chinese = (remedy_text.commands(texts[language]) for language in ("en", "zh"))
    assert english == chinese
    assert not [command for command in english if re.search(r"[.,;:)]$|  |\ue000", command)]
    if "sudo " in texts["zh"] or re.search(r"ushield [a-z]+ [a-z-]", texts["zh"]):
        assert english or id == "doctor.D33.remedy.own"  # it says: run with sudo


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("ushield pin status. Then", ["ushield pin status"]),
        ("Install it (sudo apt install a b) and", ["sudo apt install a b"]),
        ("if lsusb shows nothing", ["lsusb"]),
        ("date -u; then unset A", ["date -u", "unset A"]),
        ("echo 'a b' | sudo tee /etc/x.conf, then", ["echo 'a b' | sudo tee /etc/x.conf"]),
        ("run the doctor with sudo.", []),
        ("ushield shows it once", []),
        ("in /usr/bin/sudo x, my-ushield list", []),
        ("查看 ushield list 显示", ["ushield list"]),
        ("--token '\ue000a; sudo reboot\ue001' of \ue000sudo reboot\ue001", []),
    ],
)
def test_where_a_command_begins_and_ends(text: str, commands: list[str]) -> None:
    assert remedy_text.commands(text) == commands


@pytest.mark.parametrize(
    ("id", "values", "command"),
    [
        ("E42", {"kind": "not-a-file", "path": "/a/x.so"}, "ls /a/x.so"),
        ("E42", {"kind": "not-a-file", "path": "/a b/x.so; reboot"}, "ls '/a b/x.so; reboot'"),
        ("E42", {"kind": "not-a-file", "path": "/a b/x.so"}, "ls '/a b/x.so'"),
        ("E42", {"kind": "not-a-file", "path": "/home/<user>/x.so"}, "ls '/home/<user>/x.so'"),
        ("E42", {"kind": "not-a-file", "path": "x'$(reboot)"}, """ls 'x'"'"'$(reboot)'"""),
        ("G65", {"kind": "change", "uri": "a'; reboot"}, r"ushield pin change --token 'a'\''; reboot'"),
        ("F52", {"kind": "down", "missing": "a b"}, "sudo systemctl start a b"),
    ],
)
def test_the_shell_takes_a_value_in_a_command_as_it_is(id: str, values: dict[str, str], command: str) -> None:
    parts = remedy_parts(replace(problem(id), evidence=values))
    assert next(text for kind, text in parts if kind is Kind.COMMAND) == command


def test_a_value_is_never_a_command_unless_this_program_made_it() -> None:
    finding = problem("E45", kind="found", found="sudo reboot", missing="sudo reboot")
    assert (Kind.VALUE, "sudo reboot") in remedy_parts(finding) + cause_parts(finding)
    assert "sudo reboot" not in [text for kind, text in remedy_parts(finding) if kind is Kind.COMMAND]
    package = problem("B11", kind="package", install="/opt/python -m pip install 'x[y]'", devices=[], program="-")
    assert (Kind.COMMAND, "/opt/python -m pip install 'x[y]'") in remedy_parts(package)
    joined = "".join(text for _, text in remedy_parts(package))
    assert joined == package.remedy()
