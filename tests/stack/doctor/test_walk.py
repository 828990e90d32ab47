"""A whole diagnosis: which cause comes first, with real readers, virtual cards, soft tokens and broken modules."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.soft import OPTIONS, SETTINGS, SOFTHSM
from tests.stack.doctor.modules import LIST, Compile, built
from tests.stack.doctor.test_objects import hide
from tests.stack.doctor.walking import Walked, walk
from tests.stack.virtual.desks import Blank
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ObjectClass
from ushield_hw.backend.module import Module
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.drivers.descriptor import parse
from ushield_hw.testing.faulty import Action, Fault, FaultyModule, crashes, faulty_module, hangs, returns, token_info
from ushield_hw.testing.readers import PcscHost
from ushield_hw.testing.shield import VirtualShield
from ushield_hw.testing.softhsm import CONF_VARIABLE, provision
from ushield_hw.testing.softtoken import SoftToken, soft_token

__all__ = ["built"]
pytestmark = pytest.mark.stack

STRANGE = "3b86800155534b2d3039"
SPENDS = {"C_Login", "C_SetPIN", "C_InitPIN", "C_InitToken"}


class Speaks(Blank):
    """A card with the given ATR."""

    def __init__(self, atr: str) -> None:
        super().__init__()
        self.atr = bytes.fromhex(atr)


@pytest.fixture(scope="module")
def soft(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    """A soft token that can sign, and an empty one. Shared: for tests that change nothing."""
    return soft_token(tmp_path_factory.mktemp("walk") / "soft")


@pytest.fixture(scope="module")
def shields() -> Iterator[tuple[VirtualShield, VirtualShield]]:
    """Two U-shields in two readers. Each test leaves them inserted and unchanged."""
    with (
        PcscHost(("First", "Second")) as desk,
        VirtualShield(host=desk, serial="WALK1") as one,
        VirtualShield(host=desk, reader=1, serial="WALK2") as two,
    ):
        yield one, two


@pytest.fixture
def one(shields: tuple[VirtualShield, VirtualShield]) -> Iterator[VirtualShield]:
    """The first U-shield; the second is removed."""
    one, two = shields
    two.eject()
    yield one
    two.insert()


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """The path at which a test builds its module."""
    return tmp_path / "module.so"


def faulty(folder: Path, *plan: Fault) -> FaultyModule:
    """Create a faulty module that wraps SoftHSM2."""
    return faulty_module(folder, SOFTHSM, plan)


def tries(shield: VirtualShield) -> tuple[int, int]:
    """Return the attempts remaining for both PINs, as stored on the card."""
    return shield.card.memory.secrets["user"].left, shield.card.memory.secrets["so"].left


# --- machines on which nothing is wrong -------------------------------------------------------------------------------


def test_no_token_at_all_but_the_service_runs(tmp_path: Path) -> None:
    with PcscHost() as desk:
        found = walk(tmp_path, desk.env)
    found.names("D29", 3, "Virtual U-shield")
    assert found.failures == []
    assert found.report["skeleton"] is None


def test_a_soft_token_that_can_sign_needs_no_service(tmp_path: Path, soft: SoftToken) -> None:
    found = walk(tmp_path, soft.env)
    found.is_well(soft.serial)
    (service,) = (one for one in found.report["findings"] if one["id"] == "B11")
    assert (service["status"], service["evidence"]["reason"]) == ("skip", "soft_token")
    assert found.report["skeleton"] is None


def test_a_shield_that_can_sign(tmp_path: Path, one: VirtualShield) -> None:
    before = tries(one)
    found = walk(tmp_path, one.host_env, cards=1)
    found.is_well(one.serial)
    assert found.report["usable"][0]["subject"] == "CN=张三,O=Demo Bank"
    assert tries(one) == before


def test_two_shields_and_a_soft_token(
    tmp_path: Path, shields: tuple[VirtualShield, VirtualShield], soft: SoftToken
) -> None:
    found = walk(tmp_path, shields[0].host_env, soft.env, cards=2)
    assert {token["serial"] for token in found.report["usable"]} == {"WALK1", "WALK2", soft.serial}
    assert (found.named, found.outcome, found.failures, found.left) == (None, 0, [], [])


# --- services and cards -----------------------------------------------------------------------------------------------


def test_a_service_that_does_not_run_is_named_where_no_soft_token_can_sign(tmp_path: Path) -> None:
    found = walk(tmp_path)
    found.names("B11", 3, "sudo systemctl enable --now pcscd.socket", name="SCARD_E_NO_SERVICE")
    noise = [one["id"] for one in found.report["findings"] if one["status"] == "warn"]
    assert noise == ["B11"]  # modules for cards fail too and add nothing


def test_a_card_that_nobody_knows_comes_with_the_beginning_of_a_descriptor(tmp_path: Path, soft: SoftToken) -> None:
    with PcscHost() as desk:
        desk.insert(Speaks(STRANGE))
        found, beside = walk(tmp_path, desk.env, cards=1), walk(tmp_path, desk.env, soft.env, cards=1)
    found.names("D37", 3, STRANGE, "ushield driver check", atr=STRANGE)
    assert beside.named is None
    for text in (found.report["skeleton"], beside.report["skeleton"]):
        file = tmp_path / "strange" / "virtual-u-shield.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text.replace("linux = [\n]", f'linux = ["{SOFTHSM}"]'))
        assert parse(file, file.read_bytes()).atrs[0].matches(bytes.fromhex(STRANGE))
        assert Catalogue([file.parent]).for_atr(bytes.fromhex(STRANGE))


# --- tokens that cannot sign ------------------------------------------------------------------------------------------


def test_a_locked_shield(tmp_path: Path, one: VirtualShield, soft: SoftToken) -> None:
    pin = one.card.memory.secrets["user"]
    tries_left, pin.left = pin.left, 0
    try:
        found = walk(tmp_path, one.host_env, cards=1)
        asked = walk(tmp_path, one.host_env, soft.env, cards=1, selector=one.serial)
        beside = walk(tmp_path, one.host_env, soft.env, cards=1)
    finally:
        pin.left = tries_left
    found.names("G64", 5, one.serial)
    asked.names("G64", 5, one.serial)  # although another token can sign
    assert (beside.named, [token["serial"] for token in beside.report["usable"]]) == (None, [soft.serial])


def test_an_expired_certificate(tmp_path: Path, soft: SoftToken) -> None:
    later = datetime.now(UTC) + timedelta(days=200)
    found = walk(tmp_path, soft.env, now=later.isoformat())
    found.names("H72", 6, "张三", kind="expired")


def test_an_empty_soft_token_is_named_last_but_before_a_service_that_nobody_misses(
    tmp_path: Path, soft: SoftToken
) -> None:
    env = {CONF_VARIABLE: str(_two_tokens(tmp_path / "two", "empty"))}
    found = walk(tmp_path, env)
    found.names("G65", 3, "ushield pin unblock", label="empty")
    assert "H71" in found.failures
    (tmp_path / "broken.so").write_bytes(SOFTHSM.read_bytes()[:5000])
    walk(tmp_path, env, module_files=[tmp_path / "broken.so"]).names("E43", 3, "broken.so")


def test_a_soft_token_of_which_everything_hides_is_usable_with_a_warning(tmp_path: Path, soft: SoftToken) -> None:
    hidden = soft.copy(tmp_path / "hidden")
    hide(hidden.softhsm2_conf, hidden.serial, hidden.pin, ObjectClass.CERTIFICATE, ObjectClass.PUBLIC_KEY)
    found = walk(tmp_path, hidden.env)
    found.is_well(hidden.serial)
    assert found.report["usable"][0]["certain"] is False
    told = {one["subject"]: one for one in found.report["findings"] if one["id"] == "H71"}
    one = told[f"{hidden.label} ({hidden.serial})"]
    assert (one["status"], one["evidence"]["kind"]) == ("warn", "hidden")
    assert f"ushield key list --token '{hidden.uri}' --pin-source" in one["remedy"]


def test_a_soft_token_that_was_just_set_up_is_empty(tmp_path: Path) -> None:
    made = provision(tmp_path / "new", SETTINGS)
    walk(tmp_path, {CONF_VARIABLE: str(made.conf)}).names("H71", 6, "ushield cert request", kind="nothing")


def test_two_tokens_of_one_name(tmp_path: Path) -> None:
    env = {CONF_VARIABLE: str(_two_tokens(tmp_path / "two", "pay", "pay"))}
    walk(tmp_path, env, selector="pay").names("F58", 3, "pay", count=2, wanted="pay")
    walk(tmp_path, env, selector="PAY").names("F57", 3, "pay", kind="near")


def test_a_name_that_no_token_bears_though_another_token_can_sign(tmp_path: Path, soft: SoftToken) -> None:
    walk(tmp_path, soft.env, selector="00000000").names("F57", 3, "00000000", kind="none")
    walk(tmp_path, soft.env, selector=soft.serial).is_well(soft.serial)


@pytest.fixture
def vendors(tmp_path: Path) -> dict[str, list[Path]]:
    """A module known by its descriptor that fails to initialise, and an unknown one."""
    broken = faulty(tmp_path / "vendor", Fault("C_Initialize", None, returns("CKR_GENERAL_ERROR"))).path
    unknown = faulty(tmp_path / "unknown", Fault("C_Initialize", None, returns("CKR_DEVICE_ERROR"))).path
    folder = tmp_path / "vendors"
    folder.mkdir()
    (folder / "vendor.toml").write_text(
        'id = "vendor"\nvendor = "Another"\nproduct = "Key"\nkind = "hsm"\ninterface = "pkcs11"\nconfidence = "low"\n'
        f'sources = ["a test"]\n[module]\nlinux = ["{broken}"]\n'
    )
    return {"drivers": [folder], "module_files": [unknown]}


def test_a_named_token_is_well_whatever_another_vendors_module_does(
    tmp_path: Path, soft: SoftToken, vendors: dict[str, list[Path]]
) -> None:
    with PcscHost() as desk:
        for selector in (soft.serial, soft.uri.partition("?")[0]):
            found = walk(tmp_path, soft.env, desk.env, selector=selector, **vendors)
            found.is_well(soft.serial)
            assert _told_of_others(found) == {("F52", "vendor", True), ("F52", "unknown", True)}


def test_of_a_named_token_its_own_cause_comes_first(
    tmp_path: Path, soft: SoftToken, vendors: dict[str, list[Path]]
) -> None:
    later = (datetime.now(UTC) + timedelta(days=200)).isoformat()
    with PcscHost() as desk:
        for selector in (soft.serial, soft.label):
            found = walk(tmp_path, soft.env, desk.env, selector=selector, now=later, **vendors)
            found.names("H72", 6, "张三", kind="expired")
            assert found.report["first"]["subject"] == f"{soft.label} ({soft.serial})"
            assert _told_of_others(found) == {("F52", "vendor", True), ("F52", "unknown", True)}


def _told_of_others(found: Walked) -> set[tuple[str, str, bool]]:
    """Return the findings on modules that fail to initialise: cause, module, and whether it was set aside."""
    telling = [one for one in found.report["findings"] if one["status"] in {"warn", "fail"}]
    return {
        (one["id"], Path(one["subject"]).parent.name, one["unrelated"]) for one in telling if "faulty" in one["subject"]
    }


# --- a module file named by the user ----------------------------------------------------------------------------------


def truncated(file: Path, _: Compile) -> None:
    file.write_bytes(SOFTHSM.read_bytes()[:5000])


def foreign(file: Path, _: Compile) -> None:
    image = bytearray(SOFTHSM.read_bytes())
    image[18:20] = (0xB7).to_bytes(2, "little")  # AArch64
    file.write_bytes(image)


def skf(file: Path, built: Compile) -> None:
    built("int SKF_EnumDev(void) { return 0; }\n", name=file.name)


def crashing(file: Path, built: Compile) -> None:
    built(LIST + "void __attribute__((constructor)) begin(void) { __builtin_trap(); }\n", name=file.name)


def hanging(file: Path, built: Compile) -> None:
    built(LIST + "#include <unistd.h>\nvoid __attribute__((constructor)) begin(void) { pause(); }\n", name=file.name)


def web_page(file: Path, _: Compile) -> None:
    file.write_text("<!DOCTYPE html><title>404</title>")


@pytest.mark.parametrize(
    ("make", "identity"),
    [(truncated, "E43"), (foreign, "E44"), (skf, "E46"), (crashing, "E47"), (hanging, "E48"), (web_page, "E42")],
    ids=lambda given: getattr(given, "__name__", given),
)
def test_a_module_that_somebody_names_is_told_of_before_all_that_lies_before_it(
    tmp_path: Path, module: Path, built: Compile, make: object, identity: str
) -> None:
    make(module, built)  # type: ignore[operator]
    module.chmod(0o755)
    found = walk(tmp_path, module=module, deadline_s=2.0)
    found.names(identity, 3, str(module))
    asked = {one["id"]: one["status"] for one in found.report["findings"]}
    assert asked["B11"] == "warn"
    assert ("E47" in asked) == (identity in {"E47", "E48"})  # a file found to be broken is not loaded


def test_a_module_that_somebody_names_is_told_of_before_a_card_that_fails(tmp_path: Path, module: Path) -> None:
    module.write_bytes(SOFTHSM.read_bytes()[:5000])
    with PcscHost() as desk:
        desk.insert(Speaks("00000000"))
        mute = walk(tmp_path, desk.env, cards=1)
        found = walk(tmp_path, desk.env, cards=1, module=module)
    mute.names("D30", 3, "00000000")
    found.names("E43", 3, str(module))
    assert "D30" in found.failures


def test_a_named_module_with_which_nothing_is_wrong_leads_back_to_what_lies_before_it(tmp_path: Path) -> None:
    opensc = next(path for path in Path("/usr/lib").glob("*/opensc-pkcs11.so"))
    walk(tmp_path, module=opensc).names("B11", 3, "pcscd.socket")


def test_five_modules_that_hang_cost_one_deadline_together(tmp_path: Path) -> None:
    made = [faulty(tmp_path / str(number), Fault("C_Initialize", None, hangs())) for number in range(5)]
    found = walk(tmp_path, module_files=[one.path for one in made], deadline_s=4.0)
    assert found.seconds < 4 * 4.0  # sequentially it would take 20 s
    assert found.failures == ["E48"] * 5
    found.names("E48", 3, str(made[0].path))


@pytest.mark.parametrize("function", ["C_FindObjectsInit", "C_GetMechanismList"])
@pytest.mark.parametrize(
    ("action", "identity", "word"),
    [
        (crashes(), "E47", "SIGSEGV"),
        (hangs(), "E48", "faulty"),
        (returns("CKR_DEVICE_ERROR"), "F60", "CKR_DEVICE_ERROR"),
    ],
    ids=["crashes", "hangs", "refuses"],
)
def test_a_module_that_fails_over_a_token(
    tmp_path: Path, soft: SoftToken, function: str, action: Action, identity: str, word: str
) -> None:
    broken = faulty(tmp_path / "faulty", Fault(function, None, action))
    found = walk(tmp_path, soft.env, module=broken.path, deadline_s=3.0)
    found.names(identity, 3, word)
    assert found.seconds < 2 * 3.0  # it is not queried again


def test_no_pin_is_tried_and_nothing_is_changed(tmp_path: Path, soft: SoftToken) -> None:
    watched = faulty(tmp_path / "faulty", Fault("C_GetTokenInfo", None, token_info()))
    found = walk(tmp_path, soft.env, drivers=[watched.drivers])
    assert soft.serial in {token["serial"] for token in found.report["usable"]}
    called = {call.function for call in watched.calls}
    assert "C_GetTokenInfo" in called
    assert called & SPENDS == set()
    assert not [name for name in called if name.startswith(("C_Create", "C_Destroy", "C_Generate", "C_SetAttribute"))]


def _two_tokens(folder: Path, *labels: str) -> Path:
    """Initialise soft tokens with these labels and no keys; return the value for SOFTHSM2_CONF."""
    (folder / "tokens").mkdir(parents=True)
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    for label in labels:
        module = Module(SOFTHSM, Isolation.PROCESS, OPTIONS, 30, {CONF_VARIABLE: os.fspath(conf)})
        try:
            free = next(slot for slot in module.slots() if slot.token and not slot.token.serial)
            module.init_token(free.slot_id, "87654321", label)
        finally:
            module.close()
    return conf
