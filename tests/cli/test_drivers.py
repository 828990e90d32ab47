"""``ushield driver`` and ``--drivers``: the catalogue, and descriptors that somebody wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.world import Home

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.stem for path in (ROOT / "drivers").glob("*.toml"))

OWN = """\
id = "own"
vendor = "Example"
product = "Shield 1"
kind = "token"
interface = "pkcs11"
confidence = "low"
sources = ["https://bank.example/shield"]

[module]
linux = ["{module}"]
relist = true

[pin]
policy_tries = 3

[[match.usb]]
vid = "1a2b"
pid = "3c4d"

[[match.atr]]
atr = "3b9f95801fc78031e073fe211b63"
mask = "ffffffffffffffffffffffff00ff"
"""


@pytest.fixture
def desk(tmp_path: Path) -> Home:
    """A home without tokens, and one descriptor of its own."""
    home = Home(tmp_path)
    home.write("drivers/own.toml", OWN.format(module="/opt/own/libown.so"))
    return home


def ids(home: Home, *words: str) -> list[str]:
    return [driver["id"] for driver in home.json(*words)["drivers"]]


# --- list and show ----------------------------------------------------------------------------------------------------


def test_list_has_every_shipped_driver(desk: Home) -> None:
    assert ids(desk, "driver", "list") == SHIPPED


def test_list_for_a_person(desk: Home) -> None:
    rows = desk.ushield("driver", "list").out.splitlines()
    assert [row.split()[0] for row in rows] == SHIPPED


def test_show(desk: Home) -> None:
    shown = desk.json("driver", "show", "softhsm2")
    assert (shown["id"], shown["kind"], shown["interface"]) == ("softhsm2", "software", "pkcs11")
    assert shown["pin"] == {"flags": "none", "policy_tries": 6, "unblock": "so-init-pin"}
    assert any(path.endswith("libsofthsm2.so") for path in shown["modules"]["installed"])
    assert desk.ushield("driver", "show", "softhsm2").out == Path(shown["file"]).read_text()


def test_show_of_none(desk: Home) -> None:
    assert desk.fails(3, "DRIVER_ID_UNKNOWN", "driver", "show", "nonsense")["id"] == "nonsense"


# --- check ------------------------------------------------------------------------------------------------------------


def test_check_of_a_good_one(desk: Home) -> None:
    checked = desk.json("driver", "check", "drivers/own.toml")
    assert (checked["valid"], checked["driver"]["id"]) == (True, "own")
    assert "own" in desk.ushield("driver", "check", "drivers/own.toml").out


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('vendor = "Example"', "", "vendor"),
        ('kind = "token"', 'kind = "toaster"', "kind"),
        ("policy_tries = 3", "policy_tries = 0", "pin.policy_tries"),
        ("relist = true", 'relist = "yes"', "module.relist"),
        ("relist = true", "colour = 1", "module.colour"),
        ('vid = "1a2b"', 'vid = "1A2B"', "match.usb[0].vid"),
        ('"/opt/own/libown.so"', '"libown.so"', "module.paths[0]"),
        ('id = "own"', 'id = "mine"', "id"),
        ("[module]", "[module", ""),
    ],
)
def test_check_names_the_file_and_the_key(desk: Home, old: str, new: str, key: str) -> None:
    desk.write("own.toml", OWN.format(module="/opt/own/libown.so").replace(old, new))
    details = desk.fails(2, "DESCRIPTOR_INVALID", "driver", "check", "own.toml")
    assert (details["file"], details["key"]) == ("own.toml", key)


def test_check_of_no_file(desk: Home) -> None:
    assert desk.fails(2, "FILE_UNREADABLE", "driver", "check", "nowhere.toml")["file"] == "nowhere.toml"


# --- match ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--usb", "1a2b:3c4d"),
        ("--usb", "1A2B:3C4D"),
        ("--atr", "3b9f95801fc78031e073fe211b63"),
        ("--atr", "3B9F95801FC78031E073FE215563"),
        ("--module", "/opt/own/libown.so"),
        ("--module", "/elsewhere/libown.so"),
    ],
)
def test_match(desk: Home, option: str, value: str) -> None:
    assert ids(desk, "--drivers", "drivers", "driver", "match", option, value) == ["own"]


@pytest.mark.parametrize(
    ("option", "value"), [("--usb", "0000:0000"), ("--atr", "3b00"), ("--module", "/opt/nothing.so")]
)
def test_nothing_matches(desk: Home, option: str, value: str) -> None:
    searched = desk.fails(3, "DRIVER_NONE_MATCHES", "driver", "match", option, value)["searched"]
    assert searched == [str(ROOT / "drivers")]


@pytest.mark.parametrize("words", [(), ("--usb", "1a2b:3c4d", "--atr", "3b00")])
def test_match_by_one_thing(desk: Home, words: tuple[str, ...]) -> None:
    desk.fails(2, "USAGE_ONE_OF", "driver", "match", *words)


@pytest.mark.parametrize(("option", "value"), [("--usb", "1a2b3c4d"), ("--atr", "xyz")])
def test_match_by_something_ill_formed(desk: Home, option: str, value: str) -> None:
    assert desk.fails(2, "USAGE", "driver", "match", option, value)["argument"] == option


# --- one's own --------------------------------------------------------------------------------------------------------


def test_ones_own_wins(blank: Home, tmp_path: Path) -> None:
    shipped = (ROOT / "drivers/softhsm2.toml").read_text()
    (tmp_path / "softhsm2.toml").write_text(shipped.replace("policy_tries = 6", "policy_tries = 3"))
    words = ("pin", "status", "--token", blank.token.uri)
    assert blank.json("--drivers", str(tmp_path), *words)["pin"]["retries_left"] == 3
    assert blank.json(*words)["pin"]["retries_left"] == 6


def test_a_family_nobody_knew(home: Home) -> None:
    shipped = home.token.uri.partition("module-path=")[2]
    module = shutil.copy(shipped, home.file("libown.so"))
    home.write("config/ushield/drivers/own.toml", OWN.format(module=module))
    (token,) = [one for one in home.json("list")["tokens"] if one["serial"] == home.token.serial]
    assert {token["module"], *token["also_in"]} == {str(module), shipped}
    uri = f"pkcs11:serial={home.token.serial}?module-path={module}"
    info = home.json("info", "--token", uri)
    assert (info["driver"], info["isolation"], info["pin"]["retries_left"]) == ("own", "process", 3)


def test_a_broken_descriptor_is_named(home: Home) -> None:
    home.write("drivers/own.toml", OWN.format(module="/opt/own.so").replace("vid", "wid"))
    details = home.fails(2, "DESCRIPTOR_INVALID", "--drivers", "drivers", "list")
    assert details["file"].endswith("drivers/own.toml")
    assert details["key"].startswith("match.usb[0]")


def test_a_descriptor_that_cannot_be_read_is_named(home: Home) -> None:
    home.file("drivers").mkdir()
    home.file("drivers/own.toml").symlink_to("nowhere")
    assert home.fails(2, "DESCRIPTOR_INVALID", "--drivers", "drivers", "list")["file"].endswith("drivers/own.toml")


def test_a_folder_that_is_not_there(desk: Home) -> None:
    assert desk.fails(2, "USAGE", "--drivers", "nowhere", "list")["argument"] == "--drivers"
