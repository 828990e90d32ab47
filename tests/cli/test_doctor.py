"""``ushield doctor``: the first cause, as text in both languages and as JSON; the zip file for support, the page."""

from __future__ import annotations

import html
import json
import os
import re
import socket
import stat
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.world import TIMEOUT_S, USHIELD, Bank, Done, Home
from tests.stack.virtual.desks import Blank
from ushield_hw.cli.layout import columns
from ushield_hw.doctor.bundle import Mask
from ushield_hw.testing.readers import PcscHost
from ushield_hw.testing.shield import VirtualShield

pytestmark = pytest.mark.stack

FINDING: Final = {"id", "probe", "layer", "status", "evidence", "cause", "remedy"}
LAYERS: Final = ["usb", "service", "reader", "card", "module", "token", "pin", "objects"]


def doctor(home: Home, *words: object, exits: int = 0, lang: str = "en", **environment: str) -> Done:
    """Run ``ushield doctor`` without a terminal and without PC/SC; the report goes to stdout with any exit code."""
    place = {"PCSCLITE_CSOCK_NAME": str(home.folder / "no-pcscd"), **environment}
    ended = subprocess.run(
        [USHIELD, "--lang", lang, "doctor", *map(str, words)],
        cwd=home.folder,
        env=home.environment | place,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=False,
    )
    done = Done(ended.returncode, ended.stdout.decode(), ended.stderr.decode())
    assert done.code == exits, done.out + done.err
    assert "Traceback" not in done.out + done.err
    assert "doctor." not in done.out + done.err  # the id of an undefined text
    return done


def diagnosis(home: Home, *words: object, exits: int = 0, **environment: str) -> dict[str, Any]:
    """Return the document of ``ushield doctor --json``."""
    document: dict[str, Any] = doctor(home, *words, "--json", exits=exits, **environment).document
    assert {"verdict", "findings", "environment"} <= set(document)
    assert document["verdict"] == ("fail" if exits else "ok")
    return document


@pytest.fixture
def broken(home: Home) -> Path:
    """A truncated module."""
    home.write("half.so", Path("/usr/lib/softhsm/libsofthsm2.so").read_bytes()[:5000], 0o755)
    return home.file("half.so")


# --- JSON output ------------------------------------------------------------------------------------------------------


def test_the_document_of_a_machine_on_which_tokens_can_sign(shared: Home) -> None:
    document = diagnosis(shared)
    for finding in document["findings"]:
        assert set(finding) >= FINDING
        assert finding["status"] in {"ok", "warn", "fail", "skip"}
        assert (finding["layer"], finding["id"][0]) in zip(LAYERS, "ABCDEFGH", strict=True)
        assert (finding["cause"] is None) == (finding["status"] in {"ok", "skip"})
    assert [finding["id"] for finding in document["findings"] if finding["status"] in {"warn", "fail"}] == []
    letters = [finding["id"][0] for finding in document["findings"]]
    assert letters[0] == "A"
    assert {"A", "B", "C", "D", "E", "F", "G", "H"} == set(letters)
    assert {token["uri"] for token in document["usable"]} == {token.uri for token in shared.tokens}
    assert document["first"] is None
    assert document["environment"]["modules"]


def test_a_machine_without_a_token(bare: Home) -> None:
    document = diagnosis(bare, exits=3)
    assert (document["first"]["id"], document["usable"]) == ("F56", [])


def test_a_locked_pin_is_5_and_an_expired_certificate_is_6(home: Home, bank: Bank, blank: Home, tmp_path: Path) -> None:
    for _ in range(6):
        words = ("--token", home.token.uri, "--pin-source", home.pin(), "--allow-last-try")
        subprocess.run([USHIELD, "pin", "verify", *words], cwd=home.folder, env=home.environment, check=False)
    document = diagnosis(home, "--token", home.token.uri, exits=5)
    assert document["first"]["id"] == "G64"
    assert diagnosis(home)["usable"][0]["serial"] == home.other_token.serial

    late = blank.copy(tmp_path / "late")
    late.enrol(bank, late.token, "CN=李四,O=Demo Bank", days=(-20, -10))
    document = diagnosis(late, exits=6)
    assert (document["first"]["id"], document["first"]["evidence"]["kind"]) == ("H72", "expired")
    assert "CN=李四" in document["first"]["cause"]


def test_one_of_several_tokens(shared: Home) -> None:
    document = diagnosis(shared, "--token", shared.other_token.serial)
    assert [token["serial"] for token in document["usable"]] == [shared.other_token.serial]
    document = diagnosis(shared, "--token", "nobody", exits=3)
    assert document["first"]["id"] == "F57"


def test_a_module_that_somebody_names(home: Home, broken: Path) -> None:
    document = diagnosis(home, "--module", "half.so", exits=3)
    assert (document["first"]["id"], document["first"]["subject"]) == ("E43", str(broken))
    assert diagnosis(home, "--module", "/usr/lib/softhsm/libsofthsm2.so")["verdict"] == "ok"
    assert diagnosis(home, "--module", "nowhere.so", exits=3)["first"]["id"] == "E40"


# --- explanation of a code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "identity"), [("CKR_PIN_LOCKED", "G64"), ("0x8010001D", "B11"), ("63C2", "G62"), ("0x000000A4", "G64")]
)
def test_a_code_is_explained(bare: Home, code: str, identity: str) -> None:
    finding = doctor(bare, "--code", code, "--json").document["finding"]
    assert finding["id"] == identity
    assert finding["cause"]
    assert finding["remedy"]
    english, chinese = (doctor(bare, "--code", code, lang=lang).out for lang in ("en", "zh"))
    assert english.startswith(f"[{identity}] {finding['cause']}\n  → {finding['remedy']}")
    assert chinese.startswith(f"[{identity}] ")
    assert any(letter > "\u4e00" for letter in chinese)


def test_what_is_no_code_or_no_usage(bare: Home) -> None:
    wrong: list[tuple[str, tuple[object, ...]]] = [
        ("CODE_UNKNOWN", ("--code", "nonsense")),
        ("USAGE_ONE_OF", ("--code", "63C2", "--module", "x.so")),
        ("USAGE_ONE_OF", ("--code", "63C2", "--html", "x.html")),
        ("USAGE_NO_SUCH_OPTION", ("--pin", "1")),
        ("USAGE", ("something",)),
        ("OUTPUT_FOLDER_MISSING", ("--bundle", "nowhere/x.zip")),
        ("OUTPUT_FOLDER_MISSING", ("--html", "nowhere/x.html")),
        ("OUTPUT_EXISTS", ("--html", "x", "--bundle", "./x")),
        ("URI_REFUSED", ("--token", "pkcs11:serial=1?pin-value=735591")),
    ]
    for code, words in wrong:
        done = doctor(bare, *words, "--json", exits=2)
        assert done.document["error"]["code"] == code
        assert "735591" not in done.out + done.err
        assert doctor(bare, *words, exits=2).out == ""


# --- text output ------------------------------------------------------------------------------------------------------


def test_people_read_one_cause_and_what_to_do_first(home: Home, broken: Path) -> None:
    for lang, verdict, words in (("en", "No token can be used.", "again"), ("zh", "没有可用的 U盾。", "重新")):
        lines = doctor(home, "--module", broken, exits=3, lang=lang).out.split("\n")
        assert lines[:2] == [f"✗ {verdict}", ""]
        assert lines[2].startswith("[E43] ")
        assert str(broken) in lines[2]
        assert lines[3].startswith("  → ")
        assert words in lines[3]
        assert lines[4] == ""
        assert sum(str(lines[2][6:]) in line for line in lines) == 1


def test_a_healthy_machine_has_a_short_report(shared: Home) -> None:
    for lang, ends in (("en", "can sign"), ("zh", "可以签名")):
        lines = doctor(shared, lang=lang).out.rstrip().split("\n")
        assert lines[0].startswith("✓ ")
        assert ends in lines[0]
        assert len(lines) == 2 * len(shared.tokens) + 1 + 1 + len(LAYERS) + 1 + 1
        assert not any("→" in line or "✗" in line or "!" in line for line in lines)


def test_all_shows_every_question(shared: Home) -> None:
    short, everything = doctor(shared).out, doctor(shared, "--all").out
    assert "module.architecture" not in short
    assert "E44 module.architecture" in everything


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "POSIX"}, {"LANG": "C", "PYTHONIOENCODING": "ascii"}])
def test_a_plain_locale_gets_plain_signs(home: Home, broken: Path, locale: dict[str, str]) -> None:
    text = doctor(home, "--module", broken, exits=3, **locale).out
    assert text.startswith("x No token can be used.")
    assert "  -> " in text
    assert not set("✓✗→·") & set(text)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_lines_fit_a_terminal(home: Home, broken: Path, lang: str) -> None:
    text = on_screen(home, "--lang", lang, "doctor", "--module", broken)
    text = re.sub(r"\x1b\[[0-9]+m", "", text)  # colour
    assert "\x1b" not in text
    lines = text.replace("\r", "").split("\n")
    unbroken = [line for line in lines if columns(line) > 80 and len(line.split()) > 2]
    assert unbroken == []
    remedy = next(number for number, line in enumerate(lines) if line.startswith("  → "))
    assert lines[remedy + 1].startswith("    ")  # continued under the text
    assert not any(line.strip().startswith(("，", "。", "；", "：", "）")) for line in lines)
    plain = doctor(home, "--module", broken, exits=3, lang=lang).out
    assert "".join(text.split()).endswith("".join(plain.split()))  # wrapping loses nothing; progress may come first


def test_a_descriptor_to_begin_with_can_be_copied_from_a_terminal(bare: Home) -> None:
    card = Blank()
    card.atr = bytes.fromhex("3b86800155534b2d3039")
    with PcscHost() as desk:
        desk.insert(card)
        deadline = time.monotonic() + TIMEOUT_S
        while "[[match.atr]]" not in (text := on_screen(bare, "doctor", **desk.env)):
            assert time.monotonic() < deadline, text  # programs see a card shortly after pcscd
    descriptor = text.replace("\r", "").partition("# A beginning")[2].split("\n\nushield ")[0]
    name = re.findall(r'(?m)^id = "(.*)"$', descriptor)[0]
    bare.write(f"{name}.toml", re.sub(r"(?s)linux = \[.*?\]", 'linux = ["/usr/lib/libnew_p11.so"]', f"#{descriptor}"))
    bare.ushield("driver", "check", f"{name}.toml")


def on_screen(home: Home, *words: object, **environment: str) -> str:
    """Return everything shown at a terminal of 80 columns, including stdout."""
    ours, theirs = os.openpty()
    env = home.environment | {"PCSCLITE_CSOCK_NAME": str(home.folder / "no-pcscd"), "COLUMNS": "80", "TERM": "xterm"}
    env |= environment
    command = [USHIELD, *map(str, words)]
    with subprocess.Popen(command, cwd=home.folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        text = b""
        while part := _read(ours):
            text += part
        running.wait(TIMEOUT_S)
    os.close(ours)
    return text.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end was closed
        return b""


# --- zip file for support ---------------------------------------------------------------------------------------------


def test_a_bundle_holds_nothing_that_names_a_person_or_a_token(
    blank: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = blank.copy(tmp_path / "home" / "wangxiaoming")
    bank = Bank.opened(tmp_path / "ca", "工行某某分行 CA")
    owner = "CN=欧阳娜娜 6222020200012345678,OU=ouyang@bank.example,O=杭州某某网络有限公司"
    home.enrol(bank, home.token, owner)
    home.write("module of 13800138000.so", "GIF89a", 0o755)
    secrets = [
        *(token.serial for token in home.tokens),
        *(token.label for token in home.tokens),
        *("欧阳娜娜", "6222020200012345678", "ouyang@bank.example", "杭州某某", "工行某某分行", "13800138000"),
        *("wangxiaoming", "xiaoming.wang", socket.gethostname(), str(home.folder)),
        *(home.content(name).decode().strip() for name in (home.token.pin_file, home.token.so_pin_file)),
    ]
    users = {"LOGNAME": "xiaoming.wang", "USER": "xiaoming.wang"}
    for number, words in enumerate(
        [(), ("--token", "欧阳娜娜"), ("--token", home.token.label), ("--module", "module of 13800138000.so")]
    ):
        file = home.file(f"{number}.zip")
        exits = 3 if number in {1, 3} else 0
        done = doctor(home, *words, "--bundle", file.name, exits=exits, **users)
        assert file.name in done.err
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        members = contents(file)
        for name, text in members.items():
            assert [secret for secret in secrets if secret in text or secret in name] == [], (number, name)
        report = json.loads(members["report.json"])
        assert report["verdict"] == ("fail" if exits else "ok")
        assert {"report.en.txt", "report.zh.txt", "README.txt"} < set(members)
        assert "Layer by layer" in members["report.en.txt"]
        assert "逐层检查" in members["report.zh.txt"]


def test_a_bundle_tells_two_tokens_apart_and_keeps_what_helps(shared: Home, tmp_path: Path) -> None:
    home = shared.copy(tmp_path / "two")
    doctor(home, "--bundle", "report.zip")
    report = json.loads(contents(home.file("report.zip"))["report.json"])
    first, second = (token["serial"] for token in report["usable"])
    assert first != second
    assert first.startswith("<serial-")
    assert {finding["status"] for finding in report["findings"]} <= {"ok", "skip"}
    assert "libsofthsm2.so" in json.dumps(report["environment"])
    plain = diagnosis(home)
    assert [finding["id"] for finding in report["findings"]] == [finding["id"] for finding in plain["findings"]]


def test_a_bundle_of_a_shield(tmp_path: Path, bare: Home) -> None:
    with PcscHost(("Bank Reader (SN20261126)",)) as desk, VirtualShield(host=desk, serial="US77001122") as shield:
        until_seen(bare, shield)
        doctor(bare, "--bundle", "shield.zip", **shield.host_env)  # type: ignore[arg-type]
        pin = shield.pin_file.read_text().strip()
    members = contents(bare.file("shield.zip"))
    for name, text in members.items():
        assert [word for word in ("US77001122", "张三", "SN20261126", "Test CA", pin) if word in text] == [], name
    assert json.loads(members["report.json"])["usable"][0]["serial"].startswith("<serial-")


def test_a_bundle_never_replaces_a_file(bare: Home) -> None:
    bare.write("there.zip", "mine")
    error = doctor(bare, "--bundle", "there.zip", "--json", exits=2).document["error"]
    assert error["code"] == "OUTPUT_EXISTS"
    assert bare.content("there.zip") == b"mine"
    assert not bare.file("state").exists()  # no module was loaded for this
    doctor(bare, exits=3)
    assert bare.file("state").exists()


# --- page -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lang", "word"), [("en", "Ready: a token can sign."), ("zh", "正常：有可以签名的 U盾。")])
def test_a_page_is_written_for_its_owner_and_masked(shared: Home, tmp_path: Path, lang: str, word: str) -> None:
    home = shared.copy(tmp_path / "page")
    done = doctor(home, "--html", "report.html", lang=lang)
    file = home.file("report.html")
    text = file.read_text()
    assert "report.html" in done.err
    assert done.out == doctor(home, lang=lang).out
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f'<html lang="{lang}">' in text
    assert f"<h1>{word}</h1>" in text
    secrets = [*(token.serial for token in home.tokens), *(token.label for token in home.tokens), socket.gethostname()]
    assert [secret for secret in secrets if secret in text] == []
    assert "serial=&lt;serial-1&gt;" in text


def test_a_page_and_a_bundle_of_one_walk_agree(home: Home, broken: Path) -> None:
    plain = diagnosis(home, "--module", broken, exits=3)
    document = diagnosis(home, "--module", broken, "--html", "a.html", "--bundle", "a.zip", exits=3)
    kept = [{**made, "environment": None} for made in (plain, document)]
    assert kept[0] == kept[1]
    report = json.loads(contents(home.file("a.zip"))["report.json"])
    text = html.unescape(home.content("a.html").decode())
    assert report["first"]["id"] == "E43"
    assert report["first"]["evidence"]["path"] in text
    assert [finding["id"] for finding in report["findings"] if f">{finding['id']}</code>" not in text] == []
    done = doctor(home, "--module", broken, "--html", "b.html", "--bundle", "b.zip", exits=3)
    assert ("b.html" in done.err, "b.zip" in done.err) == (True, True)


def test_a_page_never_replaces_a_file(bare: Home) -> None:
    bare.write("there.html", "mine")
    error = doctor(bare, "--html", "there.html", "--bundle", "new.zip", "--json", exits=2).document["error"]
    assert error["code"] == "OUTPUT_EXISTS"
    assert bare.content("there.html") == b"mine"
    assert not bare.file("state").exists()  # no module was loaded for this
    assert not bare.file("new.zip").exists()


# --- masking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("账号6222020200012345678。", "账号<number>。"),
        ("6222 0202 0001 2345 678.", "<number>."),
        ("id 11010519491231002X", "id <number>"),
        ("DE89 3704 0044 0532 0130 00", "<number>"),
        ("since 2026-11-26, 0x8010001D, 2.6.1", "since 2026-11-26, 0x8010001D, 2.6.1"),
        ("pkcs11:serial=1a;token=a%20b?module-path=/m.so", "pkcs11:serial=<serial>;token=<token>?module-path=/m.so"),
        ("owner CN=张\\,三,O=银行; ask a.b@c.example", "owner CN=<name>,O=<name>; ask <mail>"),
        ("/home/li/x /Users/li/x", "/home/<user>/x /Users/<user>/x"),
        ("the card of Li and 李", "the card of <name-1> and <name-2>"),
        ("like LI, li-pkcs11", "like <name-1>, <name-1>-pkcs11"),
    ],
)
def test_what_looks_like_a_secret_is_masked_and_what_does_not_is_kept(text: str, masked: str) -> None:
    mask = Mask()
    mask.know("name", "Li")
    mask.know("name", "李")
    assert mask.text(text) == masked


def until_seen(home: Home, shield: VirtualShield) -> None:
    """Wait until programs see a U-shield, which is shortly after pcscd does."""
    deadline = time.monotonic() + TIMEOUT_S
    while shield.serial not in home.ushield("list", **shield.host_env).out:  # type: ignore[arg-type]
        assert time.monotonic() < deadline, "no program sees the shield"


def contents(file: Path) -> dict[str, str]:
    """Return the files in a zip archive."""
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}
