"""The draft descriptor for an unknown token."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.doctor.recorded import NO_SERVICE, Tree
from ushield_hw.doctor.descriptor_draft import candidate_modules, skeleton
from ushield_hw.drivers.descriptor import parse
from ushield_hw.drivers.family import Driver
from ushield_hw.drivers.match import Binding
from ushield_hw.system.pcsc import Reader, ReaderList, Slot

pytestmark = pytest.mark.unit

ATR = bytes.fromhex("3b9f958131fe9f006646530523002571df0000030000009600")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.family("epass", "096e:0807 ccid", "3b80800101")
    return tree


def card(atr: bytes = ATR, name: str = "Maker Token 00 00") -> ReaderList:
    return ReaderList((Reader(name, Slot.CARD, atr),))


def parsed(text: str | None) -> Driver:
    """Parse the descriptor under the file name that it states."""
    assert text is not None
    name = text.split("drivers/", 1)[1].split(".toml")[0]
    return parse(Path(f"{name}.toml"), text.encode())


def test_an_unknown_token_gets_a_descriptor_that_is_valid(tree: Tree) -> None:
    tree.device("abcd:0001", name="迅雷 SuperKey 3")
    tree.file("/opt/superkey/lib/libsuperkey_p11.so")
    driver = parsed(skeleton(tree.machine(card())))
    assert (driver.id, driver.vendor, driver.product) == ("superkey-3", "迅雷", "SuperKey 3")
    assert [(str(usb), usb.binding) for usb in driver.usb] == [("abcd:0001", Binding.CCID)]
    assert [mark.atr for mark in driver.atrs] == [ATR.hex()]
    assert driver.module.paths == ("/opt/superkey/lib/libsuperkey_p11.so",)
    assert driver.confidence == "low"


def test_a_card_alone_and_a_device_alone_are_enough(tree: Tree) -> None:
    assert parsed(skeleton(tree.machine(card()))).usb == ()
    tree.device("abcd:0001")
    assert parsed(skeleton(tree.machine(NO_SERVICE))).atrs == ()


def test_known_tokens_and_empty_readers_need_none(tree: Tree) -> None:
    tree.device("096e:0807")
    assert skeleton(tree.machine(card(bytes.fromhex("3b80800101")))) is None
    assert skeleton(tree.machine(ReaderList((Reader("r", Slot.EMPTY),)))) is None
    assert skeleton(tree.machine(NO_SERVICE)) is None


@pytest.mark.parametrize(
    "name",
    ['quo"te \\ back', "\u202eevil\x1b[2J \x00", "\u3000", "", "x" * 300, "\ud800 half", "''' \"\"\" #", "é" * 50],
)
def test_whatever_a_token_calls_itself_the_descriptor_is_valid(tree: Tree, name: str) -> None:
    driver = parsed(skeleton(tree.machine(card(name=name))))
    assert driver.id
    assert "\x1b" not in driver.product + driver.vendor


def test_an_id_that_is_taken_is_not_given_again(tree: Tree) -> None:
    tree.device("abcd:0001", name="ePass")
    assert parsed(skeleton(tree.machine())).id == "epass-abcd-0001"
    assert parsed(skeleton(tree.machine(card(name="盾")))).id == "epass-abcd-0001"


def test_a_name_without_a_latin_letter_has_an_id_all_the_same(tree: Tree) -> None:
    assert parsed(skeleton(tree.machine(card(name="银行盾")))).id == f"token-{ATR.hex()[-8:]}"


def test_candidates_are_found_by_name_and_known_ones_left_out(tree: Tree) -> None:
    tree.family("known", "1234:0001 ccid", paths=["/usr/lib/libknown_pkcs11.so"])
    wanted = [
        "/opt/a/b/c/libdeep_PKCS11.so",
        "/usr/lib/aarch64-linux-gnu/libcryptoki.so.2",
        "/usr/local/lib/libx-p11.so",
    ]
    for path in [*wanted, "/usr/lib/libknown_pkcs11.so", "/usr/lib/libssl.so.3", "/opt/a/b/c/d/e/f/libtoo_deep_p11.so"]:
        tree.file(path)
    tree.link("/usr/lib/libcryptoki.so", "aarch64-linux-gnu/libcryptoki.so.2")
    tree.link("/usr/lib64", "lib")
    found = candidate_modules(tree.machine())
    assert sorted(map(os.path.basename, found)) == sorted({"libdeep_PKCS11.so", "libcryptoki.so", "libx-p11.so"})


def test_a_library_that_offers_something_else_is_no_candidate(tree: Tree, tmp_path: Path) -> None:
    for name, function in {"libx_pkcs11.so": "C_GetFunctionList", "libj2pkcs11.so": "JNI_OnLoad"}.items():
        source = tmp_path / "one.c"
        source.write_text(f"int {function}(void) {{ return 0; }}\n")
        place = tree.file(f"/usr/lib/{name}")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", place, source], check=True)
    assert candidate_modules(tree.machine()) == ["/usr/lib/libx_pkcs11.so"]


@pytest.mark.parametrize("name", ["Maker Token 00 00", "Maker Token [CCID Interface] (0815) 01 00", "Maker Token"])
def test_what_pcscd_adds_to_a_name_is_left_out(tree: Tree, name: str) -> None:
    assert parsed(skeleton(tree.machine(card(name=name)))).product == "Token"


def test_a_machine_full_of_candidates_gives_a_few(tree: Tree) -> None:
    for number in range(40):
        tree.file(f"/usr/lib/lib{number:02}_pkcs11.so")
    assert len(candidate_modules(tree.machine())) == 8
