"""Layer F: modules that fail to initialise, changing or unreadable slots, and selectors with no or several matches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.contract.subjects import Place
from tests.contract.tokens import opencryptoki
from tests.project.tree import ROOT
from tests.soft import DRIVER, OPTIONS, SETTINGS, SOFTHSM, Soft
from tests.stack.doctor import child
from tests.stack.doctor.conftest import Doctor, ids, without_variable
from tests.unit.doctor.recorded import Tree, told
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import TokenFlag
from ushield_hw.backend.module import Module
from ushield_hw.doctor.finding import Finding, Status, ask_all
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.probes import slots
from ushield_hw.doctor.subjects import ModuleFile, load
from ushield_hw.drivers.catalogue import GENERIC, Catalogue
from ushield_hw.testing.faulty import Fault, cant_lock, returns, token_info
from ushield_hw.testing.shield import VirtualShield
from ushield_hw.testing.softhsm import CONF_VARIABLE

pytestmark = pytest.mark.stack

OK, WARN, FAIL, SKIP = Status.OK, Status.WARN, Status.FAIL, Status.SKIP
SO_PIN: Final = "87654321"
OPENSC: Final = Catalogue(SETTINGS.drivers).get("opensc")


def make_token(label: str) -> None:
    """Initialise one more soft token in the store of SOFTHSM2_CONF."""
    module = Module(SOFTHSM, Isolation.PROCESS, OPTIONS, 30)
    try:
        free = next(slot for slot in module.slots() if slot.token and not slot.token.serial)
        module.init_token(free.slot_id, SO_PIN, label)
    finally:
        module.close()


# --- F51: configuration -----------------------------------------------------------------------------------------------


def test_a_configuration_that_is_not_there(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = str(doctor.folder / "nowhere.conf")
    monkeypatch.setenv(CONF_VARIABLE, nowhere)
    loaded = doctor.loaded()
    assert loaded.error is not None
    told(
        slots.configuration(loaded),
        slots.configuration,
        FAIL,
        "ushield softhsm init --dir DIR",
        nowhere,
        kind="missing",
        path=nowhere,
        variable=CONF_VARIABLE,
        set=True,
    )
    assert slots.service(loaded).status is SKIP  # one cause, not two


def test_a_token_folder_that_is_not_there(doctor: Doctor, softhsm_conf: Callable[[str], Path]) -> None:
    folder = str(doctor.folder / "gone")
    conf = softhsm_conf(folder)
    finding = slots.configuration(doctor.loaded())
    told(finding, slots.configuration, FAIL, f"mkdir -p -m 700 {folder}", str(conf), kind="no_folder", folder=folder)


@pytest.mark.parametrize(
    ("mode", "kind", "status"), [(0o000, "folder_closed", FAIL), (0o500, "folder_read_only", WARN)]
)
def test_a_token_folder_that_this_user_may_not_use(soft: Soft, mode: int, kind: str, status: Status) -> None:
    tokens = soft.folder / "tokens"
    tokens.chmod(mode)
    try:
        findings = child.ask(SOFTHSM, "softhsm2", {}, prefix=child.POWERLESS)
    finally:
        tokens.chmod(0o700)
    told(child.found(findings, "F51"), slots.configuration, status, str(tokens), "SOFTHSM2_CONF", kind=kind)


def test_a_configuration_that_this_user_may_not_read(soft: Soft) -> None:
    soft.conf.chmod(0)
    findings = child.ask(SOFTHSM, "softhsm2", {}, prefix=child.POWERLESS)
    told(child.found(findings, "F51"), slots.configuration, FAIL, "usermod -aG softhsm", str(soft.conf), kind="closed")


def test_a_soft_token_module_that_nobody_uses_is_no_reason_to_fail(
    doctor: Doctor, softhsm_conf: Callable[[str], Path], tmp_path: Path
) -> None:
    """SoftHSM2 is installed but unused: SOFTHSM2_CONF is not set and the system's token folder is not readable."""
    softhsm_conf(str(tmp_path / "gone"))
    tree = Tree(tmp_path / "machine")
    tree.file("/etc/softhsm/softhsm2.conf", "directories.tokendir = /var/lib/softhsm/tokens/\n")
    loaded = doctor.loaded(root=tree.root, environ=without_variable(CONF_VARIABLE))
    told(
        slots.configuration(loaded),
        slots.configuration,
        WARN,
        "/var/lib/softhsm/tokens/",
        path="/etc/softhsm/softhsm2.conf",
        set=False,
    )
    loaded.file.asked = True
    assert slots.configuration(loaded).status is FAIL


# --- F52: the service behind a module ---------------------------------------------------------------------------------


def test_a_module_whose_service_does_not_run(doctor: Doctor, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "machine")  # other tests run the daemon in separate namespaces
    path = opencryptoki.DRIVER.module_files()[0]
    loaded = doctor.loaded(driver=opencryptoki.DRIVER, path=path, root=tree.root, asked=True)
    facts = {"missing": ["pkcsslotd"], "running": [], "code": "CKR_FUNCTION_FAILED"}
    told(slots.service(loaded), slots.service, FAIL, "systemctl start pkcsslotd", str(path), kind="down", **facts)


def test_a_module_that_does_not_start_though_its_service_runs(doctor: Doctor, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "machine")
    tree.file("/proc/77/comm", "pkcsslotd\n")
    path = opencryptoki.DRIVER.module_files()[0]
    loaded = doctor.loaded(driver=opencryptoki.DRIVER, path=path, root=tree.root, asked=True)
    told(slots.service(loaded), slots.service, FAIL, "CKR_FUNCTION_FAILED", kind="unexplained", running=["pkcsslotd"])


def test_a_module_whose_service_runs(request: pytest.FixtureRequest) -> None:
    with opencryptoki.make(Place(request), Isolation.PROCESS) as subject:
        file = ModuleFile(Machine(SETTINGS), subject.module.path, opencryptoki.DRIVER)
        loaded = load(file)
        try:
            told(slots.service(loaded), slots.service, OK, running=["pkcsslotd"], code=None)
            assert ids(ask_all(slots.LOADED_PROBES, loaded)) == []
        finally:
            loaded.module.close()


def test_a_module_that_refuses_to_start_for_no_known_reason(doctor: Doctor) -> None:
    loaded = doctor.loaded(Fault("C_Initialize", None, returns("CKR_DEVICE_ERROR")), driver=GENERIC)
    told(slots.service(loaded), slots.service, FAIL, "CKR_DEVICE_ERROR", kind="unexplained", services=[])
    assert slots.configuration(loaded).evidence == {"reason": "needs_no_configuration"}


# --- F53, F54: initialised twice, locking -----------------------------------------------------------------------------

# Loads SoftHSM2, forks, uses it in the child, and prints the doctor's finding for the resulting error.
FORK: Final = """
import json, os, sys
from pathlib import Path
from tests.soft import DRIVER, OPTIONS, SETTINGS, SOFTHSM
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.module import Module
from ushield_hw.doctor.probes import slots
from ushield_hw.doctor.inspect.machine import Machine
from ushield_hw.doctor.subjects import Loaded, ModuleFile
from ushield_hw.errors import UShieldError
module = Module(SOFTHSM, Isolation.IN_PROCESS, OPTIONS, 30)
module.slots()
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
loaded = Loaded(ModuleFile(Machine(SETTINGS), SOFTHSM, DRIVER), module)
try:
    loaded.slots = module.slots()
except UShieldError as error:
    loaded.error = error
finding = slots.started_once(loaded)
print(json.dumps([finding.status.value, finding.evidence]), flush=True)
os._exit(0)
"""


def test_a_module_used_in_a_forked_child(soft: Soft) -> None:
    done = subprocess.run([sys.executable, "-c", FORK], cwd=ROOT, capture_output=True, text=True, check=True)
    status, evidence = json.loads(done.stdout)
    finding = Finding("F53", "module.started_once", Status(status), "", evidence)
    told(finding, slots.started_once, FAIL, "fork", "spawn", kind="fork", code="USED_AFTER_FORK")


def test_a_module_that_says_it_was_not_started(doctor: Doctor) -> None:
    loaded = doctor.loaded(Fault("C_GetSlotList", None, returns("CKR_CRYPTOKI_NOT_INITIALIZED")))
    finding = slots.started_once(loaded)
    told(finding, slots.started_once, FAIL, "CKR_CRYPTOKI_NOT_INITIALIZED", "C_Initialize", path=str(loaded.file.path))
    assert slots.service(loaded).status is SKIP


def test_a_module_that_gives_each_caller_another_list_of_functions(doctor: Doctor) -> None:
    loaded = doctor.loaded(Fault("C_GetInfo", None, returns("CKR_CRYPTOKI_NOT_INITIALIZED")))
    told(slots.started_once(loaded), slots.started_once, FAIL, "p11-kit list-modules", kind="proxy")


def test_a_module_that_takes_no_way_of_locking(doctor: Doctor) -> None:
    loaded = doctor.loaded(Fault("C_Initialize", None, returns("CKR_CANT_LOCK")))
    told(slots.locking(loaded), slots.locking, FAIL, "CKR_CANT_LOCK", code="CKR_CANT_LOCK")
    assert slots.service(loaded).status is SKIP


def test_a_module_that_only_wants_no_locks_is_well(doctor: Doctor) -> None:
    told(slots.locking(doctor.loaded(Fault("C_Initialize", None, cant_lock()))), slots.locking, OK, code=None)


# --- F55: slot numbers ------------------------------------------------------------------------------------------------


def test_a_slot_number_that_moved_when_a_token_was_made(softhsm_conf: Callable[[str], Path], doctor: Doctor) -> None:
    (doctor.folder / "tokens").mkdir()
    softhsm_conf(str(doctor.folder / "tokens"))
    before = doctor.choice("pkcs11:slot-id=0")
    assert [slot.slot_id for slot in before.modules[0].slots] == [0]  # the slot number that the user noted
    make_token("first")
    choice = doctor.choice("pkcs11:slot-id=0")
    (uri,) = [token.uri for token in choice.each]
    told(slots.slot_number(choice), slots.slot_number, FAIL, uri, slot=0, tokens=[uri])
    assert [slots.exists(choice).status, slots.one(choice).status] == [SKIP, SKIP]
    there = doctor.choice(f"pkcs11:token=first;slot-id={choice.each[0].link.slot_id}")
    told(slots.slot_number(there), slots.slot_number, WARN, uri, kind="there")


# --- F56: not initialised ---------------------------------------------------------------------------------------------


def test_a_fresh_folder_of_soft_tokens(softhsm_conf: Callable[[str], Path], doctor: Doctor) -> None:
    (doctor.folder / "tokens").mkdir()
    softhsm_conf(str(doctor.folder / "tokens"))
    told(slots.initialised(doctor.loaded()), slots.initialised, FAIL, "ushield softhsm init", kind="soft", slots=[0])
    unused = slots.initialised(doctor.loaded(environ=without_variable(CONF_VARIABLE)))
    told(unused, slots.initialised, SKIP, reason="no_token_made")


def test_a_card_that_was_never_set_up(doctor: Doctor) -> None:
    blank = token_info(clear_flags=TokenFlag.TOKEN_INITIALIZED)
    loaded = doctor.loaded(Fault("C_GetTokenInfo", None, blank), driver=GENERIC)
    (seen, *_) = slots.tokens_of(loaded)
    finding = slots.initialised(loaded)
    told(finding, slots.initialised, FAIL, loaded.slots[0].description, kind="card")
    assert seen.token.link.slot_id in finding.evidence["slots"]


def test_a_blank_card_beside_one_that_is_set_up(doctor: Doctor) -> None:
    """SoftHSM2's uninitialised slot, treated as hardware."""
    loaded = doctor.loaded(driver=GENERIC)
    blank = [slot.slot_id for slot in loaded.slots if slot.token and not slot.token.serial]
    told(slots.initialised(loaded), slots.initialised, WARN, kind="card", slots=blank)


# --- F57, F58: the selector -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [str.upper, lambda label: f"{label} (UserPIN)", lambda label: f"{label}   ", "{:.5}"]
)
def test_a_name_that_is_nearly_a_tokens(doctor: Doctor, change: Callable[[str], str] | str) -> None:
    label = doctor.soft.label
    wanted = change.format(label) if isinstance(change, str) else change(label)
    choice = doctor.choice(wanted)
    finding = slots.exists(choice)
    told(finding, slots.exists, FAIL, label, doctor.soft.serial, kind="near", wanted=wanted)
    assert label in finding.evidence["near"]


def test_a_name_with_another_suffix_than_the_tokens(doctor: Doctor) -> None:
    """OpenSC shows one slot for each PIN of a card, named by a suffix."""
    shows = Fault("C_GetTokenInfo", None, token_info(label="Bank (SignPIN)"))
    loaded = doctor.loaded(shows, selector="Bank (UserPIN)")
    finding = slots.exists(slots.Choice(loaded.file.machine, [loaded], slots.tokens_of(loaded)[:1]))
    told(finding, slots.exists, FAIL, "Bank (SignPIN)", kind="near", near=["Bank (SignPIN)"])


@pytest.mark.parametrize("wanted", ["nobody's", "pkcs11:serial=0000000000000000"])
def test_a_name_that_no_token_bears(doctor: Doctor, wanted: str) -> None:
    finding = slots.exists(doctor.choice(wanted))
    told(finding, slots.exists, FAIL, wanted, doctor.soft.label, doctor.soft.serial, kind="none", near=[])


def test_a_uri_that_is_none(doctor: Doctor) -> None:
    finding = slots.exists(doctor.choice("pkcs11:colour=blue"))
    told(finding, slots.exists, FAIL, "colour", kind="uri", code="URI_INVALID")


def test_a_token_that_is_named_rightly(doctor: Doctor) -> None:
    for wanted in (doctor.soft.serial, doctor.soft.label, doctor.choice(doctor.soft.serial).each[0].uri):
        choice = doctor.choice(wanted)
        assert [slots.exists(choice).status, slots.one(choice).status] == [OK, OK]
    assert ids(ask_all(slots.CHOICE_PROBES, doctor.choice(None))) == []


def test_two_tokens_of_one_name(doctor: Doctor) -> None:
    make_token(doctor.soft.label)
    choice = doctor.choice(doctor.soft.label)
    uris = [token.uri for token in choice.each if token.label == doctor.soft.label]
    told(slots.one(choice), slots.one, FAIL, *uris, count=2, tokens=uris)


def test_one_token_through_two_modules_is_one(doctor: Doctor) -> None:
    choice = doctor.choice(doctor.soft.serial)
    again = doctor.loaded(Fault("C_Sign", 1, returns("CKR_OK")), selector=doctor.soft.serial)
    twice = slots.Choice(choice.machine, [*choice.modules, again], [*choice.tokens, *slots.tokens_of(again)])
    told(slots.one(twice), slots.one, OK, count=1)


# --- F59, F60: lists of slots -----------------------------------------------------------------------------------------


def test_a_token_that_was_made_after_the_module_was_loaded(doctor: Doctor) -> None:
    loaded = doctor.loaded(driver=replace(DRIVER, module=replace(DRIVER.module, relist=False)))  # as SoftHSM2 does
    told(slots.fresh(loaded), slots.fresh, OK, appeared=[], gone=[])
    make_token("later")
    finding = slots.fresh(loaded)
    told(finding, slots.fresh, WARN, "C_Finalize", "later", kind="appeared", gone=[])
    (appeared,) = finding.evidence["appeared"]
    assert appeared.startswith("later (")


def test_a_token_that_went_while_we_looked(doctor: Doctor) -> None:
    loaded = doctor.loaded(driver=replace(DRIVER, module=replace(DRIVER.module, relist=True)))
    for folder in (doctor.soft.folder / "tokens").iterdir():
        folder.rename(doctor.soft.folder / folder.name)
    told(slots.fresh(loaded), slots.fresh, WARN, doctor.soft.serial, kind="gone", appeared=[])


def test_a_slot_that_cannot_be_read_beside_others_that_can(doctor: Doctor) -> None:
    loaded = doctor.loaded(Fault("C_GetSlotInfo", 1, returns("CKR_DATA_LEN_RANGE")))
    told(
        slots.readable(loaded), slots.readable, WARN, "CKR_DATA_LEN_RANGE", kind="broken", codes=["CKR_DATA_LEN_RANGE"]
    )
    assert len(loaded.slots) > 1


def test_no_slot_can_be_read(doctor: Doctor) -> None:
    loaded = doctor.loaded(Fault("C_GetSlotInfo", None, returns("CKR_DATA_LEN_RANGE")))
    told(slots.readable(loaded), slots.readable, FAIL, "CKR_DATA_LEN_RANGE", str(loaded.file.path), kind="broken")


@pytest.mark.parametrize(("asked", "status"), [(False, SKIP), (True, FAIL)])
def test_a_card_that_a_general_module_does_not_know(doctor: Doctor, asked: bool, status: Status) -> None:
    unknown = Fault("C_GetTokenInfo", None, returns("CKR_TOKEN_NOT_RECOGNIZED"))
    loaded = doctor.loaded(unknown, driver=OPENSC, asked=asked)
    told(slots.readable(loaded), slots.readable, status, *(["ushield driver match"] if asked else []))


# --- F61: initialised by the vendor's own tools -----------------------------------------------------------------------

VENDOR: Final = """\
id = "maker"
vendor = "Maker"
product = "Maker's Key"
kind = "token"
interface = "pkcs11"
confidence = "low"
sources = ["a test"]

[module]
linux = ["{module}"]

[[match.atr]]
atr = "{atr}"
"""


@pytest.mark.parametrize(("there", "kind"), [(True, "installed"), (False, "missing")])
def test_a_token_that_only_its_makers_module_reads(tmp_path: Path, there: bool, kind: str) -> None:
    with VirtualShield(model="none", certified=False) as shield:
        module = SOFTHSM if there else tmp_path / "libmaker.so"
        descriptor = tmp_path / "drivers" / "maker.toml"
        descriptor.parent.mkdir()
        descriptor.write_text(VENDOR.format(module=module, atr=shield.card.atr.hex()))
        findings = child.ask(OPENSC.module_files()[0], "opensc", shield.env, drivers=[descriptor.parent])
        expected = {"families": ["Maker's Key"], "modules": [str(SOFTHSM)] if there else []}
        told(child.found(findings, "F61"), slots.formatted_for_us, FAIL, "Maker's Key", kind=kind, **expected)
        descriptor.unlink()
        findings = child.ask(OPENSC.module_files()[0], "opensc", shield.env)
        told(child.found(findings, "F61"), slots.formatted_for_us, SKIP, reason="no_other_family_known")


# --- nothing wrong ----------------------------------------------------------------------------------------------------


def test_a_healthy_module_raises_no_alarm(doctor: Doctor) -> None:
    loaded = doctor.loaded()
    findings = ask_all(slots.LOADED_PROBES, loaded)
    assert ids(findings) == []
    assert json.loads(json.dumps([finding.to_json() for finding in findings])) == [one.to_json() for one in findings]
    for seen in slots.tokens_of(loaded):
        assert ids(ask_all(slots.TOKEN_PROBES, seen)) == []


def test_a_module_for_cards_without_cards_or_their_service_raises_no_alarm(tmp_path: Path) -> None:
    """As in a container where only soft tokens are used."""
    findings = child.ask(OPENSC.module_files()[0], "opensc", {"PCSCLITE_CSOCK_NAME": str(tmp_path / "nobody")})
    assert len(findings) == len(slots.LOADED_PROBES) + 1
    assert ids(findings) == []


def test_a_software_module_without_tokens_raises_no_alarm(softhsm_conf: Callable[[str], Path], doctor: Doctor) -> None:
    """SoftHSM2 installed as a dependency and not used."""
    (doctor.folder / "tokens").mkdir()
    softhsm_conf(str(doctor.folder / "tokens"))
    loaded = doctor.loaded(environ=without_variable(CONF_VARIABLE), root=Tree(doctor.folder / "machine").root)
    assert slots.tokens_of(loaded) == ()
    assert ids(ask_all(slots.LOADED_PROBES[1:], loaded)) == []  # F51 reads files that this machine may not have


# --- SoftHSM2's configuration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "word"),
    [
        ("objectstore.backend = db\ndirectories.tokendir = {folder}\n", "store", "objectstore.backend = file"),
        ("0:{folder}/slot0.db\n1:{folder}/slot1.db\n", "version_1", "softhsm2-migrate"),
    ],
)
def test_a_configuration_that_softhsm2_cannot_use_is_named(
    doctor: Doctor, softhsm_conf: Callable[[str], Path], text: str, kind: str, word: str
) -> None:
    conf = softhsm_conf("unused")
    conf.write_text(text.format(folder=doctor.folder))
    loaded = doctor.loaded()
    found = slots.configuration(loaded)
    assert (found.evidence["kind"], found.status) == (kind, FAIL if loaded.error else WARN)
    told(found, slots.configuration, found.status, str(conf), word)


def test_a_comment_behind_the_folder_is_none_of_its_name(doctor: Doctor, softhsm_conf: Callable[[str], Path]) -> None:
    conf = softhsm_conf(str(doctor.soft.folder / "tokens"))
    conf.write_text(conf.read_text().replace("tokens\n", "tokens # mine\n"))
    told(slots.configuration(doctor.loaded()), slots.configuration, OK, folder=str(doctor.soft.folder / "tokens"))


def test_a_folder_behind_a_closed_one_is_not_said_to_be_missing(soft: Soft) -> None:
    tokens = soft.folder / "tokens"
    soft.conf.write_text(f"directories.tokendir = {tokens / 'inner'}\n")
    tokens.chmod(0)
    try:
        findings = child.ask(SOFTHSM, "softhsm2", {}, prefix=child.POWERLESS)
    finally:
        tokens.chmod(0o700)
    told(child.found(findings, "F51"), slots.configuration, FAIL, "namei -l", kind="above_closed")
