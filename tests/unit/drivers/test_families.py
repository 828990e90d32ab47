"""The shipped catalogue: complete with respect to the collected data, and consistent.

``families.jsonl`` is the collected data, one family per line: its USB ids, the number and a digest of its ATR rows, and
every module file that a source names.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import TokenInfo
from ushield_hw.config import Settings, data_dir
from ushield_hw.drivers import index
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.drivers.descriptor import parse
from ushield_hw.drivers.family import Discover, Driver, Interface, Kind
from ushield_hw.drivers.installed import discoverable, installed
from ushield_hw.drivers.match import Atr, Binding

pytestmark = pytest.mark.unit

FOLDER: Final = data_dir("drivers")
FILES: Final = sorted(FOLDER.glob("*.toml"))
CATALOGUE: Final = Catalogue([FOLDER])
COLLECTED: Final = [json.loads(line) for line in Path(__file__).with_name("families.jsonl").read_text().splitlines()]
OURS: Final = {"ushield-virtual", "ushield-virtual-button"}

each = pytest.mark.parametrize("driver", list(CATALOGUE), ids=lambda driver: str(driver.id))
each_collected = pytest.mark.parametrize("family", COLLECTED, ids=lambda family: str(family["id"]))


def module_table(driver_id: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((FOLDER / f"{driver_id}.toml").read_text()).get("module", {})
    return table


def named_files(driver: Driver) -> Iterator[str]:
    """Every module file named by a descriptor, for all platforms, including those of families that show its tokens."""
    through = (*([driver.module.via] if driver.module.via else []), *driver.module.also_via)
    for driver_id in (driver.id, *through):
        table = module_table(driver_id)
        for key in ("linux", "macos", "windows", "names"):
            yield from table.get(key, [])


# --- completeness -----------------------------------------------------------------------------------------------------


def test_all_of_what_was_collected_is_counted() -> None:
    assert len(COLLECTED) == 75
    assert sum(len(family["usb"]) for family in COLLECTED) == 204
    assert sum(family["atrs"] for family in COLLECTED) == 437
    assert sum(len(family["modules"]) for family in COLLECTED) == 231


def test_every_family_has_a_descriptor_and_no_other_has() -> None:
    assert set(CATALOGUE.ids()) == {family["id"] for family in COLLECTED} | OURS


@each_collected
def test_every_usb_id_is_there(family: dict[str, Any]) -> None:
    assert [str(usb) for usb in CATALOGUE.get(family["id"]).usb] == family["usb"]


@each_collected
def test_every_atr_is_there(family: dict[str, Any]) -> None:
    rows = sorted(f"{row.atr}/{row.mask or ''}" for row in CATALOGUE.get(family["id"]).atrs)
    assert len(rows) == family["atrs"]
    assert hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16] == family["atrs_sha256"]


@each_collected
def test_every_module_file_is_named(family: dict[str, Any]) -> None:
    named = list(named_files(CATALOGUE.get(family["id"])))
    missing = [file for file in family["modules"] if not any(fnmatch(file, pattern) for pattern in named)]
    assert missing == []


# --- consistency ------------------------------------------------------------------------------------------------------


@each
def test_every_row_names_its_source(driver: Driver) -> None:
    assert driver.sources
    assert [row for row in driver.usb if not (row.source and row.confidence)] == []
    assert [row for row in driver.atrs if not (row.source and row.confidence)] == []


@each
def test_other_families_are_real(driver: Driver) -> None:
    named = {*driver.module.also_via, *(other for row in driver.atrs for other in row.also_in)}
    named |= {driver.module.via} if driver.module.via else set()
    assert named <= set(CATALOGUE.ids()) - {driver.id}


@each
def test_a_row_names_every_other_family_that_has_the_atr(driver: Driver) -> None:
    for row in driver.atrs:
        sharing = {other.id for other in CATALOGUE.for_atr(bytes.fromhex(row.atr))} - {driver.id}
        assert sharing <= set(row.also_in), row.atr


@each
def test_notes_are_sentences(driver: Driver) -> None:
    assert [note for note in driver.notes if not note.endswith(".")] == []


def test_no_module_file_is_anybody_elses() -> None:
    owners: dict[str, list[str]] = {}
    for file in FILES:
        for path in {path for key in ("linux", "macos", "windows") for path in module_table(file.stem).get(key, [])}:
            owners.setdefault(path, []).append(file.stem)
    assert {path: ids for path, ids in owners.items() if len(ids) > 1} == {}


@each
def test_what_has_no_pkcs11_module_names_none(driver: Driver) -> None:
    assert driver.interface is Interface.PKCS11 or not driver.module.paths


def test_only_skf_and_csp_keys_are_not_driven() -> None:
    undriven = {driver.id for driver in CATALOGUE if driver.interface is not Interface.PKCS11}
    assert undriven == {
        "cn-other-skf",
        "excelsecu",
        "feitian-epass3000gm",
        "longmai-gm3000-k5",
        "minghua-aohan",
        "tendyron-onkey",
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_a_path_is_absolute_or_begins_with_a_variable(file: Path) -> None:
    for platform, start in (("linux", "/"), ("macos", "/"), ("windows", r"(%[^%]+%|C:)\\")):
        assert [path for path in module_table(file.stem).get(platform, []) if not re.match(start, path)] == []


# --- modules that may be loaded ---------------------------------------------------------------------------------------


def test_what_shows_others_tokens_or_waits_for_a_network_is_loaded_only_when_named() -> None:
    never = {Kind.AGGREGATOR, Kind.DIAGNOSTIC, Kind.HSM}
    assert [
        driver.id for driver in CATALOGUE if driver.kind in never and driver.module.discover is Discover.ALWAYS
    ] == []


def test_no_library_of_another_interface_is_looked_for() -> None:
    names = {name for driver in CATALOGUE for name in driver.module.skf}
    assert names
    assert [path for driver in CATALOGUE for path in driver.module.paths if Path(path).name in names] == []


def test_only_what_is_proven_runs_in_this_process() -> None:
    inside = [driver for driver in CATALOGUE if driver.module.isolation is Isolation.IN_PROCESS]
    assert [driver.id for driver in inside if not driver.proven_with] == []
    assert "softhsm2" in {driver.id for driver in inside}


def test_here_are_loaded_only_what_this_machine_has() -> None:
    entries = discoverable(installed(CATALOGUE, Settings()))
    assert {"softhsm2", "opensc"} <= {entry.driver.id for entry in entries}
    assert {entry.driver.kind for entry in entries} <= {Kind.TOKEN, Kind.SOFTWARE, Kind.PLATFORM}


# --- without parsing everything ---------------------------------------------------------------------------------------


@each
def test_the_index_says_what_the_file_says(driver: Driver) -> None:
    assert driver == parse(driver.file, driver.file.read_bytes())
    assert CATALOGUE._entries[driver.id].paths == list(driver.module.paths)
    names = {*driver.module.names, *driver.module.skf}
    assert set(CATALOGUE._entries[driver.id].names) == names


def test_a_changed_descriptor_makes_the_index_anew(tmp_path: Path) -> None:
    file = tmp_path / "softhsm2.toml"
    file.write_bytes((FOLDER / "softhsm2.toml").read_bytes())
    assert index.of_checkout(tmp_path)["softhsm2"]["id"] == "softhsm2"
    made = (tmp_path / index.IN_CHECKOUT).read_bytes()
    assert index.of_wheel(made).keys() == {"softhsm2"}
    file.write_text(file.read_text().replace('vendor = "', 'vendor = "X'))
    assert str(index.of_checkout(tmp_path)["softhsm2"]["vendor"]).startswith("X")
    assert (tmp_path / index.IN_CHECKOUT).read_bytes() != made


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"stamp": 1}', b"\xff"])
def test_an_index_that_cannot_be_read_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "softhsm2.toml").write_bytes((FOLDER / "softhsm2.toml").read_bytes())
    (tmp_path / index.IN_CHECKOUT).write_bytes(content)
    index._fresh.cache_clear()
    assert index.of_checkout(tmp_path).keys() == {"softhsm2"}


def test_what_is_installed_is_found_without_parsing_the_rest() -> None:
    catalogue = Catalogue([FOLDER])
    here = [driver.id for driver in catalogue.installed()]
    assert here == [driver.id for driver in Catalogue([FOLDER]) if driver.module_files()]
    assert len(catalogue._parsed) <= len(here) + 2


def test_a_module_is_looked_up_in_one_descriptor() -> None:
    (softhsm,) = CATALOGUE.get("softhsm2").module_files()[:1]
    catalogue = Catalogue([FOLDER])
    assert catalogue.for_module(softhsm) is not None
    assert list(catalogue._parsed) == ["softhsm2"]


@pytest.mark.parametrize(
    ("manufacturer", "parsed"), [("www.CardContact.de", ["opensc"]), ("piv_II", ["opensc", "opensc-piv"])]
)
def test_the_family_of_a_token_is_looked_up_in_the_descriptors_that_may_fit(
    manufacturer: str, parsed: list[str]
) -> None:
    catalogue = Catalogue([FOLDER])
    info = TokenInfo(0, "label", manufacturer, "model", "1", 0, 4, 8, (1, 0))
    assert catalogue.family(catalogue.get("opensc"), info).id == parsed[-1]
    assert list(catalogue._parsed) == parsed


# --- identification ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usb", "ids"),
    [
        ("096e:0807", ["feitian-epass2003"]),
        ("096E:080A", ["feitian-epass2003"]),
        ("20a0:4108", ["nitrokey-pro-storage-start"]),  # not Longmai's, although some lists say so
        ("163c:0418", ["trustkey", "watchdata-watchkey"]),
        ("08e6:3437", ["gemalto-classic", "gemalto-idprime"]),
        ("5488:0004", []),  # a common typing error for 5448:0004
    ],
)
def test_by_usb_id(usb: str, ids: list[str]) -> None:
    assert [driver.id for driver in CATALOGUE.for_usb(*usb.split(":"))] == ids


def test_by_vendor_id() -> None:
    assert [driver.id for driver in CATALOGUE.for_vendor("163C")] == ["trustkey", "watchdata-watchkey"]
    assert CATALOGUE.for_vendor("0403") == []


@each
def test_what_is_found_without_parsing_all_is_what_parsing_all_finds(driver: Driver) -> None:
    for row in driver.atrs:
        for atr in (bytes.fromhex(row.atr), bytes.fromhex(row.atr)[:-1], bytes.fromhex(row.atr[:-2] + "5a")):
            everywhere = [other.id for other in CATALOGUE if any(known.matches(atr) for known in other.atrs)]
            assert [other.id for other in CATALOGUE.for_atr(atr)] == everywhere
    for usb in driver.usb:
        everywhere = [other.id for other in CATALOGUE if str(usb) in map(str, other.usb)]
        assert [other.id for other in CATALOGUE.for_usb(usb.vid.upper(), usb.pid)] == everywhere
        vendors = [other.id for other in CATALOGUE if usb.vid in {known.vid for known in other.usb}]
        assert [other.id for other in CATALOGUE.for_vendor(usb.vid)] == vendors
    through = [other.id for other in CATALOGUE if driver.id in {other.module.via, *other.module.also_via}]
    assert [other.id for other in CATALOGUE.driven_by(driver)] == through


@pytest.mark.parametrize(
    ("atr", "ids"),
    [
        ("3bfd1300008131fe158073c021c057597562694b657940", ["gnuk", "nitrokey-pro-storage-start", "yubikey-piv"]),
        ("3b8c01805a4e6974726f6b657920337d", ["nitrokey-3"]),
        ("3b9f958131fe9f006646530551003371df0000039000f2", ["feitian-epass2003", "hypersecu-hyp2003"]),  # by mask
        ("3b7b940000806212515646696e454944", ["eid-finland"]),
        ("3b7b940000806213515646696e454944", []),  # the regular expression says 1 or 2
    ],
)
def test_by_atr(atr: str, ids: list[str]) -> None:
    assert [driver.id for driver in CATALOGUE.for_atr(bytes.fromhex(atr))] == ids


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("librtpkcs11ecp.so", ["rutoken"]),
        ("WDPKCS.dll", ["watchdata-proxkey", "watchdata-watchkey"]),
        ("libshuttle_p11v220_other_bank.so", ["feitian-epass3003"]),
        ("SKFAPI20079.dll", ["haitai-haikey"]),
        ("sc30pkcs11-3.0.6.69-MS.so", ["certum"]),
        ("libnothing.so", []),
    ],
)
def test_by_the_name_of_a_file_of_any_platform(name: str, ids: list[str]) -> None:
    assert [driver.id for driver in CATALOGUE.naming(name)] == ids


def test_the_family_of_a_file_that_several_install_is_its_maker() -> None:
    owner = CATALOGUE.for_module(Path("/usr/lib/libeTPkcs11.so"))
    assert owner is not None
    assert owner.id == "safenet-etoken"
    assert [family.id for family in CATALOGUE.driven_by(owner)] == ["cardos", "gemalto-idprime"]


def test_bindings_tell_where_pcsc_sees_nothing() -> None:
    past = {binding for binding in Binding if binding.past_pcsc}
    assert past == set(Binding) - {Binding.CCID, Binding.NO_CCID}
    assert all(usb.binding.past_pcsc for usb in CATALOGUE.get("longmai-gm3000-k5").usb)
    assert not any(usb.binding.past_pcsc for usb in CATALOGUE.get("yubikey-piv").usb)


@given(st.data())
def test_a_mask_says_which_bits_of_an_atr_count(data: st.DataObject) -> None:
    ours = data.draw(st.binary(min_size=2, max_size=33))
    mask = data.draw(st.binary(min_size=len(ours), max_size=len(ours)))
    row = Atr(ours.hex(), mask=mask.hex())
    noise = data.draw(st.binary(min_size=len(ours), max_size=len(ours)))
    free = bytes(a ^ (n & ~m & 0xFF) for a, n, m in zip(ours, noise, mask, strict=True))
    assert row.matches(free)
    assert not row.matches(free[:-1])
    assert not row.matches(free + b"\0")
    bit = data.draw(st.integers(0, len(ours) * 8 - 1))
    flipped = bytearray(free)
    flipped[bit // 8] ^= 1 << bit % 8
    assert row.matches(bytes(flipped)) is not bool(mask[bit // 8] >> bit % 8 & 1)
