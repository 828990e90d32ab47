"""Key selection: the newest activated key that fits the job, or the one that is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import DEMO
from tests.cli.world import Bank, Home

OTHER = "CN=王五,O=Demo Bank"


@pytest.fixture(scope="session")
def crowd(shared: Home, bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The first token also has a second user's key. A template for copies."""
    home = shared.copy(tmp_path_factory.mktemp("crowd"))
    home.enrol(bank, home.token, OTHER)
    return home


@pytest.fixture
def crowded(crowd: Home, tmp_path: Path) -> Home:
    return crowd.copy(tmp_path / "crowd")


@pytest.fixture
def fresh(blank: Home, tmp_path: Path) -> Home:
    """Two tokens without keys, for one test."""
    return blank.copy(tmp_path / "fresh")


def sign(home: Home, *words: str, uri: str = "") -> tuple[str, ...]:
    known = ("--token", uri or home.token.uri, "--pin-source", home.token.pin_file)
    return ("sign", home.order(), *known, "--unattended", "-o", "signed.p7m", *words)


def keys(home: Home) -> dict[str, Any]:
    """Return the key ids on the first token by subject."""
    found = home.json("cert", "list", "--token", home.token.uri)["certificates"]
    return {one["subject"]: one["key_id"] for one in found}


# --- several users ----------------------------------------------------------------------------------------------------


def test_two_people_on_one_token(crowded: Home) -> None:
    candidates = crowded.fails(6, "CERTIFICATE_MULTIPLE", *sign(crowded))["candidates"]
    assert len(candidates) == 2
    for subject, key_id in keys(crowded).items():
        assert any(subject in candidate and key_id in candidate for candidate in candidates)
    assert not crowded.file("signed.p7m").exists()


@pytest.mark.parametrize("subject", [DEMO, OTHER])
def test_key_id_chooses(crowded: Home, subject: str) -> None:
    key_id = keys(crowded)[subject]
    assert crowded.json(*sign(crowded, "--key-id", key_id))["signer"]["subject"] == subject
    crowded.file("signed.p7m").unlink()
    assert crowded.json(*sign(crowded, "--key-id", key_id.upper()))["signer"]["subject"] == subject


def test_an_id_in_the_uri_chooses(crowded: Home) -> None:
    key_id = keys(crowded)[OTHER]
    escaped = "".join(f"%{key_id[n : n + 2]}" for n in range(0, len(key_id), 2))
    uri = crowded.token.uri.replace("?", f";id={escaped}?")
    assert crowded.json(*sign(crowded, uri=uri))["signer"]["subject"] == OTHER


def test_a_label_in_the_uri_chooses(crowded: Home) -> None:
    uri = crowded.token.uri.replace("?", ";object=%E7%8E%8B%E4%BA%94?")  # 王五
    assert crowded.json(*sign(crowded, uri=uri))["signer"]["subject"] == OTHER


def test_a_key_that_is_not_there(crowded: Home) -> None:
    crowded.fails(6, "CERTIFICATE_NOT_FOUND", *sign(crowded, "--key-id", "00ff"))


@pytest.mark.parametrize("key_id", ["xyz", "abc"])
def test_a_key_id_that_is_no_hex(blank: Home, key_id: str) -> None:
    assert blank.fails(2, "KEY_ID_INVALID", *sign(blank, "--key-id", key_id)) == {"key_id": key_id}


# --- one user ---------------------------------------------------------------------------------------------------------


def test_the_newest_of_one_person(home: Home, bank: Bank) -> None:
    newest = home.enrol(bank, home.token, DEMO, days=(-0.5, 100))
    found = home.json("cert", "list", "--token", home.token.uri)["certificates"]
    serials = {one["key_id"]: one["serial"] for one in found}
    assert len(serials) == 2
    assert home.json(*sign(home))["signer"]["serial"] == serials[newest]


def test_no_certificate(fresh: Home) -> None:
    details = fresh.fails(6, "CERTIFICATE_NOT_FOUND", *sign(fresh))
    assert details == {"use": "nonRepudiation", "candidates": [], "left_out": []}


def test_an_expired_certificate(fresh: Home, bank: Bank) -> None:
    fresh.enrol(bank, fresh.token, DEMO, days=(-20, -10))
    details = fresh.fails(6, "CERTIFICATE_EXPIRED", *sign(fresh))
    assert details["subject"] == DEMO
    assert details["not_before"] < details["not_after"]


def test_a_certificate_of_tomorrow(fresh: Home, bank: Bank) -> None:
    fresh.enrol(bank, fresh.token, DEMO, days=(1, 10))
    fresh.fails(6, "CERTIFICATE_NOT_YET_VALID", *sign(fresh))


def test_a_certificate_that_does_not_allow_payments(fresh: Home, bank: Bank) -> None:
    fresh.enrol(bank, fresh.token, DEMO, usage="digitalSignature")
    details = fresh.fails(6, "KEY_USE_NOT_ALLOWED", *sign(fresh))
    assert details["use"] == "nonRepudiation"


def test_each_job_has_its_key(fresh: Home, bank: Bank) -> None:
    fresh.enrol(bank, fresh.token, "CN=login,O=Demo Bank", usage="digitalSignature")
    fresh.enrol(bank, fresh.token, "CN=pay,O=Demo Bank")
    assert fresh.json(*sign(fresh))["signer"]["subject"] == "CN=pay,O=Demo Bank"


def test_a_pin_for_every_signature(fresh: Home, bank: Bank) -> None:
    own = ("--token", fresh.token.uri, "--pin-source", fresh.token.pin_file)
    fresh.ushield("cert", "request", *own, "--subject", DEMO, "--pin-per-signature", "-o", "new.csr")
    bank.certify(fresh.file("new.csr"), fresh.file("new.pem"))
    fresh.ushield("cert", "install", "new.pem", *own)
    fresh.ushield(*sign(fresh))
    assert bank.accepts(fresh.file("signed.p7m"))
