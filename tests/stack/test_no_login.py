"""Tokens without CKF_LOGIN_REQUIRED: visible keys sign without a login, hidden keys require one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.soft import SOFTHSM
from tests.stack.bench import Bench
from tests.stack.test_signing import fresh, public_key
from tests.unit.cms.pki import Authority, authority, der
from ushield_hw.backend.model import TokenFlag
from ushield_hw.certificates.certificate import install
from ushield_hw.errors import CertificateNotFound
from ushield_hw.signing.order import SignedOrder, sign
from ushield_hw.testing.faulty import Fault, returns, token_info
from ushield_hw.testing.scripted import Scripted
from ushield_hw.token.key_pairs import KeyChoice
from ushield_hw.token.session import Session, open_session
from ushield_hw.verifier import TrustStore, verify

pytestmark = pytest.mark.stack

NOT_REQUIRED = Fault("C_GetTokenInfo", None, token_info(clear_flags=TokenFlag.LOGIN_REQUIRED))
REFUSED = Fault("C_Login", None, returns("CKR_USER_TYPE_INVALID"))

# A pair whose private key is not a private object: visible, and usable without a login.
OPEN_PAIR = """
import sys, pkcs11
from pkcs11 import Attribute
from pkcs11.util.ec import encode_named_curve_parameters
module, label, pin = sys.argv[1:]
curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
with pkcs11.lib(module).get_token(token_label=label).open(rw=True, user_pin=pin) as session:
    domain = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
    domain.generate_keypair(store=True, id=b"\\x0a", label="open", private_template={Attribute.PRIVATE: False})
"""


@pytest.fixture(scope="module")
def bank() -> Authority:
    return authority()


def enrol(bench: Bench, bank: Authority, label: str) -> None:
    """Write a certificate for a key."""
    with open_session(bench.link, Scripted(bench.soft.pin), "install") as session:
        record = next(key for key in session.keys() if not key.private and key.label == label)
        public = public_key(record.kind, record.public or b"")
        install(session, der(bank.issue(f"CN={label}", public, key_usage=["nonRepudiation"])))


def signed(session: Session, label: str) -> SignedOrder:
    return sign(fresh(), session, key=KeyChoice(label=label))


def person(bench: Bench, *pins: str) -> Scripted:
    return Scripted(*pins, confirms=[True])


@pytest.fixture
def opened(bench: Bench, bank: Authority) -> Bench:
    """A token with a visible and a hidden pair, both with certificates."""
    subprocess.run([sys.executable, "-c", OPEN_PAIR, SOFTHSM, bench.soft.label, bench.soft.pin], check=True, timeout=60)
    for label in ("open", "pay"):
        enrol(bench, bank, label)
    return bench


def test_a_key_that_shows_signs_though_every_login_is_refused(opened: Bench, bank: Authority) -> None:
    opened.faulty.clear()
    opened.faulty.plan([NOT_REQUIRED, REFUSED])
    with open_session(opened.link, person(opened), "sign") as session:
        order = signed(session, "open")
    assert verify(order, trust=TrustStore([bank.der]))
    assert opened.names("C_Login", "C_Logout") == []


def test_a_key_that_hides_is_logged_in_for(opened: Bench, bank: Authority) -> None:
    opened.faulty.clear()
    opened.faulty.plan([NOT_REQUIRED])
    somebody = person(opened, opened.soft.pin)
    with open_session(opened.link, somebody, "sign") as session, open_session(opened.link, somebody, "sign") as other:
        order = signed(session, "pay")
        assert other.login_id == session.login_id  # the other session continues under the login
    assert verify(order, trust=TrustStore([bank.der]))
    assert somebody.prompts[0] == "user PIN to sign, 6 left"
    assert opened.names("C_Login", "C_Logout") == ["C_Login", "C_Logout"]


def test_where_no_key_shows_the_token_is_logged_in_to(bench: Bench, bank: Authority) -> None:
    enrol(bench, bank, "pay")
    bench.faulty.clear()
    bench.faulty.plan([NOT_REQUIRED])
    with open_session(bench.link, person(bench, bench.soft.pin), "sign") as session:
        assert verify(signed(session, "pay"), trust=TrustStore([bank.der]))


def test_where_no_key_shows_and_no_login_is_taken_nothing_is_spent(bench: Bench, bank: Authority) -> None:
    enrol(bench, bank, "pay")
    bench.faulty.clear()
    bench.faulty.plan([NOT_REQUIRED, REFUSED])
    with (
        open_session(bench.link, person(bench, bench.soft.pin), "sign") as session,
        pytest.raises(CertificateNotFound),
    ):
        signed(session, "pay")
    assert bench.link.pin.state().retries_left == 6
    assert bench.count("C_Login") == 1
