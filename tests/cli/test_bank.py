"""``ushield bank init``, ``code``, ``revoke`` and ``certs``: the operator's commands; failures to start a server."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.branch import SUBJECT, Branch, Customer, openssl, serial_of
from tests.cli.world import TIMEOUT_S, Home
from tests.unit.bank.postgresql import cluster

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def branch(tmp_path_factory: pytest.TempPathFactory) -> Branch:
    """A bank; shared: each test has its own customers."""
    return Branch.founded(Home(tmp_path_factory.mktemp("branch")))


def test_init_says_what_it_made_and_that_it_is_for_tests_only(tmp_path: Path) -> None:
    home = Home(tmp_path)
    done = home.ushield("bank", "init", "--dir", "bank", "--json")
    made = done.document
    assert (made["bank_id"], made["origin"], made["test_only"]) == ("demo-bank", None, True)
    assert "serial=" in made["token"]
    pin_file = Path(made["pin_file"])
    assert stat.S_IMODE(pin_file.stat().st_mode) == 0o600
    assert pin_file.read_text().strip() not in done.out + done.err + home.content("bank/bank.json").decode()
    for name in ("bank", "bank/bank.json", "bank/bank.sqlite3", "bank/softhsm"):
        assert stat.S_IMODE(home.file(name).stat().st_mode) & 0o077 == 0, name
    other = home.ushield("bank", "init", "--dir", "other")
    assert "TEST ONLY" in other.err
    zh = home.ushield("--lang", "zh", "bank", "init", "--dir", "third")
    assert "仅供测试" in zh.err


def test_the_ca_as_openssl_reads_it(branch: Branch) -> None:
    openssl("verify", "-x509_strict", "-CAfile", branch.ca, branch.ca)
    shown = openssl("x509", "-in", branch.ca, "-noout", "-text").decode()
    assert re.search(r"Basic Constraints: critical\s+CA:TRUE", shown)
    assert re.search(r"Key Usage: critical\s+Certificate Sign, CRL Sign\n", shown)


def test_a_bank_is_never_founded_over_another(branch: Branch) -> None:
    before = branch.home.content("bank/bank.json"), branch.ca.read_bytes()
    branch.home.fails(2, "BANK_EXISTS", "bank", "init", "--dir", "bank")
    assert (branch.home.content("bank/bank.json"), branch.ca.read_bytes()) == before


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--origin", "http://bank.example"), "ORDER_ORIGIN"),
        (("--origin", "https://bank.example/path"), "ORDER_ORIGIN"),
        (("--id", "Demo Bank"), "ORDER_BANK_ID"),
        (("--subject", "nonsense"), "SUBJECT_INVALID"),
    ],
)
def test_what_was_given_wrong_leaves_nothing_behind(tmp_path: Path, options: tuple[str, str], code: str) -> None:
    Home(tmp_path).fails(2, code, "bank", "init", "--dir", "bank", *options)
    assert not (tmp_path / "bank").exists()


def test_a_token_of_its_own_choice(home: Home) -> None:
    """The CA's key on an existing token, with a PIN file of the operator."""
    own = ("--token", home.other_token.uri, "--pin-source", home.other_token.pin_file)
    done = home.ushield("bank", "init", "--dir", "bank", *own, "--key", "rsa-2048", "--json")
    assert done.document["test_only"] is False and "TEST ONLY" not in done.err
    branch = Branch(home)
    with branch.serving() as counter:
        got = counter.enroll(Customer(home.folder / "c").request(), branch.code())
        home.write("issued.pem", got.certificate)
    openssl("verify", "-CAfile", branch.ca, home.file("issued.pem"))
    home.fails(4, "PIN_INCORRECT", "bank", "serve", "--dir", "bank", "--pin-source", home.pin())


def test_a_wrong_pin_makes_no_bank(home: Home) -> None:
    home.fails(
        4, "PIN_INCORRECT", "bank", "init", "--dir", "bank", "--token", home.token.uri, "--pin-source", home.pin()
    )
    home.fails(2, "BANK_NOT_FOUND", "bank", "certs", "list", "--dir", "bank")


def test_a_register_on_postgresql(tmp_path: Path) -> None:
    with cluster() as running:
        url = running.database().set(drivername="postgresql").render_as_string()
        branch = Branch.founded(Home(tmp_path), "--database", url)
        customer, home = Customer(tmp_path / "customer"), branch.home
        assert not home.file("bank/bank.sqlite3").exists()
        with branch.serving() as one, branch.serving() as other, ThreadPoolExecutor(4) as pool:
            request, code, both = customer.request(), branch.code(), (one, other)
            got = list(pool.map(lambda n: both[n % 2].enroll(request, code), range(8)))
        assert len({answer.certificate for answer in got}) == 1
        (found,) = branch.certificates()
        assert found["serial"] == serial_of(got[0].certificate)
        home.fails(2, "BANK_DATABASE_USED", "bank", "init", "--dir", "other", "--database", url)
    home.fails(12, "BANK_DATABASE_FAILED", "bank", "certs", "list", "--dir", "bank")


@pytest.mark.parametrize(
    "url", ["postgresql://bank:s3cret@db.example/bank", "postgresql://db.example/b?password=s3cret", "mysql://x/y", "x"]
)
def test_databases_that_are_not_taken(tmp_path: Path, url: str) -> None:
    done = Home(tmp_path).ushield("bank", "init", "--dir", "bank", "--database", url, "--json", exits=2)
    assert done.document["error"]["code"] == "BANK_DATABASE_URL"
    assert "s3cret" not in done.out + done.err and not (tmp_path / "bank").exists()


# --- codes ------------------------------------------------------------------------------------------------------------


def test_a_code_is_told_once_and_kept_nowhere(branch: Branch) -> None:
    about = ("--customer", "C7", "--subject", SUBJECT, "--profile", "login", "--confirmation", "pinpad")
    done = branch.home.ushield("bank", "code", "--dir", "bank", *about, "--token-serial", "T7", "--days", "1")
    code = done.out.strip()
    assert re.fullmatch(r"(?:[0-9A-HJKMNP-TV-Z]{4}-){4}[0-9A-HJKMNP-TV-Z]{4}", code)
    assert "C7" in done.err and SUBJECT in done.err and code not in done.err
    for file in branch.home.file("bank").glob("bank.*"):
        assert code.encode() not in file.read_bytes()


def test_a_code_as_json(branch: Branch) -> None:
    about = ("--customer", "C8", "--subject", SUBJECT, "--profile", "payment", "--confirmation", "touch")
    made = branch.home.json("bank", "code", "--dir", "bank", *about)
    assert made.keys() == {
        *("code", "customer", "subject", "profile", "confirmation", "display", "token_serial", "expires"),
    }
    assert made["display"] is False
    assert branch.home.json("bank", "code", "--dir", "bank", *about, "--display")["display"] is True


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"--customer": "C 1"}, "ORDER_REFERENCE"),
        ({"--subject": "张三"}, "SUBJECT_INVALID"),
        ({"--subject": "CN=张\u202e三"}, "ORDER_TEXT_CHARACTER"),
        ({"--profile": "both"}, "USAGE"),
        ({"--confirmation": "shouting"}, "USAGE"),
        ({"--days": "0"}, "USAGE"),
    ],
)
def test_codes_that_are_not_given(branch: Branch, changes: dict[str, str], code: str) -> None:
    about = {"--customer": "C1", "--subject": SUBJECT, "--profile": "payment", "--confirmation": "button"} | changes
    words = [word for pair in about.items() for word in pair]
    error = branch.home.json("bank", "code", "--dir", "bank", *words, exits=2)["error"]
    assert error["code"].startswith(code), error


# --- certificates -----------------------------------------------------------------------------------------------------


def test_expiring_and_revoked(tmp_path: Path) -> None:
    branch = Branch.founded(Home(tmp_path))
    customer = Customer(tmp_path / "customer")
    home, about = branch.home, ("--dir", "bank")
    assert home.json("bank", "certs", "list", *about) == {"certificates": []}
    with branch.serving() as counter:
        for name, days in (("soon", 20), ("later", 400)):
            code = branch.code("C1", "payment", "--certificate-days", days)
            assert counter.enroll(customer.request(name), code).status == 200
    soon, later = branch.certificates()
    assert home.json("bank", "certs", "expiring", "--days", "19", *about) == {"certificates": []}
    (found,) = home.json("bank", "certs", "expiring", "--days", "21", *about, exits=6)["certificates"]
    assert found == soon
    assert (found["state"], found["confirmation"], found["display"]) == ("active", "button", True)
    done = home.ushield("--lang", "zh", "bank", "certs", "expiring", "--days", "500", *about, exits=6)
    assert [row.split()[0] for row in done.out.splitlines()] == [soon["serial"], later["serial"]]
    assert "在用" in done.out and SUBJECT in done.out

    told = home.ushield("bank", "revoke", soon["serial"].upper(), "--reason", "cessationOfOperation", *about)
    assert soon["serial"] in told.out and "cessationOfOperation" in told.out
    again = branch.revoke(soon["serial"])
    assert (again["replayed"], again["revoked"]["reason"]) == (True, "cessationOfOperation")
    assert home.json("bank", "certs", "expiring", "--days", "21", *about) == {"certificates": []}
    home.fails(6, "CERTIFICATE_UNKNOWN", "bank", "revoke", "0102", *about)


# --- missing parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("certs", "list"), ("revoke", "12"), ("serve",)], ids=" ".join)
def test_no_bank_there(blank: Home, words: tuple[str, ...]) -> None:
    blank.fails(2, "BANK_NOT_FOUND", "bank", *words, "--dir", "nowhere")
    assert not blank.file("nowhere").exists()


@pytest.mark.parametrize("package", ["alembic", "sqlalchemy", "starlette", "uvicorn"])
def test_without_the_extra_it_says_how_to_install_it(blank: Home, package: str) -> None:
    script = (
        "import sys; sys.modules[sys.argv[1]] = None; from ushield_hw.cli import main;"
        "main(['bank', 'init', '--dir', 'bank', '--json'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, package],
        cwd=blank.folder,
        env=blank.environment,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        text=True,
    )
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (2, "BANK_EXTRA_MISSING")
    assert "pip install 'ushield-hw[bank]'" in error["remedy"] and package in error["message"]


def test_a_database_of_a_newer_program(tmp_path: Path) -> None:
    branch = Branch.founded(Home(tmp_path))
    database = sqlite3.connect(tmp_path / "bank/bank.sqlite3")
    database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.commit()
    database.close()
    for words in (("serve",), ("certs", "list"), ("revoke", "12")):
        branch.home.fails(12, "BANK_SCHEMA_NEWER", "bank", *words, "--dir", "bank")


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"{", "CONFIG_UNREADABLE"), (b"[]", "CONFIG_INVALID"), (b'{"version": 2}', "CONFIG_INVALID")],
)
def test_a_damaged_file(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank/bank.json").write_bytes(content)
    details = Home(tmp_path).fails(2, code, "bank", "certs", "list", "--dir", "bank")
    assert details["file"].endswith("bank/bank.json")


def test_the_token_is_gone(tmp_path: Path) -> None:
    branch = Branch.founded(Home(tmp_path))
    tokens = tmp_path / "bank/softhsm/tokens"
    for token in tokens.iterdir():
        os.rename(token, tmp_path / token.name)
    branch.home.fails(3, "TOKEN_NOT_FOUND", "bank", "serve", "--dir", "bank")


def test_another_key_than_the_certificate_s(tmp_path: Path) -> None:
    one = Branch.founded(Home(tmp_path))
    one.home.json("bank", "init", "--dir", "other")
    (tmp_path / "bank/ca.pem").write_bytes((tmp_path / "other/ca.pem").read_bytes())
    one.home.fails(6, "BANK_KEY_MISMATCH", "bank", "serve", "--dir", "bank")
