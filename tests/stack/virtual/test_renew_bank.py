"""The virtual U-shield renews with the reference bank: screen content; removal or loss of connection at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.cli.bank_server import Server, line_to, served
from ushield_hw.backend.module import close_modules
from ushield_hw.certificates import renewal
from ushield_hw.certificates.certificate import install, request
from ushield_hw.certificates.renewal import Step
from ushield_hw.certificates.renewal.est_client import EstBank
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.errors import NetworkError, TokenError
from ushield_hw.testing.scripted import Scripted
from ushield_hw.testing.shield import VirtualShield
from ushield_hw.token.choice import find_token
from ushield_hw.token.key_pairs import KeyChoice, Pair
from ushield_hw.token.session import Session

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

NAME = "CN=张三,O=Demo Bank"
STEPS = [step for step in Step if step not in {Step.BEGUN, Step.DONE, Step.GIVEN_UP}]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("reference") / "bank") as running:
        yield running


@dataclass
class Customer:
    """A customer with a U-shield and a certificate issued by the bank."""

    shield: VirtualShield
    server: Server
    number: str = ""
    key: KeyChoice = field(default_factory=KeyChoice)
    person: Scripted = field(default_factory=Scripted)

    def enroll(self) -> None:
        self.number, code = self.server.code(NAME)
        with self.opened() as session:
            asked = request(session, KeySpec.EC_P256, NAME)
            self.key = KeyChoice(asked.key_id)
            der = x509.load_pem_x509_csr(asked.pem).public_bytes(Encoding.DER)
            install(session, EstBank(self.server.url).enroll(der, self.number, code))

    def opened(self) -> Session:
        self.person = Scripted(*[self.shield.pin] * 12)
        return find_token(self.shield.uri).open(self.person, purpose="renew")

    def renew(self, told: Callable[[Step], None] = lambda step: None, url: str | None = None) -> renewal.Renewed:
        with self.opened() as session:
            return renewal.renew(session, EstBank(url or self.server.url), self.key, on_step=told)

    def pairs(self) -> list[Pair]:
        """Return the pairs issued by this bank."""
        return [pair for pair in find_token(self.shield.uri).pairs() if "Demo Bank CA" in pair.facts.issuer_text()]

    def check(self) -> None:
        (left,) = self.pairs()
        assert left.activated and left.has_key
        states = self.server.certificates(self.number)
        assert sorted(states.values()) == ["active", "superseded"]
        assert states[left.facts.serial_hex] == "active"


@pytest.fixture
def customer(virtual_shield: VirtualShield, server: Server) -> Customer:
    virtual_shield.answer("ok")
    made = Customer(virtual_shield, server)
    made.enroll()
    return made


def test_the_owner_sees_what_is_put_into_use(customer: Customer) -> None:
    done = customer.renew()
    shown = {line.label: line.value for line in customer.person.shown[-1].lines}
    assert customer.person.shown[-1].type == "ushield.renewal/1"
    assert shown["Operation"] == "PUT A RENEWED CERTIFICATE INTO USE - this is not a payment"
    assert shown["Certificate number"] == done.certificate.serial_hex and done.acknowledged
    assert done.replaced is not None and shown["Replaces certificate"] == done.replaced.serial_hex
    assert customer.shield.signatures == 4, "the first request, and three for the renewal"
    customer.check()


@pytest.mark.parametrize("step", STEPS)
def test_pulled_out_after_each_step_the_same_call_goes_on(customer: Customer, step: Step) -> None:
    def told(now: Step) -> None:
        if now is step:
            customer.shield.eject()

    with pytest.raises(TokenError) as caught:
        customer.renew(told)
    assert caught.value.code == "TOKEN_REMOVED"
    customer.shield.insert()
    assert [pair for pair in customer.pairs() if pair.activated and pair.has_key]
    close_modules()
    customer.renew()
    customer.check()


@pytest.mark.parametrize("after", [False, True], ids=["before it is heard", "after it was done"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_wherever_the_line_is_cut_the_same_call_goes_on(customer: Customer, call: int, after: bool) -> None:
    with line_to(customer.server) as line:
        line.at, line.after = call, after
        with pytest.raises(NetworkError) as caught:
            customer.renew(url=line.url)
        assert caught.value.code == "BANK_UNREACHABLE"
        customer.renew(url=line.url)
    customer.check()
