"""Certificates crafted to cost time or to be parsed ambiguously."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import pytest
from cryptography import x509

from tests.unit.cms import pki
from tests.unit.cms.people import P256
from tests.unit.verifier.conftest import DAY, NOW, Scenario
from tests.unit.verifier.test_path import ids, untrusted
from tests.unit.verifier.test_verify import told
from ushield_hw.crypto.der import INTEGER, SEQUENCE, tlv
from ushield_hw.errors import UShieldError, VerificationError
from ushield_hw.verifier import TrustStore, budget, search, signatures, verify

CA_USE = ("keyCertSign", "cRLSign")
_PATIENCE_S = 1.0  # CPU time of this process; usually a tenth is used


def cross(issuer: pki.Authority, subject: pki.Authority, *more: tuple[x509.ExtensionType, bool]) -> bytes:
    name = subject.certificate.subject.rfc4514_string()
    return pki.der(issuer.issue(name, subject.key.public_key(), ca=True, key_usage=CA_USE, extensions=more))


def mesh(size: int) -> tuple[list[pki.Authority], list[bytes]]:
    """CAs that have all certified each other."""
    cas = [pki.authority(f"CN=M{number}", number=300 + number) for number in range(size)]
    return cas, [cross(a, b) for a in cas for b in cas if a is not b]


def signed_by(scenario: Scenario, issuer: pki.Authority, **fields: object) -> bytes:
    certificate = pki.der(issuer.issue("CN=A", scenario.private.public_key(), **fields))  # type: ignore[arg-type]
    return pki.sign_order(scenario.order.canonical, scenario.private, certificate, P256)


def outcome(signed: bytes, anchors: Sequence[bytes], others: Sequence[bytes]) -> str:
    """Return the verifier's result; it must be returned quickly."""
    trust = TrustStore(anchors, others)
    began = time.thread_time()
    try:
        verify(signed, trust=trust, at=NOW)
    except UShieldError as error:
        told(error)
        code = str(error.details.get("reason", error.code))
    else:
        code = "good"
    assert time.thread_time() - began < _PATIENCE_S
    return code


@pytest.mark.parametrize("size", [6, 9])
def test_cas_that_have_all_certified_each_other(scenario: Scenario, size: int) -> None:
    cas, others = mesh(size)
    root, stranger = pki.authority("CN=Root", number=330), pki.authority("CN=M0", number=331)
    way_out = cross(root, cas[-1])

    assert outcome(signed_by(scenario, cas[0]), [root.der], [*others, way_out]) == "good"
    assert outcome(signed_by(scenario, stranger), [root.der], [*others, way_out]) == "path_invalid"
    assert outcome(signed_by(scenario, cas[0]), [root.der], others) == "unknown_ca"


def test_a_mesh_in_which_no_path_keeps_the_rules_is_too_complex(scenario: Scenario) -> None:
    cas, others = mesh(8)
    root = pki.authority("CN=Root", number=332, path_length=0)

    signed = signed_by(scenario, cas[0])
    assert outcome(signed, [root.der], [*others, *(cross(root, ca) for ca in cas[1:])]) == "PATH_TOO_COMPLEX"


@pytest.mark.parametrize("trusted", [True, False])
def test_five_generations_of_one_name(scenario: Scenario, trusted: bool) -> None:
    keys = [pki.authority("CN=G", number=340 + n) for n in range(5)]
    cas = [pki.authority("CN=G", number=340 + n, extensions=ids(one.key)) for n, one in enumerate(keys)]
    links = [cross(a, b, *ids(b.key, a.key)) for a in cas for b in cas if a is not b]
    signed = signed_by(scenario, cas[4], extensions=ids(scenario.private, cas[4].key))
    anchor = cas[0] if trusted else scenario.bank.root

    assert outcome(signed, [anchor.der], [*links, *(ca.der for ca in cas[1:])]) == ("good" if trusted else "unknown_ca")


def test_many_keys_of_one_name_without_identifiers(scenario: Scenario) -> None:
    cas = [pki.authority("CN=Same", number=400 + n) for n in range(40)]
    links = [cross(a, b) for a, b in pairwise(cas)]

    signed = signed_by(scenario, cas[-1])
    assert outcome(signed, [scenario.bank.root.der], [*links, *(ca.der for ca in cas)]) == "PATH_TOO_COMPLEX"


def test_a_chain_that_is_too_long(scenario: Scenario) -> None:
    above, chain = scenario.bank.root, []
    for number in range(20):
        above = above.subordinate(f"CN=C{number}", number=450 + number)
        chain.append(above)
    for length, passes in ((search.LONGEST - 2, True), (search.LONGEST - 1, False)):
        found = outcome(signed_by(scenario, chain[length - 1]), [scenario.bank.root.der], [one.der for one in chain])
        assert found == ("good" if passes else "PATH_TOO_COMPLEX")


def test_names_and_constraints_by_the_thousand(scenario: Scenario) -> None:
    hosts = [x509.DNSName(f"h{n}.test") for n in range(1500)]
    root = pki.authority("CN=Root", number=333, extensions=[(x509.NameConstraints(hosts, None), True)])

    signed = signed_by(scenario, root, extensions=[(x509.SubjectAlternativeName(hosts), False)])
    assert outcome(signed, [root.der], []) == "PATH_TOO_COMPLEX"


def test_policies_that_double_with_each_ca(scenario: Scenario) -> None:
    """CVE-2023-0464: a policy tree grows exponentially."""
    names = [x509.ObjectIdentifier(f"1.3.6.1.4.1.99999.{n}") for n in (1, 2)]
    policies = x509.CertificatePolicies([x509.PolicyInformation(name, None) for name in names])
    pairs = [(one, other) for one in names for other in names]
    content = b"".join(tlv(SEQUENCE, *(oid_of(name) for name in pair)) for pair in pairs)
    mapping = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.33"), tlv(SEQUENCE, content))
    above, chain = pki.authority("CN=Root", number=334), []
    root = above
    for number in range(14):
        more = [(policies, False), (mapping, True)]
        above = above.subordinate(f"CN=P{number}", number=480 + number, extensions=more)
        chain.append(above.der)

    assert outcome(signed_by(scenario, above, extensions=[(policies, False)]), [root.der], chain) == "good"


def oid_of(name: x509.ObjectIdentifier) -> bytes:
    from ushield_hw.crypto.der import oid

    return oid(name.dotted_string)


def test_a_signature_is_checked_once_for_each_key(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[tuple[bytes, bytes]] = []
    real = signatures.is_right

    def counted(spki: bytes, identifier: bytes, signature: bytes, message: bytes) -> bool:
        checked.append((spki, message))
        return real(spki, identifier, signature, message)

    monkeypatch.setattr(search, "is_right", counted)
    cas, others = mesh(5)
    trust = TrustStore([scenario.bank.root.der], others)
    for _ in range(2):
        untrusted_outcome(scenario, cas[0], trust)

    assert len(checked) == len(set(checked)) > 5


def untrusted_outcome(scenario: Scenario, issuer: pki.Authority, trust: TrustStore) -> None:
    certificate = pki.der(issuer.issue("CN=A", scenario.private.public_key(), serial=7))
    signed = pki.sign_order(scenario.order.canonical, scenario.private, certificate, P256)
    assert untrusted(signed, trust) == "unknown_ca"


def test_thousands_of_cas_cost_a_signer_nothing(scenario: Scenario) -> None:
    """Counted, not timed: only CAs with the issuer's name are examined."""
    shell = pki.der(scenario.bank.root.issue("CN=CA 00000", pki.key().public_key(), ca=True, key_usage=CA_USE))
    others = [shell.replace(b"CA 00000", b"CA %05d" % n) for n in range(3_000)]
    trust = TrustStore([scenario.bank.root.der], others)
    spent = budget.Budget()
    parts = [scenario.with_certificate(subject=f"CN=S{n}").sign() for n in range(3)]
    candidates = []
    real = budget.Budget.spend

    def counted(self: budget.Budget, what: str, amount: int = 1) -> None:
        candidates.append(what)
        real(self, what, amount)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget.Budget, "spend", counted)
        for signed in parts:
            verify(signed, trust=trust, at=NOW)

    assert spent.candidates > candidates.count("candidates") == 2 * len(parts)


@pytest.mark.parametrize("what", ["signatures", "paths", "octets", "candidates", "comparisons", "length"])
def test_whatever_is_used_up_is_told(what: str) -> None:
    error = budget.too_complex(what, 7)

    assert (type(error), error.code, error.details["most"]) == (VerificationError, "PATH_TOO_COMPLEX", 7)
    told(error)
    if what != "length":
        with pytest.raises(VerificationError):
            budget.Budget(**{what: 1}).spend(what, 2)


def test_a_key_that_says_nothing_is_no_key() -> None:
    for spki in (b"", b"\x30\x00", tlv(SEQUENCE, tlv(INTEGER, b"\x01"))):
        assert signatures.key_problem(spki) == "unknown_key"
        assert not signatures.is_right(spki, b"\x30\x00", b"", b"")


def test_dates_are_what_is_wrong_if_nothing_else_is(scenario: Scenario) -> None:
    cas, others = mesh(4)
    over = pki.authority("CN=Root", number=335, not_after=NOW - DAY)

    assert outcome(signed_by(scenario, cas[0]), [over.der], [*others, cross(over, cas[1])]) == "ca_expired"
