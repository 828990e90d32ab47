"""``cert enroll`` and ``cert renew --bank`` with the reference bank: success, lost connections, refusals, kills."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.bank_server import Server, line_to, served
from tests.cli.conftest import DEMO
from tests.cli.ending import DISK, counted, points
from tests.cli.person import Person
from tests.cli.test_renew import active, certificates, objects, renewal
from tests.cli.test_renew_killed import ENGINE
from tests.cli.world import Bank, Home, run_openssl
from tests.rotation import share

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

CALLS = ("simplereenroll", "the document", "the activation")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("reference") / "bank") as running:
        yield running


@pytest.fixture
def customer(blank: Home, server: Server, tmp_path: Path) -> tuple[Home, str]:
    """A home with a first certificate issued by the bank, and the customer's number."""
    home = blank.copy(tmp_path / "home")
    return home, server.enroll(home, home.token, DEMO)


def renewed(home: Home, url: str, **options: Any) -> Any:
    return home.json(*renewal(home, "--bank", url), **options)


def check(home: Home, server: Server, number: str) -> str:
    """Assert that one pair signs and the bank has one active, one superseded certificate; return its serial number."""
    (left,) = certificates(home)
    assert left["activated"] and len(objects(home)) == 3
    assert sorted(server.certificates(number).values()) == ["active", "superseded"]
    assert server.certificates(number)[left["serial"]] == "active"
    home.file("signed.p7m").unlink(missing_ok=True)
    home.sign(home.order(), "signed.p7m")
    assert Bank(server.ca.parent).accepts(home.file("signed.p7m"))
    return str(left["serial"])


# --- complete renewal -------------------------------------------------------------------------------------------------


def test_enrolled_and_renewed(customer: tuple[Home, str], server: Server) -> None:
    home, number = customer
    old = active(home)
    done = renewed(home, server.url)["renewed"]
    assert (done["replaced"], done["replayed"]) == (old["serial"], False) and done["acknowledged"]
    assert check(home, server, number) == done["serial"]
    again = renewed(home, server.url)["renewed"]
    assert (again["serial"], again["replayed"]) == (done["serial"], True)
    run_openssl("verify", "-CAfile", server.ca, "-purpose", "any", exported(home), folder=home.folder)


def exported(home: Home) -> str:
    home.file("exported.pem").unlink(missing_ok=True)
    home.ushield("cert", "export", "--token", home.token.uri, "-o", "exported.pem")
    return "exported.pem"


def test_the_same_request_with_the_same_code_gets_the_same_certificate(
    customer: tuple[Home, str], server: Server
) -> None:
    home, number = customer
    own = ("--token", home.token.uri, "--pin-source", home.token.pin_file)
    known = ("--bank", server.url, "--customer", number, "--code-source", f"{number}.code")
    home.json("cert", "enroll", f"{number}.csr", *own, *known)
    assert len(certificates(home)) == 1 and len(server.certificates(number)) == 1


@pytest.mark.parametrize("content", ["wrong", "0000-0000-0000-0000-0000"])
def test_a_wrong_code_is_told_and_nothing_is_written(blank: Home, server: Server, tmp_path: Path, content: str) -> None:
    home = blank.copy(tmp_path / "home")
    number, _ = server.code(DEMO)
    own = ("--token", home.token.uri, "--pin-source", home.token.pin_file)
    home.json("cert", "request", *own, "--subject", DEMO, "-o", "a.csr")
    known = ("--bank", server.url, "--customer", number, "--code-source", home.write("code", content))
    home.fails(6, "BANK_CODE_REFUSED", "cert", "enroll", "a.csr", *own, *known)
    home.file("code").chmod(0o644)
    home.fails(2, "CODE_FILE_MODE", "cert", "enroll", "a.csr", *own, *known)
    assert certificates(home) == []


def test_the_code_is_asked_for_at_a_terminal(blank: Home, server: Server, tmp_path: Path, people: list[Person]) -> None:
    home = blank.copy(tmp_path / "home")
    number, code = server.code(DEMO)
    own = ("--token", home.token.uri, "--pin-source", home.token.pin_file)
    home.json("cert", "request", *own, "--subject", DEMO, "-o", "a.csr")
    known = ("--bank", server.url, "--customer", number)
    assert home.fails(2, "USAGE_MISSING", "cert", "enroll", "a.csr", *own, *known)["argument"] == "--code-source"
    people.append(Person(home, "--lang", "en", "cert", "enroll", "a.csr", *own, *known))
    people[-1].sees("One-time enrolment code:")
    assert not people[-1].echo
    people[-1].types(code)
    people[-1].ends(0)
    assert code not in people[-1].screen
    assert len(certificates(home)) == 1


# --- lost connections -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before it is heard", "after it was done"])
@pytest.mark.parametrize("call", CALLS)
def test_wherever_the_line_is_cut_the_same_command_goes_on(
    customer: tuple[Home, str], server: Server, call: str, after: bool
) -> None:
    home, number = customer
    with line_to(server) as line:
        line.at, line.after = CALLS.index(call) + 1, after
        error = renewed(home, line.url, exits=11)["error"]
        assert error["code"] == "BANK_UNREACHABLE" and line.calls == line.at
        assert active(home)["has_key"]
        home.sign(home.order(), "meanwhile.p7m")
        assert Bank(server.ca.parent).accepts(home.file("meanwhile.p7m"))
        renewed(home, line.url)
    check(home, server, number)


def test_nobody_there_is_told_and_then_it_goes_on(customer: tuple[Home, str], server: Server) -> None:
    home, number = customer
    error = renewed(home, "http://127.0.0.1:9", exits=11)["error"]
    assert error["code"] == "BANK_UNREACHABLE"
    renewed(home, server.url)
    check(home, server, number)


# --- refused ----------------------------------------------------------------------------------------------------------


def test_a_revoked_certificate_is_not_renewed_and_what_was_begun_goes(
    customer: tuple[Home, str], server: Server
) -> None:
    home, _ = customer
    before, old = objects(home), active(home)
    server.home.json("bank", "revoke", "--dir", "bank", old["serial"], "--reason", "keyCompromise")
    error = renewed(home, server.url, exits=6)["error"]
    assert error["code"] == "RENEWAL_REJECTED_REVOKED" and error["details"]["reason"] == "RENEWAL_CERTIFICATE_REVOKED"
    assert objects(home) == before


def test_a_certificate_of_another_bank_is_not_renewed(home: Home, server: Server) -> None:
    before = objects(home)
    error = renewed(home, server.url, exits=6)["error"]
    assert error["code"] == "RENEWAL_REJECTED" and error["details"]["reason"]
    assert objects(home) == before


# --- killed -----------------------------------------------------------------------------------------------------------


def test_whatever_is_killed_the_same_command_goes_on_and_one_certificate_is_issued(
    blank: Home, server: Server, tmp_path: Path
) -> None:
    first = blank.copy(tmp_path / "first")
    server.enroll(first, first.token, DEMO)
    watched = (
        *DISK,
        *(ENGINE + name for name in ("generate", "write_certificate", "relabel", "destroy", "sign")),
        "ushield_hw.certificates.renewal.est_client:EstBank._answered",
    )
    words = ("--bank", server.url)
    whole = counted(first, tmp_path / "whole")
    steps = whole.ended_at(0, named(whole, words), watched).steps
    marks = points(steps)
    assert len(marks) > 20 and steps.count("after _answered") == 3
    for point in share(marks, 6):
        home = blank.copy(tmp_path / f"at-{point}")
        number = server.enroll(home, home.token, DEMO)
        case = counted(home, tmp_path / f"counted-{point}")
        ended, told = case.ended_at(point, named(case, words), watched), (point, steps[point - 1])
        assert ended.code == -9, told
        assert active(case.home)["has_key"], told
        again = case.run(*named(case, words))
        assert again.code == 0, (told, again)
        check(case.home, server, number)


def named(case: Any, words: tuple[str, ...]) -> tuple[object, ...]:
    known = ("--token", case.uri, "--pin-source", case.home.token.pin_file)
    return ("cert", "renew", *known, *words, "--json")
