"""``ushield driver`` and ``--drivers``: the shipped catalogue and user-written descriptors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.world import Home
from ushield_hw.cli.layout import columns

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.stem for path in (ROOT / "drivers").glob("*.toml"))

OPENSC = "opensc-pkcs11.so"

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
    """A home without tokens and with one user-written descriptor."""
    home = Home(tmp_path)
    home.write("drivers/own.toml", OWN.format(module="/opt/own/libown.so"))
    return home


def ids(home: Home, *words: str) -> list[str]:
    return [driver["id"] for driver in home.json(*words)["drivers"]]


# --- list and show ----------------------------------------------------------------------------------------------------


def test_list_has_every_shipped_driver(desk: Home) -> None:
    assert ids(desk, "driver", "list") == SHIPPED


@pytest.mark.parametrize("language", ["en", "zh"])
def test_list_for_a_person(desk: Home, language: str) -> None:
    lines = desk.ushield("--lang", language, "driver", "list").out.splitlines()
    assert sorted(line.split()[0] for line in lines if line.startswith("  ") and line[2] != " ") == SHIPPED
    assert [line for line in lines if columns(line) > 80] == []


def group_of(desk: Home, driver_id: str) -> str:
    """The heading under which a family is listed."""
    heading = ""
    for line in desk.ushield("driver", "list").out.splitlines():
        heading = line if line and line[0] != " " else heading
        if line.split()[:1] == [driver_id]:
            return heading
    raise AssertionError(driver_id)


@pytest.mark.parametrize(
    ("driver_id", "heading"),
    [
        ("softhsm2", "Proven: passed the contract suite"),
        ("opensc", "Known, and its module is installed here"),
        ("gnuk", "Known, and shown by another family's module"),
        ("rutoken", "Known; its module is not installed here"),
        ("kobil-midentity", "Known; no source names a module for this system"),
        ("longmai-gm3000-k5", "SKF or CSP only: not PKCS#11, not supported by this program"),
    ],
)
def test_list_says_how_far_a_family_is_supported(desk: Home, driver_id: str, heading: str) -> None:
    assert group_of(desk, driver_id).startswith(heading)


def test_list_says_what_a_family_is_proven_with(desk: Home) -> None:
    lines = desk.ushield("driver", "list").out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  softhsm2 "))
    assert lines[at].endswith("OpenDNSSEC: SoftHSM 2 · installed here")
    assert lines[at + 1].strip() == "= SoftHSM 2.6.1, Debian 12: contract suite,"


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
    said = desk.ushield("driver", "check", "drivers/own.toml").out
    assert said.splitlines()[0] == "drivers/own.toml is a valid descriptor of own."
    assert "Module not installed here; looked for: /opt/own/libown.so." in said


def test_check_of_one_that_is_driven_by_a_family_nobody_has(desk: Home) -> None:
    desk.write("own.toml", OWN.replace('linux = ["{module}"]', 'via = "nobody"'))
    assert desk.fails(3, "DRIVER_ID_UNKNOWN", "driver", "check", "own.toml")["id"] == "nobody"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('vendor = "Example"', "", "vendor"),
        ('kind = "token"', 'kind = "toaster"', "kind"),
        ("policy_tries = 3", "policy_tries = 0", "pin.policy_tries"),
        ("relist = true", 'relist = "yes"', "module.relist"),
        ("relist = true", "colour = 1", "module.colour"),
        ('vid = "1a2b"', 'vid = "1A2B"', "match.usb[0].vid"),
        ('"/opt/own/libown.so"', '"libown.so"', "module.linux[0]"),
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


@pytest.mark.parametrize(
    ("usb", "code", "detail"),
    [
        ("04b4:9999", "DRIVER_CHIP_MAKER", {"vid": "04b4", "maker": "Cypress"}),
        ("163c:9999", "DRIVER_VENDOR_KNOWN", {"vid": "163c", "ids": "trustkey, watchdata-watchkey"}),
    ],
)
def test_a_vendor_id_alone_says_little(desk: Home, usb: str, code: str, detail: dict[str, str]) -> None:
    details = desk.fails(3, code, "driver", "match", "--usb", usb)
    assert details == {"usb": usb, "searched": [str(ROOT / "drivers")], **detail}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--usb", "096e:0702"), "no PC/SC reader is normal for this one."),
        (("--usb", "096e:0807"), "PC/SC must show a reader for it."),
        (("--usb", "1050:0401"), "its CCID interface is switched off."),
        (("--usb", "25dd:3111"), "The PIN can be entered on bit4id miniLector-EVO itself."),
        (("--usb", "04b4:1234"), "04b4 is the vendor id of Cypress, a chip maker"),
        (("--usb", "163c:0418"), "Ambiguous: 2 families have this USB id."),
        (("--atr", "3bfd1300008131fe158073c021c057597562694b657940"), "Ambiguous: 3 families have this ATR."),
        (("--module", "WDPKCS.dll"), "Ambiguous: 2 families have a file of this name."),
        (("--module", "libgm3000.1.0.so"), "libgm3000.1.0.so is an SKF library (GM/T 0016), not PKCS#11"),
        (("--module", "libgclib.so"), "Its module also shows tokens of these families: eid-luxembourg."),
        (("--usb", "055c:db08"), "No PKCS#11 module (SKF): not supported by this program."),
        (("--module", "libsofthsm2.so"), "Proven: SoftHSM 2.6.1, Debian 12"),
        (("--module", "librtpkcs11ecp.so"), "Module not installed here; looked for: /usr/lib/librtpkcs11ecp.so"),
        (("--usb", "0d46:4189"), "No source names a module for this system."),
        (("--module", "libcanokey-pkcs11.so"), "files of the family: libcanokey-pkcs11.so"),
        (("--usb", "349e:0026"), "Known, not proven; sources: fair."),
    ],
)
def test_match_tells_a_person_what_it_means(desk: Home, words: tuple[str, str], said: str) -> None:
    lines = desk.ushield("driver", "match", *words).out.splitlines()
    assert said in " ".join(line.strip() for line in lines)
    assert [line for line in lines if columns(line) > 80] == []


def test_match_tells_a_program_what_it_means(desk: Home) -> None:
    known = desk.json("driver", "match", "--usb", "096e:0702")
    assert (known["ambiguous"], known["pcsc_reader"]) == (False, "none")
    assert desk.json("driver", "match", "--usb", "1050:0401")["pcsc_reader"] == "switched_off"
    atr = desk.json("driver", "match", "--atr", "3bfd1300008131fe158073c021c057597562694b657940")
    assert atr["ambiguous"]
    assert [driver["id"] for driver in atr["drivers"]] == ["gnuk", "nitrokey-pro-storage-start", "yubikey-piv"]
    assert "feitian-epass2003" in desk.json("driver", "match", "--module", OPENSC)["shows_too"]


@pytest.mark.parametrize("words", [(), ("--usb", "1a2b:3c4d", "--atr", "3b00")])
def test_match_by_one_thing(desk: Home, words: tuple[str, ...]) -> None:
    desk.fails(2, "USAGE_ONE_OF", "driver", "match", *words)


@pytest.mark.parametrize(("option", "value"), [("--usb", "1a2b3c4d"), ("--atr", "xyz")])
def test_match_by_something_ill_formed(desk: Home, option: str, value: str) -> None:
    assert desk.fails(2, "USAGE", "driver", "match", option, value)["argument"] == option


# --- user-written descriptors -----------------------------------------------------------------------------------------


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
