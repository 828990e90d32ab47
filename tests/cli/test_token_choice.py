"""``--token``: exactly one token must match; a URI may select a module, but not add one or disclose a PIN."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.world import TIMEOUT_S, Home

SECRET = "918273"


@pytest.mark.parametrize("named_by", ["uri", "serial", "label"])
def test_by_uri_serial_or_label(blank: Home, named_by: str) -> None:
    for token in blank.tokens:
        assert blank.json("info", "--token", getattr(token, named_by))["serial"] == token.serial


@pytest.mark.parametrize("attribute", ["serial", "token"])
def test_a_uri_may_say_little(blank: Home, attribute: str) -> None:
    value = {"serial": blank.token.serial, "token": blank.token.label}[attribute]
    assert blank.json("info", "--token", f"pkcs11:{attribute}={value}")["serial"] == blank.token.serial


def test_the_only_token_needs_no_name(home: Home) -> None:
    shutil.rmtree(next(home.file("softhsm/tokens").iterdir()))
    (left,) = home.json("list")["tokens"]
    assert home.json("info")["serial"] == left["serial"]


def test_two_tokens_need_a_name(blank: Home) -> None:
    details = blank.fails(3, "TOKEN_MULTIPLE", "info")
    assert sorted(details["candidates"]) == sorted(token.uri for token in blank.tokens)


def test_two_tokens_with_one_label(bare: Home) -> None:
    for _ in range(2):
        words = ["--init-token", "--free", "--label", "twin", "--so-pin", "12345678", "--pin", "123456"]
        subprocess.run(
            ["softhsm2-util", *words], env=bare.environment, capture_output=True, timeout=TIMEOUT_S, check=True
        )
    candidates = bare.fails(3, "TOKEN_MULTIPLE", "info", "--token", "twin")["candidates"]
    assert len(set(candidates)) == 2
    serials = {bare.json("info", "--token", uri)["serial"] for uri in candidates}
    assert len(serials) == 2


def tokens_in(findings: list[str]) -> list[str]:
    """Return the tokens among the findings; the others are modules without a device on this machine."""
    return sorted(finding for finding in findings if finding.startswith("pkcs11:"))


@pytest.mark.parametrize("word", ["no-such-token", "", "pkcs11:serial=0000", "pkcs11:token=ushield-demo;serial=0000"])
def test_no_token_matches(blank: Home, word: str) -> None:
    details = blank.fails(3, "TOKEN_NONE_MATCHES", "info", "--token", word)
    assert tokens_in(details["findings"]) == sorted(token.uri for token in blank.tokens)


def test_no_token_at_all(bare: Home) -> None:
    assert tokens_in(bare.fails(3, "TOKEN_NOT_FOUND", "info")["findings"]) == []


@pytest.mark.parametrize(
    "uri",
    [
        f"pkcs11:token=ushield-demo?pin-value={SECRET}",
        f"pkcs11:token=ushield-demo?pin-source=file:/{SECRET}",
        f"pkcs11:slot-id={SECRET}",
        f"pkcs11:token=ushield-demo;pin-value={SECRET}",
        f"PKCS11:token=ushield-demo?pin-value={SECRET}",
    ],
)
def test_a_uri_with_a_secret_or_a_slot_is_refused(blank: Home, uri: str, tmp_path: Path) -> None:
    blank.fails(2, "URI_REFUSED", "info", "--token", uri)
    done = blank.ushield("-vv", "--log-file", tmp_path / "log", "pin", "status", "--token", uri, exits=2)
    assert SECRET not in done.err + (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    "uri",
    [
        f"pkcs11:nonsense=1?pin-value={SECRET}",
        f"pkcs11:token=%zz?pin-value={SECRET}",
        f"pkcs11:token=a;token=b?pin-value={SECRET}",
        f"pkcs11:token=ushield-demo?PIN-VALUE={SECRET}",
        f"pkcs11:token=ushield-demo?pin%2Dvalue={SECRET}",
        f"pkcs11:pin-value={SECRET}{'x' * 5000}",
    ],
)
def test_a_wrong_uri_never_tells_its_secret(blank: Home, uri: str) -> None:
    done = blank.ushield("-vv", "info", "--token", uri, "--json", exits=2)
    assert SECRET not in done.out + done.err


@pytest.mark.parametrize(
    ("uri", "attribute"),
    [
        ("pkcs11:colour=red", "colour"),
        ("pkcs11:serial=%4", "serial"),
        ("pkcs11:serial=%FF", "serial"),
        ("pkcs11:serial=1;serial=2", "serial"),
        ("pkcs11:?module-path=lib.so", "module-path"),
        ("pkcs11:?module-path=/lib%00.so", "module-path"),
    ],
)
def test_a_wrong_uri_names_the_attribute(blank: Home, uri: str, attribute: str) -> None:
    assert blank.fails(2, "URI_INVALID", "info", "--token", uri)["attribute"] == attribute


@pytest.mark.parametrize(
    ("attributes", "matches"),
    [
        ("library-manufacturer=SoftHSM", True),
        ("library-manufacturer=OpenSC%20Project", False),
        ("library-description=OpenSC%20smartcard%20framework", False),
        ("library-version=2.6", True),
        ("library-version=0.26", False),
        ("slot-manufacturer=SoftHSM%20project", True),
        ("slot-description=Reader%2000", False),
        ("model=another", False),
        ("?module-name=SoftHSM2", True),
        ("?module-name=opensc-pkcs11", False),
    ],
)
def test_every_attribute_restricts(blank: Home, attributes: str, matches: bool) -> None:
    path, _, query = attributes.partition("?")
    uri = f"pkcs11:token={blank.token.label};{path}" + (f"?{query}" if query else "")
    if matches:
        assert blank.json("info", "--token", uri)["serial"] == blank.token.serial
    else:
        blank.fails(3, "TOKEN_NONE_MATCHES", "info", "--token", uri)


def test_an_object_chooses_among_tokens_and_must_be_a_key_or_a_certificate(shared: Home) -> None:
    (certificate,) = shared.json("cert", "list", "--token", shared.other_token.uri)["certificates"]
    uri = "pkcs11:id=%" + "%".join(certificate["key_id"][at : at + 2] for at in range(0, len(certificate["key_id"]), 2))
    assert shared.json("info", "--token", uri)["serial"] == shared.other_token.serial
    shared.fails(6, "CERTIFICATE_NONE_MATCHES", "cert", "export", "--token", f"{uri};type=data")


# --- module-path ------------------------------------------------------------------------------------------------------


def module_of(home: Home) -> str:
    return home.token.uri.partition("module-path=")[2]


def test_a_module_that_is_none_of_ours_is_not_loaded(blank: Home, tmp_path: Path) -> None:
    stranger = shutil.copy(module_of(blank), tmp_path / "libsofthsm2.so")
    details = blank.fails(3, "MODULE_NOT_INSTALLED", "info", "--token", f"pkcs11:?module-path={stranger}")
    assert details["path"] == str(stranger)


def test_a_module_that_is_not_there(blank: Home) -> None:
    blank.fails(3, "MODULE_NOT_INSTALLED", "info", "--token", "pkcs11:?module-path=/nowhere/lib.so")


@pytest.fixture
def broken(home: Home) -> str:
    """A module that cannot be loaded, named by a descriptor in the folder ``own``."""
    module = home.file(home.write("broken.so", "this is no library"))
    descriptor = ['id = "broken"', 'vendor = "V"', 'product = "P"', 'kind = "token"', 'interface = "pkcs11"']
    descriptor += ['confidence = "low"', "sources = []", "[module]", f'linux = ["{module}"]']
    home.write("own/broken.toml", "\n".join(descriptor))
    return str(module)


def test_only_the_module_named_is_loaded(home: Home, broken: str) -> None:
    assert broken in home.ushield("-v", "--drivers", "own", "info", "--token", home.token.serial).err
    assert broken not in home.ushield("-v", "--drivers", "own", "info", "--token", home.token.uri).err


def test_a_module_that_cannot_be_loaded_does_not_hide_tokens(home: Home, broken: str) -> None:
    listed = home.json("--drivers", "own", "list")
    assert (broken, "DRIVER_LOAD_FAILED") in [(one["module"], one["error"]) for one in listed["problems"]]
    assert len(listed["tokens"]) == 2


def test_a_module_that_is_named_and_cannot_be_loaded(home: Home, broken: str) -> None:
    words = ("--drivers", "own", "info", "--token", f"pkcs11:?module-path={broken}")
    assert home.fails(3, "DRIVER_LOAD_FAILED", *words)["path"] == broken


def test_a_module_that_others_may_change_is_not_loaded(home: Home, broken: str) -> None:
    Path(broken).chmod(0o666)
    words = ("--drivers", "own", "info", "--token", f"pkcs11:?module-path={broken}")
    details = home.fails(3, "DRIVER_UNTRUSTED", *words)
    assert (details["path"], details["reason"]) == (broken, "writable")
