"""The scripts in ``examples/``: each runs and is fully typed, and a misspelt name is detected."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.world import TIMEOUT_S, Bank, Home
from tests.project.tree import ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def run(home: Home, script: str, *words: object, exits: int = 0, stdin: str = "") -> str:
    """Run an example as a user would; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:Can not control echo", EXAMPLES / script, *map(str, words)],
        cwd=home.folder,
        env=home.environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        start_new_session=True,
        check=False,
    )
    assert done.returncode == exits, done.stdout + done.stderr
    return done.stdout


def test_every_example_has_a_test() -> None:
    text = Path(__file__).read_text()
    assert len(SCRIPTS) >= 6
    assert [name for name in SCRIPTS if f'"{name}"' not in text] == []


def test_tokens_are_listed(home: Home) -> None:
    said = run(home, "list_tokens.py")
    assert home.token.uri in said
    assert "6 attempts left (policy)" in said
    assert "CN=张三" in said


def test_nothing_to_list(bare: Home) -> None:
    assert run(bare, "list_tokens.py", exits=3) == ""


def test_orders_are_signed_from_asyncio_and_verified(home: Home, bank: Bank) -> None:
    orders = home.folder / "orders"
    orders.mkdir()
    names = [home.order(f"orders/{number}.json") for number in range(3)]
    said = run(home, "sign_asyncio.py", home.token.serial, home.token.pin_file, "orders")
    assert sorted(said.split()) == sorted(home.document(name)["tx_id"] for name in names)
    shown = run(home, "verify_order.py", "orders/0.p7m", "orders/0.json", bank.ca)
    assert "CN=张三" in shown
    assert "confirmed: none, revocation: not_checked" in shown
    run(home, "verify_order.py", "orders/0.p7m", "orders/1.json", bank.ca, exits=10)


def test_a_person_is_asked_and_a_wrong_pin_is_told(home: Home) -> None:
    order = home.order()
    run(home, "sign_order.py", home.token.serial, order, "signed.p7m", stdin="99999\n", exits=4)
    pin = home.content(home.token.pin_file).decode().strip()
    said = run(home, "sign_order.py", home.token.serial, order, "signed.p7m", stdin=f"{pin}\ny\n")
    assert "128.50" in said
    assert home.content("signed.p7m").startswith(b"\x30")


def test_a_certificate_is_requested_and_installed(home: Home, bank: Bank) -> None:
    token = home.token
    words = (token.serial, token.pin_file)
    key_id = run(home, "request_certificate.py", *words, "request", "CN=王五,O=Demo Bank", "request.pem").strip()
    certificate = bank.certify(home.file("request.pem"), home.file("certificate.pem"))
    assert key_id in run(home, "request_certificate.py", *words, "install", certificate)


def test_a_ca_is_created_and_its_certificate_signs_an_order_that_was_made(blank: Home, tmp_path: Path) -> None:
    home = blank.copy(tmp_path / "home")
    own = (home.token.serial, home.token.pin_file)
    run(home, "own_ca.py", "init", "ca.key", "ca.pem")
    assert home.file("ca.key").stat().st_mode & 0o777 == 0o600
    run(home, "request_certificate.py", *own, "request", "CN=王五,O=Demo Bank", "request.pem")
    run(home, "own_ca.py", "issue", "ca.key", "ca.pem", "request.pem", "certificate.pem")
    run(home, "request_certificate.py", *own, "install", "certificate.pem")
    home.write("order.json", run(home, "make_order.py", "77.00"))
    home.sign("order.json", "signed.p7m")
    assert "CN=王五" in run(home, "verify_order.py", "signed.p7m", "order.json", "ca.pem")
    assert home.document("order.json")["amount"]["value"] == "77.00"


def test_the_tests_for_ci_pass(bare: Home) -> None:
    words = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, str(EXAMPLES / "test_payments.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=bare.folder,
        env=bare.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_a_token_is_diagnosed(home: Home, bare: Home) -> None:
    assert home.token.serial in run(home, "diagnose.py", home.token.serial)
    assert "[" in run(bare, "diagnose.py", exits=3)


def test_tokens_are_watched(home: Home) -> None:
    assert home.token.label in run(home, "watch_tokens.py", 2)


# --- types ------------------------------------------------------------------------------------------------------------


def typed(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    return subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_examples_are_typed() -> None:
    done = typed(*(EXAMPLES / name for name in SCRIPTS))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("us.find_tokn(serial='1')", "find_tok"),
        ("us.errors.PinIncorect", "PinIncorect"),
        ("us.errors.PinIncorrect().state.retries", "retries"),
        ("us.errors.TokenMultiple().candidate", "candidate"),
        ("us.find_token(seriel='1')", "seriel"),
        ("us.sign(b'', us.find_token().open())", "Order"),
    ],
)
def test_a_misspelt_name_is_found(tmp_path: Path, line: str, complaint: str) -> None:
    file = tmp_path / "script.py"
    file.write_text(f"import ushield_hw as us\n\n{line}\n")
    done = typed(file)
    assert done.returncode == 1, done.stdout
    assert complaint in done.stdout
