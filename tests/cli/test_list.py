"""``ushield list`` and ``ushield info``: the tokens found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import CHECKER, DEMO
from tests.cli.world import Home

ROOT = Path(__file__).parents[2]

# The PIN state of SoftHSM2's tokens: no failed attempts, counted on this host.
FRESH_PIN = {
    "retries_left": 6,
    "source": "policy",
    "locked": False,
    "final_try": False,
    "low": False,
    "min_length": 4,
    "max_length": 255,
    "changed_at": None,
}


def test_every_token_once(shared: Home) -> None:
    tokens = shared.json("list")["tokens"]
    assert {token["serial"]: (token["label"], token["uri"], token["driver"]) for token in tokens} == {
        token.serial: (token.label, token.uri, "softhsm2") for token in shared.tokens
    }
    assert len(tokens) == 2
    assert all(token["module"].endswith("libsofthsm2.so") for token in tokens)


def test_the_state_of_the_pin(blank: Home) -> None:
    assert [token["pin"] for token in blank.json("list")["tokens"]] == [FRESH_PIN, FRESH_PIN]


def test_the_certificates(shared: Home) -> None:
    found = {token["serial"]: token["certificates"] for token in shared.json("list")["tokens"]}
    for token, subject in zip(shared.tokens, (DEMO, CHECKER), strict=True):
        (certificate,) = found[token.serial]
        assert certificate["subject"] == subject
        assert certificate["has_key"] is True
        assert re.fullmatch(r"([0-9a-f]{2})+", certificate["key_id"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", certificate["not_after"])


def test_a_uri_selects_by_all_that_the_token_says_and_never_by_a_slots_number(blank: Home) -> None:
    for token in blank.tokens:
        path, _, query = token.uri.removeprefix("pkcs11:").partition("?")
        assert {part.split("=")[0] for part in path.split(";")} == {*("token", "serial", "manufacturer", "model")}
        assert query.startswith("module-path=/")


def test_a_person_reads_the_same(shared: Home) -> None:
    done = shared.ushield("list")
    assert all(word in done.out for token in shared.tokens for word in (token.label, token.serial, token.uri))
    assert "6 attempts remaining" in done.out
    assert DEMO in done.out
    assert "PIN 还可尝试 6 次" in shared.ushield("--lang", "zh", "list").out


def test_nothing_plugged_in(bare: Home) -> None:
    assert bare.json("list")["tokens"] == []
    done = bare.ushield("list")
    assert (done.code, done.out) == (0, "")
    assert "softhsm init" in done.err
    assert "`ushield doctor`" in done.err
    assert "`ushield doctor`" in bare.ushield("--lang", "zh", "list").err


@pytest.mark.parametrize("named_by", ["uri", "serial", "label"])
def test_info_of_one_token(shared: Home, named_by: str) -> None:
    info = shared.json("info", "--token", getattr(shared.other_token, named_by))
    listed = next(token for token in shared.json("list")["tokens"] if token["serial"] == shared.other_token.serial)
    assert listed.items() <= info.items()
    assert {"ECDSA", "RSA_PKCS"} <= set(info["mechanisms"])
    assert info["isolation"] == "in-process"
    assert info["named_by"] == "softhsm2"


def test_info_for_a_person(shared: Home) -> None:
    out = shared.ushield("info", "--token", shared.token.serial).out
    assert all(word in out for word in (shared.token.label, shared.token.uri, "SoftHSM", "ECDSA"))


def test_a_token_that_is_not_set_up_does_not_hide_the_others(home: Home) -> None:
    """SoftHSM2 always shows an uninitialised slot; with other families that is an uninitialised token."""
    shipped = (ROOT / "drivers/softhsm2.toml").read_text()
    home.write("drivers/softhsm2.toml", shipped.replace('kind = "software"', 'kind = "token"'))
    tokens = home.json("--drivers", "drivers", "list")["tokens"]
    ready, fresh = tokens[:2], tokens[2]
    assert {token["serial"] for token in ready} == {token.serial for token in home.tokens}
    assert fresh["certificates"] == []
    assert [problem["error"] for problem in fresh["problems"]] == ["TOKEN_NOT_INITIALIZED"]
    assert "not initialized" in home.ushield("--drivers", "drivers", "list").err


def test_a_count_of_tries_that_cannot_be_kept_does_not_hide_a_token(blank: Home) -> None:
    tokens = blank.json("list", XDG_STATE_HOME="/proc/nowhere")["tokens"]
    assert [token["pin"]["retries_left"] for token in tokens] == [None, None]
    assert [problem["error"] for token in tokens for problem in token["problems"]] == ["STATE_FOLDER_UNUSABLE"] * 2
