"""Layer H: objects on a token, up to the pair that would sign, without a login; also while a U-shield waits."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.soft import DRIVER, OPTIONS, SETTINGS, SOFTHSM
from tests.stack.doctor import child
from tests.stack.doctor.conftest import Doctor, ids
from tests.unit.doctor.recorded import told
from tests.unit.order.samples import live, payment
from ushield_hw.backend.interface import Isolation
from ushield_hw.backend.model import ObjectClass, TokenFlag, User
from ushield_hw.backend.module import Module, close_modules
from ushield_hw.cms.certificate import CertificateFacts
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.der import integer
from ushield_hw.doctor.finding import Status, ask_all
from ushield_hw.doctor.probes import objects
from ushield_hw.doctor.subjects import TokenSeen
from ushield_hw.drivers.catalogue import Catalogue
from ushield_hw.drivers.family import HashOn
from ushield_hw.order import KeyUse
from ushield_hw.signing.order import sign
from ushield_hw.testing.authority import person
from ushield_hw.testing.faulty import Fault, mechanisms, token_info
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.shield import VirtualShield
from ushield_hw.testing.softhsm import CONF_VARIABLE
from ushield_hw.token.choice import find_token
from ushield_hw.token.key_pairs import PENDING, session_pairs
from ushield_hw.token.selection import select
from ushield_hw.token.session import open_session

pytestmark = pytest.mark.stack

OK, WARN, FAIL, SKIP = Status.OK, Status.WARN, Status.FAIL, Status.SKIP
NOW: Final = datetime.now(UTC).replace(microsecond=0)
DAY: Final = timedelta(days=1)
SIGNING: Final = ("digital_signature", "content_commitment")
ENCRYPTING: Final = ("key_encipherment", "data_encipherment")
PAY, P384, RSA = b"\1", b"\2", b"\3"  # ids of the keys on each copy
ISSUER: Final = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Writer:
    """Writes objects to the soft token, as a bank's own tools would."""

    doctor: Doctor

    def certificate(  # noqa: PLR0913 - all have defaults
        self,
        key: bytes | Any = PAY,
        *,
        usage: tuple[str, ...] | None = SIGNING,
        name: str = "张三",
        key_id: bytes | None = None,
        label: str = "pay",
        begins: timedelta = -DAY,
        ends: timedelta = 90 * DAY,
        ca: bool = False,
    ) -> None:
        """Write a certificate for one of the token's keys, or for a key that is not on the token."""
        with Open(self.doctor) as (module, login, slot):
            public = self._public(module, slot, key) if isinstance(key, bytes) else key
            der = issued(public, usage=usage, name=name, begins=begins, ends=ends, ca=ca)
            facts = CertificateFacts.read(der)
            stands = key_id if key_id is not None else key if isinstance(key, bytes) else b"\x77"
            names = {"subject": facts.subject, "issuer": facts.issuer, "serial": integer(facts.serial)}
            module.write_certificate(login, der, key_id=stands, label=label, **names)

    def nonsense(self) -> None:
        """Write a certificate object with invalid content."""
        with Open(self.doctor) as (module, login, _):
            module.write_certificate(login, b"nonsense", key_id=PAY, label="", subject=b"", issuer=b"", serial=b"")

    def generate(self, kind: KeyKind, bits: int, key_id: bytes, label: str = "") -> None:
        """Generate a key pair on the token."""
        with Open(self.doctor) as (module, login, _):
            module.generate(login, kind, bits, key_id, label, always_authenticate=False)

    def remove_keys(self, private: bool | None = None) -> None:
        """Delete all keys, or all private or public ones."""
        with Open(self.doctor) as (module, login, slot):
            for key in module.keys(slot):
                if private in {None, key.private}:
                    module.destroy(login, key.handle)

    def hide(self, *kinds: ObjectClass) -> None:
        """Hide every object of these classes until login."""
        hide(self.doctor.soft.conf, self.doctor.soft.serial, self.doctor.soft.pin, *kinds)

    @staticmethod
    def _public(module: Module, slot: int, key_id: bytes) -> Any:
        (key,) = (key for key in module.keys(slot) if not key.private and key.key_id == key_id)
        assert key.public is not None
        if key.kind is KeyKind.RSA:
            return rsa.RSAPublicNumbers(65537, int.from_bytes(key.public, "big")).public_key()
        curve = ec.SECP384R1() if key.kind is KeyKind.EC_P384 else ec.SECP256R1()
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, key.public)


def hide(conf: Path, serial: str, pin: str, *kinds: ObjectClass) -> None:
    """Hide every object of these classes on a soft token until login: each is replaced by a private copy."""
    script = (
        "import sys, pkcs11; from pkcs11 import Attribute as A, ObjectClass as C;"
        "path, serial, *kinds = sys.argv[1:];"
        "token = next(t for t in pkcs11.lib(path).get_tokens() if t.serial == serial.encode());"
        "session = token.open(rw=True, user_pin=sys.stdin.readline().strip());"
        "found = [o for kind in kinds for o in session.get_objects({A.CLASS: C[kind]})];"
        "assert found;"
        "[(o.copy({A.PRIVATE: True}), o.destroy()) for o in found]"
    )
    command = [sys.executable, "-c", script, str(SOFTHSM), serial, *(kind.name for kind in kinds)]
    env = {**os.environ, CONF_VARIABLE: str(conf)}
    subprocess.run(command, input=pin, text=True, env=env, check=True, timeout=60)


class Open:
    """A logged-in session with the token in its own worker."""

    def __init__(self, doctor: Doctor) -> None:
        self._soft = doctor.soft

    def __enter__(self) -> tuple[Module, int, int]:
        self._module = Module(SOFTHSM, Isolation.PROCESS, OPTIONS, 30, {CONF_VARIABLE: str(self._soft.conf)})
        slot = self._soft.info(self._module).slot_id
        return self._module, self._module.login(slot, User.USER, self._soft.pin), slot

    def __exit__(self, *_: object) -> None:
        self._module.close()


def issued(
    public: Any, *, usage: tuple[str, ...] | None, name: str, begins: timedelta, ends: timedelta, ca: bool
) -> bytes:
    """Return a certificate (DER)."""
    builder = (
        x509.CertificateBuilder(person("Test CA"), person(name), public, x509.random_serial_number())
        .not_valid_before(NOW + begins)
        .not_valid_after(NOW + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(key_usage(*usage), critical=True)
    return builder.sign(ISSUER, hashes.SHA256()).public_bytes(Encoding.DER)


def key_usage(*allowed: str) -> x509.KeyUsage:
    signing = ("digital_signature", "content_commitment", "key_cert_sign", "crl_sign")
    names = (*signing, "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in allowed for name in names})


def elsewhere() -> Any:
    """Return the public key of a pair that is on no token."""
    return ec.generate_private_key(ec.SECP256R1()).public_key()


@pytest.fixture
def writer(doctor: Doctor) -> Writer:
    return Writer(doctor)


def seen(doctor: Doctor, *plan: Fault, **how: Any) -> TokenSeen:
    return doctor.seen(*plan, **how)


def asking(doctor: Doctor, what: str) -> TokenSeen:
    """Return the token, selected by one of its objects."""
    return doctor.seen(selector=f"pkcs11:{what}")


# --- usable -----------------------------------------------------------------------------------------------------------


def test_the_pair_that_a_signature_would_take_is_told_without_a_login(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(PAY, label="older", begins=-9 * DAY)
    writer.certificate(RSA, label="newer")
    writer.certificate(P384, label="newest, for encryption", usage=ENCRYPTING, begins=timedelta(0))
    found = objects.usable(seen(doctor))
    with open_session(doctor.soft.link(doctor.soft.module()), Scripted(doctor.soft.pin), "sign") as session:
        chosen = select(session_pairs(session), KeyUse.PAYMENT).pair
    assert found is not None and chosen is not None
    assert found.certificate.der == chosen.certificate.der
    assert found.certificate.label == "newer"


def test_nothing_is_usable_where_a_signature_would_be_refused(doctor: Doctor, writer: Writer) -> None:
    assert objects.usable(seen(doctor)) is None
    writer.certificate(PAY, usage=("digital_signature",))
    assert objects.usable(seen(doctor)) is None


def test_a_certificate_of_an_authority_is_nobodys(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(PAY)
    writer.certificate(elsewhere(), name="Root CA", usage=None, ca=True)
    found = objects.usable(seen(doctor))
    assert found is not None
    assert found.key_id == PAY.hex()
    assert ids(ask_all(objects.TOKEN_PROBES, seen(doctor))) == []


# --- H68 to H71: presence, and matching of keys and certificates ------------------------------------------------------


def test_keys_that_hide_until_login_are_no_fault(doctor: Doctor, writer: Writer) -> None:
    writer.certificate()
    told(objects.visible(seen(doctor)), objects.visible, OK, private_keys=0, hidden_until_login=True)


def test_a_certificate_whose_key_may_hide_until_a_login(doctor: Doctor, writer: Writer) -> None:
    writer.certificate()
    open_token = Fault("C_GetTokenInfo", None, token_info(clear_flags=TokenFlag.LOGIN_REQUIRED))
    told(objects.visible(seen(doctor, open_token)), objects.visible, OK, private_keys=0, hidden_until_login=True)
    writer.remove_keys()
    unknown = replace(DRIVER, module=replace(DRIVER.module, config_env=None))
    finding = objects.visible(seen(doctor, driver=unknown))
    told(finding, objects.visible, WARN, "PIN", "张三", kind="key", private_keys=0, hidden_until_login=True)
    # SoftHSM2's files show that there is none
    told(objects.visible(seen(doctor)), objects.visible, FAIL, "张三", "ushield cert request", hidden_until_login=False)


def test_a_certificate_with_another_id_than_its_key(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(PAY, key_id=b"\x99")
    look = seen(doctor)
    told(objects.ids(look), objects.ids, WARN, "99 / 01", "pkcs11-tool", "张三", kind="elsewhere", ids=["99 / 01"])
    assert objects.usable(look) is not None


def test_a_certificate_of_another_key_under_the_id_of_one(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(elsewhere(), key_id=PAY)
    told(objects.ids(seen(doctor)), objects.ids, FAIL, "ushield cert install", "张三", kind="another", ids=["01"])
    writer.certificate(RSA, label="good", name="李四")
    told(objects.ids(seen(doctor)), objects.ids, WARN, kind="another", owners=["CN=张三,O=Demo Bank"])


def test_a_certificate_and_its_key_with_one_id(doctor: Doctor, writer: Writer) -> None:
    assert objects.ids(seen(doctor)).status is SKIP
    writer.certificate()
    told(objects.ids(seen(doctor)), objects.ids, OK, certificates=1)


def test_a_key_without_a_label_that_was_asked_for_by_one(doctor: Doctor, writer: Writer) -> None:
    writer.generate(KeyKind.EC_P256, 0, b"\x55")
    writer.certificate(b"\x55", label="")
    look = asking(doctor, "object=shop")
    told(
        objects.label(look), objects.label, FAIL, "--key-id", "55", kind="unlabelled", unlabelled=["55"], wanted="shop"
    )
    told(objects.label(asking(doctor, "object=pay")), objects.label, OK)
    told(objects.label(seen(doctor)), objects.label, OK, unlabelled=["55"])


def test_a_label_or_an_id_that_nothing_bears(doctor: Doctor, writer: Writer) -> None:
    writer.certificate()
    told(objects.label(asking(doctor, "object=shop")), objects.label, FAIL, "pay", "--key-id", kind="label")
    told(objects.label(asking(doctor, "id=%AB")), objects.label, FAIL, "ab", "--key-id", kind="id", wanted="ab")
    told(objects.label(asking(doctor, "id=%01")), objects.label, OK)


def test_a_token_with_keys_and_no_certificate(doctor: Doctor) -> None:
    look = seen(doctor)
    keys = ["01", "02", "03", "04"]
    told(objects.present(look), objects.present, SKIP, reason="hidden_until_login", keys=keys)
    told(objects.visible(look), objects.visible, WARN, "ushield cert install", "01, 02, 03", kind="certificate")


def test_a_token_with_nothing_on_it(doctor: Doctor, writer: Writer) -> None:
    writer.remove_keys()
    told(objects.present(seen(doctor)), objects.present, FAIL, "ushield cert request", kind="nothing", keys=[])


def test_a_certificate_object_that_is_none(doctor: Doctor, writer: Writer) -> None:
    writer.nonsense()
    told(objects.present(seen(doctor)), objects.present, FAIL, "X.509", kind="unreadable", unread=1)


def test_a_renewal_that_was_not_finished(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(label=f"pay{PENDING}")
    told(objects.present(seen(doctor)), objects.present, FAIL, "ushield cert renew", kind="pending")


def test_only_certificates_of_authorities(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(elsewhere(), name="Root CA", usage=None, ca=True)
    told(objects.present(seen(doctor)), objects.present, FAIL, "Root CA", kind="authority")


# --- H72: validity, key usage, clock ----------------------------------------------------------------------------------


def test_an_expired_certificate(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(begins=-90 * DAY, ends=-2 * DAY)
    ended = f"{NOW - 2 * DAY:%Y-%m-%dT%H:%M:%SZ}"
    told(objects.valid(seen(doctor)), objects.valid, FAIL, ended, "date -u", kind="expired", not_after=ended)


def test_a_certificate_from_tomorrow_on(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(begins=DAY)
    told(objects.valid(seen(doctor)), objects.valid, FAIL, "timedatectl", "张三", kind="early")


@pytest.mark.parametrize("clock", [datetime(2001, 1, 1, tzinfo=UTC), NOW + 3650 * DAY])
def test_a_clock_that_cannot_be_right_is_said_before_the_certificate(
    doctor: Doctor, writer: Writer, clock: datetime
) -> None:
    writer.certificate()
    finding = objects.valid(seen(doctor, now=clock))
    told(finding, objects.valid, FAIL, "timedatectl", f"{clock:%Y-%m-%dT}", kind="clock")


def test_a_certificate_that_ends_soon(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(ends=10 * DAY)
    told(objects.valid(seen(doctor, now=NOW)), objects.valid, WARN, "ushield cert renew", kind="ending", days=10)


def test_a_certificate_that_may_not_sign_payments(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(usage=("digital_signature",))
    told(objects.valid(seen(doctor)), objects.valid, FAIL, "nonRepudiation", kind="usage", usage=["digitalSignature"])


def test_an_rsa_key_that_is_too_short(doctor: Doctor, writer: Writer) -> None:
    writer.generate(KeyKind.RSA, 1024, b"\x66")
    writer.certificate(b"\x66")
    told(objects.valid(seen(doctor)), objects.valid, FAIL, "1024", "rsa-2048", kind="weak", bits=[1024])


def test_an_old_certificate_beside_its_renewal_is_no_fault(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(PAY, begins=-90 * DAY, ends=-DAY)
    writer.certificate(RSA)
    told(objects.valid(seen(doctor)), objects.valid, OK, key_id="03")


# --- H73: two certificates --------------------------------------------------------------------------------------------


def test_the_certificate_for_encryption_was_asked_for(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(PAY, label="sign")
    writer.certificate(P384, label="encrypt", usage=ENCRYPTING)
    told(objects.purpose(seen(doctor)), objects.purpose, OK, signing=["01"], encrypting=["02"])
    for what in ("id=%02", "object=encrypt"):
        told(objects.purpose(asking(doctor, what)), objects.purpose, FAIL, "--key-id 01", kind="asked", signing=["01"])
    told(objects.purpose(asking(doctor, "object=sign")), objects.purpose, OK)


def test_only_the_certificate_for_encryption_is_there(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(usage=ENCRYPTING)
    told(objects.purpose(seen(doctor)), objects.purpose, FAIL, "张三", kind="only", encrypting=["01"])
    assert ids(ask_all(objects.TOKEN_PROBES, seen(doctor))) == [
        "H68",
        "H73",
    ]  # there are also keys without a certificate; one cause is reported, not two


def test_certificates_of_two_people(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(PAY)
    writer.certificate(RSA, name="李四")
    told(objects.purpose(seen(doctor)), objects.purpose, FAIL, "--key-id", "张三", "李四", kind="several")
    told(objects.purpose(asking(doctor, "id=%03")), objects.purpose, OK)


def test_a_key_that_may_not_sign(doctor: Doctor, writer: Writer) -> None:
    """Private keys visible without a login, as the token would look after one."""
    writer.certificate()
    look = seen(doctor)
    with Open(doctor) as (module, _, slot):
        look.__dict__["keys"] = tuple(replace(key, can_sign=False) for key in module.keys(slot))
    told(objects.purpose(look), objects.purpose, FAIL, "CKA_SIGN", kind="barred")


# --- H74: mechanisms --------------------------------------------------------------------------------------------------

ECDSA, RSA_X509, RSA_PKCS = 0x1041, 0x3, 0x1


def test_a_token_without_the_mechanism_that_its_key_needs(doctor: Doctor, writer: Writer) -> None:
    writer.certificate()
    look = seen(doctor, Fault("C_GetMechanismList", None, mechanisms(hide=[ECDSA])))
    finding = objects.mechanisms(look)
    told(finding, objects.mechanisms, FAIL, "ECDSA", "ec-p256", kind="none", keys=["ec-p256"])
    assert finding.evidence["wanted"] == ["ECDSA", "ECDSA_SHA256"]
    told(objects.mechanisms(seen(doctor)), objects.mechanisms, OK, keys=["ec-p256"])


def test_a_token_that_is_said_to_hash_and_does_not(doctor: Doctor, writer: Writer) -> None:
    writer.certificate()
    driver = replace(DRIVER, sign=replace(DRIVER.sign, hash_on=HashOn.TOKEN))
    finding = objects.mechanisms(seen(doctor, driver=driver))
    told(finding, objects.mechanisms, FAIL, "ECDSA_SHA256", "hash_on", kind="on_token", wanted=["ECDSA_SHA256"])


def test_a_certificate_with_a_key_that_no_signed_order_has(doctor: Doctor, writer: Writer) -> None:
    writer.certificate(ec.generate_private_key(ec.SECP521R1()).public_key())
    finding = objects.mechanisms(seen(doctor))
    told(finding, objects.mechanisms, FAIL, "SM2", "SKF", kind="key", owners=["CN=张三,O=Demo Bank"])
    assert ids(ask_all(objects.TOKEN_PROBES, seen(doctor))) == ["H68", "H74"]  # as above


# --- H75, H76: PIN for each signature, confirmation on the token ------------------------------------------------------


def test_keys_that_hide_do_not_say_whether_they_want_the_pin_each_time(doctor: Doctor) -> None:
    told(objects.each_signature(seen(doctor)), objects.each_signature, SKIP, reason="keys_hide_until_login")
    look = seen(doctor)
    with Open(doctor) as (module, _, slot):  # visible on a token that does not hide private keys
        look.__dict__["keys"] = module.keys(slot)
    told(objects.each_signature(look), objects.each_signature, OK, each_signature=True, keys=["04"])
    told(objects.confirmation(look), objects.confirmation, OK, asks="none")


def test_a_u_shield_that_is_well() -> None:
    with VirtualShield() as shield:
        findings = child.ask(opensc(), "opensc", shield.env)
    assert ids(findings) == []
    told(child.found(findings, "H75"), objects.each_signature, OK, each_signature=True, driver=True)
    told(child.found(findings[9:], "H76"), objects.confirmation, OK, asks="display", timeout_s=60)
    told(child.found(findings, "H72"), objects.valid, OK)


def test_a_u_shield_that_waits_for_its_owner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with VirtualShield() as shield, ThreadPoolExecutor(1) as aside:
        for name, value in shield.env.items():
            monkeypatch.setenv(name, value)
        close_modules()
        signing = aside.submit(_sign, shield)
        shield.wait_for_screen()
        findings = child.ask(opensc(), "opensc", shield.env, deadline_s=2, state=tmp_path / "another")
        shield.press("ok")
        assert signing.result(30)
        close_modules()
    waiting = child.found(findings, "H76")
    told(waiting, objects.waiting, WARN, "OK", kind="waiting", seconds=2)
    assert any("Virtual U-shield" in family for family in waiting.evidence["families"])


def _sign(shield: VirtualShield) -> bool:
    order = payment(**live(datetime.now(UTC)), tx_id=str(uuid.uuid4()))
    with find_token(shield.uri).open(Scripted(shield.pin, shield.pin)) as session:
        return bool(sign(order, session).der)


def opensc() -> Path:
    return Catalogue(SETTINGS.drivers).get("opensc").module_files()[0]


# --- nothing wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [PAY, P384, RSA])
def test_a_healthy_token_raises_no_alarm(doctor: Doctor, writer: Writer, key: bytes) -> None:
    writer.certificate(key)
    assert ids(ask_all(objects.TOKEN_PROBES, seen(doctor))) == []
    assert ids(ask_all(objects.LOADED_PROBES, doctor.loaded())) == []


def test_a_token_that_was_never_set_up_is_layer_fs_matter(doctor: Doctor, writer: Writer) -> None:
    writer.remove_keys()
    blank = Fault("C_GetTokenInfo", None, token_info(clear_flags=TokenFlag.TOKEN_INITIALIZED))
    look = doctor.seen(blank, driver=replace(DRIVER, kind=child.HARDWARE))
    assert ids(ask_all(objects.TOKEN_PROBES, look)) == []
