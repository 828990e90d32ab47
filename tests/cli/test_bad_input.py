"""Malformed input to the command line.

In every case: the right exit code, a specific message that names the location, in both languages, no file written, and
no traceback. The rules enforced inside the library are tested in ``tests/unit/order`` and ``tests/unit/cms``.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.conftest import CHECKER, DEMO, Signed
from tests.cli.world import TIMEOUT_S, USHIELD, Bank, Done, Home, checked
from tests.unit.cms import forge, pki
from tests.unit.cms.cases import CASES, Scenario, make_scene
from tests.unit.cms.people import P256, make_bank
from tests.unit.order.samples import as_json, live, make_payment, payment
from tests.unit.order.strategies import documents
from tests.unit.order.test_refused import ROWS
from ushield_hw import messages
from ushield_hw.crypto.der import tlv
from ushield_hw.errors import InputError
from ushield_hw.order import Order

HUGE = 100_000_000
LANGUAGES = ("en", "zh")


# --- helpers ----------------------------------------------------------------------------------------------------------


def everything(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content, except files written by a login and built modules."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    kept = {str(path): path.read_bytes() for path in files if not {"modules", "token.object"} & set(path.parts)}
    return {name: content for name, content in kept.items() if not _no_try_was_used(Path(name), content)}


def _no_try_was_used(file: Path, content: bytes) -> bool:
    """Tell whether this is an attempt counter after a correct PIN, or its lock file."""
    return file.parent.name == "pin" and (not content or json.loads(content)["failures"] == 0)


@contextmanager
def nothing_written(home: Home) -> Iterator[None]:
    """Assert that no file in the home changes: outputs, journal, PIN counters, tokens."""
    before = everything(home.folder)
    yield
    after = everything(home.folder)
    assert after.keys() - before.keys() == set()
    assert [name for name in before if before[name] != after.get(name, b"")] == []


def refused(home: Home, exits: int, code: str, *words: object, place: str = "") -> dict[str, Any]:
    """Run a command that must be refused, in Chinese with ``--json`` and as English text; return the error's details.

    ``place`` is the location that the message must name.
    """
    with nothing_written(home):
        error = home.json("--lang", "zh", *words, exits=exits)["error"]
        told = home.ushield("--lang", "en", *words, exits=exits).err
    assert error["code"] == code, error
    for text in (told, error["message"] + error["remedy"]):
        assert "{" not in text.replace("\\u{", "")
    assert any("\u4e00" <= letter <= "\u9fff" for letter in error["message"])
    assert all(part in told for part in (f"[{code}]", "→", place))
    details: dict[str, Any] = error["details"]
    return details


def sign(home: Home, order: object, *words: object, out: str = "out.p7m") -> tuple[object, ...]:
    """Return the arguments that would sign if the order were valid, with the token's own PIN."""
    known = ("--token", home.token.serial, "--pin-source", home.token.pin_file)
    return ("sign", order, *known, "--unattended", "-o", out, *words)


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def now(**changes: object) -> dict[str, Any]:
    """Return an order that can be signed now, with changes."""
    return make_payment(**{**live(datetime.now(UTC)), **changes})


# --- orders -----------------------------------------------------------------------------------------------------------

BY_CODE = list({code: (changes, code, place) for changes, code, place in ROWS}.values())


@pytest.mark.parametrize(("changes", "code", "place"), BY_CODE, ids=[row[1] for row in BY_CODE])
def test_every_rule_of_an_order(shared: Home, changes: dict[str, Any], code: str, place: str, tmp_path: Path) -> None:
    order = put(tmp_path, "order.json", json.dumps(now(**changes)).encode())
    with nothing_written(shared):
        error = shared.json("--lang", "zh", *sign(shared, order), exits=2)["error"]
    assert (error["code"], error["details"]["place"], error["details"]["file"]) == (code, place, str(order))


FILES: list[tuple[str, bytes, str, dict[str, Any]]] = [
    ("empty", b"", "ORDER_NOT_JSON", {"line": 1, "column": 1}),
    ("cut off", as_json(make_payment())[:-40], "ORDER_NOT_JSON", {}),
    ("two orders", as_json(make_payment()) * 2, "ORDER_NOT_JSON", {"line": 28}),
    ("a list", b"[]", "ORDER_WRONG_TYPE", {"found": "array"}),
    ("arrays in arrays", b"[" * 60_000, "ORDER_TOO_DEEP", {"deepest": 8}),
    ("objects in objects", b'{"a":' * 9 + b"1" + b"}" * 9, "ORDER_TOO_DEEP", {"deepest": 8}),
    ("deep inside", b'{"type":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "ORDER_TOO_DEEP", {"deepest": 8}),
    ("GB 18030", as_json(make_payment()).decode().encode("gb18030"), "ORDER_NOT_UTF8", {}),
    ("UTF-16", as_json(make_payment()).decode().encode("utf-16"), "ORDER_NOT_UTF8", {"position": 1}),
    ("a byte order mark", b"\xef\xbb\xbf" + as_json(make_payment()), "ORDER_NOT_UTF8", {"position": 1}),
    ("one bad octet", as_json(make_payment(purpose="X")).replace(b"X", b"\xff"), "ORDER_NOT_UTF8", {}),
    ("a lone surrogate", as_json(make_payment(purpose="X")).replace(b"X", b"\xed\xa0\x80"), "ORDER_NOT_UTF8", {}),
    ("64 KB and one", as_json(make_payment()).ljust(64 * 1024 + 1), "ORDER_TOO_LARGE", {"size": 64 * 1024 + 1}),
]


@pytest.mark.parametrize(("content", "code", "told"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_order_files_that_are_none(
    shared: Home, content: bytes, code: str, told: dict[str, Any], tmp_path: Path
) -> None:
    order = put(tmp_path, "order.json", content)
    details = refused(shared, 2, code, *sign(shared, order), place=str(order))
    assert details.items() >= {"place": "order", "file": str(order), **told}.items()


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """A sparse 100 MB file that starts like an order and has no end."""
    path = put(tmp_path, "huge", b'{"type": "ushield.payment/1"')
    os.truncate(path, HUGE)
    return path


def test_a_hundred_megabytes(shared: Home, signed: Signed, bank: Bank, huge: Path) -> None:
    verify = ("verify", signed.path, "--ca", bank.ca)
    for words in (
        sign(shared, huge),
        ("show", huge),
        ("verify", huge, "--ca", bank.ca),
        (*verify, "--order", huge),
        ("cert", "install", huge, "--token", shared.token.serial, "--pin-source", shared.token.pin_file),
    ):
        assert refused(shared, 2, "FILE_TOO_LARGE", *words, place=str(huge))["file"] == str(huge)
    details = refused(shared, 2, "CA_FILE_INVALID", "verify", signed.path, "--ca", huge, place=str(huge))
    assert details["problem"] == "trust_too_large"
    details = refused(shared, 2, "CRL_FILE_INVALID", *verify, "--crl", huge, place=str(huge))
    assert details["problem"] == "trust_no_crl"  # CRLs of 100 MB exist: the file is read and then rejected


def test_a_file_without_end(shared: Home, bank: Bank) -> None:
    refused(shared, 2, "FILE_TOO_LARGE", *sign(shared, "/dev/zero"), place="/dev/zero")
    refused(shared, 2, "FILE_TOO_LARGE", "verify", "/dev/zero", "--ca", bank.ca, place="/dev/zero")


@pytest.mark.parametrize("name", ["nowhere.json", "softhsm", "nowhere/order.json", "n" * 300, b"\xff.json"])
def test_order_files_that_cannot_be_read(shared: Home, name: str | bytes) -> None:
    file = os.fsdecode(name)
    assert refused(shared, 2, "FILE_UNREADABLE", *sign(shared, file))["file"] == file


def moved(**by: float) -> dict[str, str]:
    return live(datetime.now(UTC) + timedelta(**by))


@pytest.mark.parametrize(
    ("times", "code", "place"),
    [
        (lambda: moved(minutes=-10), "ORDER_EXPIRED", "expires"),
        (lambda: moved(days=-400), "ORDER_EXPIRED", "expires"),
        (lambda: moved(minutes=10), "ORDER_NOT_YET_VALID", "created"),
        (lambda: moved(days=400), "ORDER_NOT_YET_VALID", "created"),
    ],
    ids=["just expired", "long expired", "of in ten minutes", "of next year"],
)
def test_orders_out_of_their_time(
    shared: Home, times: Callable[[], dict[str, str]], code: str, place: str, tmp_path: Path
) -> None:
    times_ = times()
    order = put(tmp_path, "order.json", as_json(make_payment(**times_)))
    assert refused(shared, 2, code, *sign(shared, order), place=times_[place])["place"] == place


KEYS = st.sampled_from(["payee", "amount", "purpose", "bank", "tx_id", "nonce", "created", "type", "payer"])
VALUES = st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.lists(st.text(max_size=3), max_size=2)


@given(document=documents, key=KEYS | st.text(max_size=6), value=VALUES | st.dictionaries(KEYS, VALUES, max_size=2))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_command_says_of_any_order_what_the_library_says(
    shared: Home, document: dict[str, Any], key: str, value: object
) -> None:
    content = json.dumps({**document, key: value}).encode()
    done = subprocess.run(
        [USHIELD, "--lang", "en", "show", "-", "--json"],
        cwd=shared.folder,
        env=shared.environment,
        input=content,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    told = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
    try:
        order = Order.parse(content)
    except InputError as error:
        found = checked(told, ("--json",), 2).document["error"]
        assert (found["code"], found["details"]["place"]) == (error.code, error.place)
    else:
        assert checked(told, ("--json",), 0).document["canonical_sha256"] == order.canonical_sha256


# --- names that must be accepted --------------------------------------------------------------------------------------

NAMES = [
    "阿依古丽·买买提",
    "ＡＢＣ（中国）有限公司",
    "张\u3000三",
    "\U00031350\U000323af",  # first and last ideograph of extension H
    "\U0002ebf0\U0002ee5d",  # of extension I
]
ACCOUNTS = ["DE89370400440532013000", "GB82WEST12345698765432", "6222-0202-A001", "NO9386011117947"]


@pytest.mark.parametrize(("name", "account"), list(zip(NAMES, [*ACCOUNTS, "0"], strict=True)))
def test_names_and_accounts_that_people_have(home: Home, bank: Bank, name: str, account: str) -> None:
    order = home.order(payee__name=name, payer__name=name, payee__account=account, purpose=name)
    values = [line["value"] for line in home.json("show", order)["lines"]]
    assert values.count(name) == 3
    assert account in values
    home.sign(order, "signed.p7m")
    assert bank.accepts(home.file("signed.p7m"), "-cades")
    verified = home.json("verify", "signed.p7m", "--ca", bank.ca, "--order", order)["order"]
    assert (verified["payee"]["name"], verified["payee"]["account"]) == (name, account)
    assert name in home.ushield("verify", "signed.p7m", "--ca", bank.ca).out


# --- signed orders ----------------------------------------------------------------------------------------------------

AT = f"{pki.NOW:%Y-%m-%dT%H:%M:%SZ}"
BY_NAME = {name: (make, problem) for name, make, problem, *_ in CASES}


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return make_scene(make_bank())


@pytest.fixture
def roots(scenario: Scenario, tmp_path: Path) -> Path:
    return put(tmp_path, "roots.pem", scenario.bank.root.pem + scenario.bank.issuing.pem)


def wrong(home: Home, der: bytes, problem: str, roots: Path) -> None:
    """The file is refused as a signed order, with a specific reason."""
    file = put(roots.parent, "wrong.p7m", der)
    words = ("verify", file, "--ca", roots, "--at", AT)
    sentence = messages.text(f"problem.cms_{problem}", "en").partition("{")[0]
    details = refused(home, 10, "BAD_SIGNATURE", *words, place=sentence)
    assert (details["problem"], details["file"]) == (f"cms_{problem}", str(file))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "two signers",
            "one signer twice",
            "SHA-1",
            "another's certificate instead",
            "the hash of another certificate",
        ),
        *(
            "another key's certificate of the same issuer and serial number",
            "two certificates of one issuer and serial number",
        ),
        *(
            "an attribute twice",
            "unsorted attributes signed as sent",
            "detached",
            "content in pieces",
            "no certificate",
        ),
        *("a short RSA key", "unsigned attributes", "the digest of something else", "an unknown confirmation"),
    ],
)
def test_signed_orders_that_break_a_rule(blank: Home, scenario: Scenario, name: str, roots: Path) -> None:
    make, problem = BY_NAME[name]
    wrong(blank, make(scenario).der(), problem, roots)


def test_signed_orders_in_ber(blank: Home, scenario: Scenario, roots: Path) -> None:
    wrong(blank, forge.as_ber(scenario.cades), "not_der", roots)


def test_signed_orders_with_something_after_the_end(blank: Home, scenario: Scenario, roots: Path) -> None:
    wrong(blank, scenario.cades.der() + b"\n", "trailing_bytes", roots)
    wrong(blank, scenario.cades.der() * 2, "trailing_bytes", roots)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_signed_orders_that_are_cut_off(blank: Home, scenario: Scenario, share: float, roots: Path) -> None:
    der = scenario.cades.der()
    wrong(blank, der[: int(share * len(der))], "cut_off", roots)


def test_signed_orders_nested_without_end(blank: Home, roots: Path) -> None:
    deep = b"\x05\x00"
    for _ in range(5000):
        deep = tlv(0x30, deep)
    wrong(blank, forge.wrapped(deep), "version", roots)
    wrong(blank, forge.outermost(deep, deep), "structure", roots)


def test_a_genuine_signature_shown_again_as_plain(blank: Home, scenario: Scenario, roots: Path) -> None:
    """The signed attributes become the content: the signature is genuine, and openssl accepts it."""
    real = scenario.cades.but(content=payment().canonical)
    right = forge.cades(real.private, real.certificate, real.suite, real.content)
    attributes = tlv(0x31, *(right.attributes or ()))
    again = forge.plain(real.private, real.certificate, real.suite, attributes).der()
    assert pki.openssl_accepts(again, roots.read_bytes(), roots.parent)
    file = put(roots.parent, "right.p7m", right.der())
    assert blank.json("verify", file, "--ca", roots, "--at", AT)["profile"] == "cades"
    wrong(blank, again, "not_an_order", roots)


# --- CA files ---------------------------------------------------------------------------------------------------------


def ca_files(bank: Bank, signed: Signed) -> dict[str, tuple[bytes, str, str | None]]:
    """Invalid CA files: content, code, problem."""
    pem = bank.ca.read_bytes()
    leaf = signed.home.ushield("cert", "export", "--token", signed.home.token.uri).out.encode()
    damaged = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    none = ("CA_FILE_INVALID", "trust_no_certificate")
    return {
        "empty": (b"", *none),
        "text": ("你好".encode(), *none),
        "no text": (bytes(range(256)), *none),
        "UTF-16": (pem.decode().encode("utf-16"), *none),
        "a key": ((bank.folder / "ca.key").read_bytes(), *none),
        "a request": ((bank.folder / "ca.csr").read_bytes(), *none),
        "an order": (as_json(make_payment()), *none),
        "a signed order": (signed.path.read_bytes(), *none),
        "cut off": (pem[:300], *none),
        "one good and one damaged": (pem + damaged, *none),
        "nested without end": (b"\x30\x80" * 50_000, *none),
        "the customer's": (leaf, "CA_NOT_A_CA", None),
        "the customer's beside the CA's": (pem + leaf, "CA_NOT_A_CA", None),
    }


@pytest.mark.parametrize(
    "kind",
    [
        *("empty", "text", "no text", "UTF-16", "a key", "a request", "an order", "a signed order", "cut off"),
        *("one good and one damaged", "nested without end", "the customer's", "the customer's beside the CA's"),
    ],
)
def test_ca_files_that_are_none(shared: Home, bank: Bank, signed: Signed, kind: str, tmp_path: Path) -> None:
    content, code, problem = ca_files(bank, signed)[kind]
    file = put(tmp_path, "ca.pem", content)
    details = refused(shared, 2, code, "verify", signed.path, "--ca", file, place=str(file))
    assert (details["file"], details.get("problem")) == (str(file), problem)


@pytest.mark.parametrize(
    ("fields", "exits", "code", "told"),
    [
        ({"key_usage": ("digitalSignature",)}, 2, "CA_NOT_A_CA", {}),
        ({"key_usage": ("cRLSign",)}, 2, "CA_NOT_A_CA", {}),
        ({"ca": False}, 2, "CA_NOT_A_CA", {}),
        ({"not_after": pki.NOW - pki.DAY}, 10, "SIGNER_UNTRUSTED", {"reason": "ca_expired"}),
        ({"not_before": pki.NOW + pki.DAY}, 10, "SIGNER_UNTRUSTED", {"reason": "ca_not_yet_valid"}),
    ],
    ids=["wrong usage", "for CRLs only", "no CA", "expired", "not yet valid"],
)
def test_ca_certificates_that_do_not_do(
    blank: Home, fields: dict[str, Any], exits: int, code: str, told: dict[str, str], tmp_path: Path
) -> None:
    root = pki.authority(**fields)
    private = pki.key()
    own = pki.der(root.issue("CN=A", private.public_key()))
    file = put(tmp_path, "signed.p7m", forge.cades(private, own, P256, payment().canonical).der())
    ca = put(tmp_path, "ca.pem", root.pem)
    place = ca if exits == 2 else file
    details = refused(blank, exits, code, "verify", file, "--ca", ca, "--at", AT, place=str(place))
    assert details.items() >= {"file": str(place), **told}.items()
    assert not pki.openssl_accepts(file.read_bytes(), root.pem, tmp_path) or code == "CA_NOT_A_CA"


# --- PIN files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666, 0o610])
def test_pin_files_that_others_may_read(shared: Home, mode: int, tmp_path: Path) -> None:
    order = put(tmp_path, "order.json", as_json(now()))
    pin = put(tmp_path, "pin", shared.content(shared.token.pin_file))
    pin.chmod(mode)
    words = ("sign", order, "--token", shared.token.serial, "--pin-source", pin, "--unattended", "-o", "out.p7m")
    assert refused(shared, 2, "PIN_FILE_MODE", *words, place=str(pin)) == {"file": str(pin), "mode": f"{mode:o}"}


@pytest.mark.parametrize(
    ("content", "exits", "code"),
    [(b"", 2, "PIN_MISSING"), (b"\xff\xfe1\x002\x00", 4, "PIN_CHARACTERS"), (b"1" * 10_000_000, 4, "PIN_FORMAT")],
    ids=["empty", "UTF-16", "10 MB"],
)
def test_pin_files_that_are_none(shared: Home, content: bytes, exits: int, code: str, tmp_path: Path) -> None:
    order = put(tmp_path, "order.json", as_json(now()))
    pin = put(tmp_path, "pin", content)
    pin.chmod(0o600)
    words = ("sign", order, "--token", shared.token.serial, "--pin-source", pin, "--unattended", "-o", "out.p7m")
    refused(shared, exits, code, *words)


# --- outputs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def occupied(shared: Home, tmp_path: Path) -> Home:
    """A home in which some file names are taken."""
    home = shared.copy(tmp_path / "occupied")
    home.write("mine", "mine")
    home.file("a-folder").mkdir()
    home.file("a-link").symlink_to("elsewhere")
    return home


@pytest.mark.parametrize(
    ("out", "code"),
    [
        ("mine", "OUTPUT_EXISTS"),
        ("a-folder", "OUTPUT_EXISTS"),
        ("a-link", "OUTPUT_EXISTS"),
        ("/dev/full", "OUTPUT_EXISTS"),
        ("", "OUTPUT_EXISTS"),
        ("nowhere/out", "OUTPUT_FOLDER_MISSING"),
        ("mine/out", "OUTPUT_FOLDER_MISSING"),
        ("n" * 300, "OUTPUT_NAME"),
        ("-", "OUTPUT_NAME"),
    ],
)
def test_outputs_that_cannot_be(occupied: Home, out: str, code: str, tmp_path: Path) -> None:
    order = put(tmp_path, "order.json", as_json(now()))
    assert refused(occupied, 2, code, *sign(occupied, order, out=out))["file"] == (out or ".")


@pytest.mark.parametrize("command", ["request --subject CN=x --pin-source PIN", "export"])
@pytest.mark.parametrize(("out", "code"), [("mine", "OUTPUT_EXISTS"), ("n" * 300, "OUTPUT_NAME"), ("-", "OUTPUT_NAME")])
def test_outputs_of_other_commands_that_cannot_be(occupied: Home, command: str, out: str, code: str) -> None:
    words = command.replace("PIN", occupied.token.pin_file).split()
    assert refused(occupied, 2, code, "cert", *words, "--token", occupied.token.serial, "-o", out)["file"] == out


POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()


def test_an_output_in_a_read_only_folder_signs_nothing(home: Home, bank: Bank) -> None:
    """Root bypasses file permissions, so when run by root the command runs without its capabilities."""
    order = home.order()
    home.file("read-only").mkdir(mode=0o555)
    words = sign(home, order, out="read-only/out.p7m")
    with nothing_written(home):
        ended = subprocess.run(
            [*POWERLESS, USHIELD, *map(str, words), "--json"],
            cwd=home.folder,
            env=home.environment,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            text=True,
        )
    error = checked(Done(ended.returncode, ended.stdout, ended.stderr), ("--json",), 12).document["error"]
    assert error["code"] == "OUTPUT_NOT_WRITTEN"
    assert error["details"] == {"path": "read-only/out.p7m", "reason": "Permission denied"}
    assert home.sign(order, "out.p7m")["replayed"] is False


def test_what_is_there_already_may_be_read_only(home: Home) -> None:
    order = home.order()
    home.file("read-only").mkdir()
    home.sign(order, "read-only/out.p7m")
    home.file("read-only").chmod(0o555)
    ended = subprocess.run(
        [*POWERLESS, USHIELD, *map(str, sign(home, order, out="read-only/out.p7m")), "--json"],
        cwd=home.folder,
        env=home.environment,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        text=True,
    )
    assert checked(Done(ended.returncode, ended.stdout, ended.stderr), ("--json",), 0).document["replayed"] is True


EVE = ("-subj", "/CN=Eve", "-config", "ca.cnf")


# --- tokens, keys, certificates ---------------------------------------------------------------------------------------


def test_no_token(bare: Home, tmp_path: Path) -> None:
    order = put(tmp_path, "order.json", as_json(now()))
    refused(bare, 3, "TOKEN_NOT_FOUND", "sign", order, "--unattended", "-o", "out.p7m")


def test_no_token_of_that_name(shared: Home, tmp_path: Path) -> None:
    order = put(tmp_path, "order.json", as_json(now()))
    words = ("sign", order, "--token", "no-such", "--unattended", "-o", "out.p7m")
    findings = refused(shared, 3, "TOKEN_NONE_MATCHES", *words, place="no-such")["findings"]
    assert {token.uri for token in shared.tokens} <= set(findings)


def test_two_tokens_of_one_label(bare: Home, tmp_path: Path) -> None:
    for _ in range(2):
        words = ["--init-token", "--free", "--label", "twin", "--so-pin", "12345678", "--pin", "123456"]
        made = ["softhsm2-util", *words]
        subprocess.run(made, env=bare.environment, capture_output=True, timeout=TIMEOUT_S, check=True)
    order = put(tmp_path, "order.json", as_json(now()))
    words_ = ("sign", order, "--token", "twin", "--unattended", "-o", "out.p7m")
    candidates = refused(bare, 3, "TOKEN_MULTIPLE", *words_, place="serial=")["candidates"]
    assert len(set(candidates)) == 2


def test_two_keys_fit_for_the_job(home: Home, bank: Bank, tmp_path: Path) -> None:
    home.enrol(bank, home.token, CHECKER)
    order = put(tmp_path, "order.json", as_json(now()))
    candidates = refused(home, 6, "CERTIFICATE_MULTIPLE", *sign(home, order), place=CHECKER)["candidates"]
    assert len(candidates) == 2


def test_no_key_for_the_job(blank: Home, tmp_path: Path) -> None:
    order = put(tmp_path, "order.json", as_json(now()))
    assert refused(blank, 6, "CERTIFICATE_NOT_FOUND", *sign(blank, order))["candidates"] == []


def test_a_certificate_of_another_key(home: Home) -> None:
    home.ushield("cert", "export", "--token", home.other_token.uri, "-o", "other.pem")
    own = ("--token", home.token.serial, "--pin-source", home.token.pin_file)
    before = everything(home.file("state"))
    error = home.json("cert", "install", "other.pem", *own, exits=6)["error"]
    assert (error["code"], error["details"]["file"]) == ("KEY_MISMATCH", "other.pem")
    assert [one["subject"] for one in home.json("cert", "list", "--token", home.token.uri)["certificates"]] != [CHECKER]
    assert everything(home.file("state")) == before
    for lang in LANGUAGES:
        assert CHECKER in home.ushield("--lang", lang, "cert", "install", "other.pem", *own, exits=6).err


def test_a_certificate_of_another_key_put_beside_ours_by_another_program(
    blank: Home, bank: Bank, tmp_path: Path
) -> None:
    """Its id is that of our key, so that it appears to belong to it."""
    home = blank.copy(tmp_path / "home")
    own = ("--token", home.token.uri, "--pin-source", home.token.pin_file)
    made = home.json("cert", "request", *own, "--subject", DEMO, "-o", "own.csr")
    bank.openssl(
        "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "k", "-out", tmp_path / "r", *EVE
    )
    home.write("other.der", ssl.PEM_cert_to_DER_cert(bank.certify(tmp_path / "r", tmp_path / "other.pem").read_text()))
    words = ["--module", home.token.uri.partition("module-path=")[2], "--token-label", home.token.label]
    words += ["--login", "--pin", "env:PIN", "--write-object", "other.der", "--type", "cert", "--id", made["key_id"]]
    pin = home.content(home.token.pin_file).decode().strip()
    environment = home.environment | {"PIN": pin}
    subprocess.run(
        ["pkcs11-tool", *words], cwd=home.folder, env=environment, capture_output=True, timeout=TIMEOUT_S, check=True
    )
    order = put(tmp_path, "order.json", as_json(now()))
    error = home.json(*sign(home, order), exits=6)["error"]
    assert error["code"] == "CERTIFICATE_NOT_FOUND"
    assert "CN=Eve" in error["message"] + error["remedy"]
    assert not home.file("out.p7m").exists()
    assert not list(home.file("state").rglob("journal/journal.log"))
