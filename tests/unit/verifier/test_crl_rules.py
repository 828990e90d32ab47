"""Evaluation of CRLs: partial CRLs, delta CRLs, unknown extensions, and CRLs signed by another key of the CA."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.unit.cms import pki
from tests.unit.cms.people import P256
from tests.unit.verifier.conftest import DAY, NOW, Scenario
from tests.unit.verifier.test_path import ids
from tests.unit.verifier.test_revocation import good, revoked, scope, serial_of, unknown
from ushield_hw.crypto.der import SEQUENCE, tlv
from ushield_hw.errors import Revoked, VerificationError
from ushield_hw.verifier import Revocation, TrustStore, verify

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.9"), b"\x05\x00")
SOME = frozenset([x509.ReasonFlags.key_compromise, x509.ReasonFlags.ca_compromise])
REST = frozenset(x509.ReasonFlags) - SOME - {x509.ReasonFlags.unspecified, x509.ReasonFlags.remove_from_crl}
DELTA = (x509.DeltaCRLIndicator(6), True)
KEY_LOST = x509.ReasonFlags.key_compromise
HOLD = x509.ReasonFlags.certificate_hold
HOUR = timedelta(hours=1)


def listing(
    scenario: Scenario,
    serials: dict[int, datetime],
    *,
    entry: tuple[x509.ExtensionType, bool] | None = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> bytes:
    """Return a CRL by the issuing CA whose entries have the given extension."""
    ca = scenario.bank.issuing
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(NOW - DAY).next_update(NOW + DAY)
    for serial, moment in serials.items():
        made = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment)
        if entry is not None:
            made = made.add_extension(*entry)
        builder = builder.add_revoked_certificate(made.build())
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(ca.key, hashes.SHA256()).public_bytes(Encoding.DER)


# --- unknown content --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("critical", [True, False])
def test_an_unknown_critical_extension_of_an_entry_spoils_the_list(scenario: Scenario, critical: bool) -> None:
    root, entry = scenario.bank.root.crl(), (UNKNOWN, critical)
    of_another = listing(scenario, {99: NOW - 2 * DAY}, entry=entry)

    if critical:
        assert unknown(scenario, [root, of_another]) == "revocation_unusable"
    else:
        good(scenario, [root, of_another])
    revoked(scenario, [root, listing(scenario, {serial_of(scenario): NOW - 2 * DAY}, entry=entry)])


def test_an_entry_of_another_issuer_in_a_list_that_is_not_indirect_spoils_it(scenario: Scenario) -> None:
    other = x509.CertificateIssuer([x509.DirectoryName(x509.Name.from_rfc4514_string("CN=Other"))])
    spoilt = listing(scenario, {99: NOW - 2 * DAY}, entry=(other, True))

    assert unknown(scenario, [scenario.bank.root.crl(), spoilt]) == "revocation_unusable"


def test_a_number_must_not_be_critical(scenario: Scenario) -> None:
    for critical in (True, False):
        crls = [scenario.bank.root.crl(), scenario.bank.issuing.crl(extensions=[(x509.CRLNumber(7), critical)])]
        if critical:
            assert unknown(scenario, crls) == "revocation_unusable"
        else:
            good(scenario, crls)


# --- partial lists ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extension",
    [
        scope(only_some_reasons=SOME),
        DELTA,
        scope(full_name=[x509.UniformResourceIdentifier("http://bank.example/2.crl")]),
        scope(only_contains_ca_certs=True),
        scope(indirect_crl=True),
    ],
    ids=["some reasons", "delta", "another part", "for CAs", "indirect"],
)
@pytest.mark.parametrize("full", [-2 * HOUR, HOUR, None], ids=["older full", "younger full", "no full"])
def test_an_entry_counts_on_a_partial_list_and_absence_does_not(
    scenario: Scenario, extension: tuple[x509.ExtensionType, bool], full: timedelta | None
) -> None:
    root, issuing = scenario.bank.root.crl(), scenario.bank.issuing
    clean = [] if full is None else [issuing.crl(this_update=NOW - DAY + full)]
    on_it = issuing.crl({serial_of(scenario): NOW - 2 * DAY}, reason=KEY_LOST, extensions=[extension])

    assert revoked(scenario, [root, *clean, on_it]).reason == "keyCompromise"
    assert revoked(scenario, [root, on_it, *clean]).reason == "keyCompromise"
    without = [root, *clean, issuing.crl(extensions=[extension])]
    if full is None:
        assert unknown(scenario, without) in {"revocation_partial", "revocation_unusable"}
    else:
        good(scenario, without)


def test_lists_that_cover_all_reasons_together_prove_something(scenario: Scenario) -> None:
    root, issuing = scenario.bank.root.crl(), scenario.bank.issuing
    some = issuing.crl(extensions=[scope(only_some_reasons=SOME)])
    rest = issuing.crl(extensions=[scope(only_some_reasons=REST)])

    good(scenario, [root, some, rest])
    assert unknown(scenario, [root, some]) == unknown(scenario, [root, rest]) == "revocation_partial"


@pytest.mark.parametrize("names_the_point", [True, False])
def test_a_distribution_point_for_some_reasons_limits_its_list(scenario: Scenario, names_the_point: bool) -> None:
    place = [x509.UniformResourceIdentifier("http://bank.example/1.crl")]
    limited = x509.DistributionPoint(place, None, SOME, None)
    extensions = [scope(full_name=place)] if names_the_point else []
    crls = [scenario.bank.root.crl(), scenario.bank.issuing.crl(extensions=extensions)]

    pointed = scenario.with_certificate(extensions=[(x509.CRLDistributionPoints([limited]), False)])
    assert unknown(pointed, crls) == "revocation_partial"
    whole = x509.DistributionPoint(place, None, None, None)
    pointed = scenario.with_certificate(extensions=[(x509.CRLDistributionPoints([limited, whole]), False)])
    good(pointed, crls)


# --- delta lists and holds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_base", "passes"), [(HOLD, True), (KEY_LOST, False)], ids=["a hold is lifted", "nothing else can be"]
)
def test_a_delta_list_takes_back_a_hold_only(scenario: Scenario, on_base: x509.ReasonFlags, passes: bool) -> None:
    serial, root, issuing = serial_of(scenario), scenario.bank.root.crl(), scenario.bank.issuing
    base = issuing.crl({serial: NOW - 2 * DAY}, reason=on_base)
    removed = x509.ReasonFlags.remove_from_crl
    delta = issuing.crl({serial: NOW - 2 * HOUR}, reason=removed, extensions=[DELTA], this_update=NOW - HOUR)

    if passes:
        good(scenario, [root, base, delta])
        good(scenario, [root, delta, base])
    else:
        revoked(scenario, [root, base, delta])
    assert unknown(scenario, [root, delta]) == "revocation_partial"
    older = issuing.crl({serial: NOW - 4 * DAY}, reason=removed, extensions=[DELTA], this_update=NOW - 3 * DAY)
    revoked(scenario, [root, base, older])


def test_a_removal_on_a_full_list_is_none(scenario: Scenario) -> None:
    listed = {serial_of(scenario): NOW - 2 * DAY}
    crl = scenario.bank.issuing.crl(listed, reason=x509.ReasonFlags.remove_from_crl)

    assert revoked(scenario, [scenario.bank.root.crl(), crl]).reason == "unspecified"


def test_two_lists_of_one_time_that_differ_do_not_make_it_good(scenario: Scenario) -> None:
    root, issuing = scenario.bank.root.crl(), scenario.bank.issuing
    crls = [issuing.crl(), issuing.crl({serial_of(scenario): NOW - 2 * DAY})]

    revoked(scenario, [root, *crls])
    revoked(scenario, [root, *crls[::-1]])


# --- another key of the CA --------------------------------------------------------------------------------------------


class Rollover:
    """A CA trusted by its old key that certified its new key with it and signs CRLs with the new key."""

    def __init__(self, scenario: Scenario, *, below_root: bool) -> None:
        self.scenario = scenario
        first, second = pki.key(number=250), pki.key(number=251)
        if below_root:
            self.anchor = scenario.bank.root
            self.old = self.anchor.subordinate("CN=CA", number=250, extensions=ids(first))
        else:
            self.old = self.anchor = pki.authority("CN=CA", number=252)
            first = self.old.key
            self.old = self.anchor = pki.authority("CN=CA", number=252, extensions=ids(first))
        self.new = self.old.subordinate("CN=CA", number=251, extensions=ids(second, first))
        self.above = [self.anchor.crl()] if below_root else []
        more = ids(scenario.private, first)
        self.certificate = pki.der(self.old.issue("CN=A", scenario.private.public_key(), extensions=more))

    def verify(self, *crls: bytes, store: bool = True) -> Revocation:
        sent = [] if self.old is self.anchor else [self.old.der]
        scenario = self.scenario
        signed = pki.sign_order(scenario.order.canonical, scenario.private, self.certificate, P256, intermediates=sent)
        trust = TrustStore([self.anchor.der], [self.new.der] if store else [], [*self.above, *crls])
        return verify(signed, trust=trust, at=NOW).revocation

    @property
    def serial(self) -> int:
        return x509.load_der_x509_certificate(self.certificate).serial_number


@pytest.fixture(params=[True, False], ids=["a CA between", "the trusted CA"])
def rollover(request: pytest.FixtureRequest, scenario: Scenario) -> Rollover:
    return Rollover(scenario, below_root=request.param)


def test_the_new_key_of_a_ca_answers_for_what_the_old_one_issued(rollover: Rollover) -> None:
    assert rollover.verify(rollover.new.crl()) is Revocation.GOOD
    with pytest.raises(Revoked):
        rollover.verify(rollover.new.crl({rollover.serial: NOW - DAY}))


def test_five_generations_with_a_list_each_are_no_more_work_than_there_is(scenario: Scenario) -> None:
    keys = [pki.authority("CN=G", number=260 + n) for n in range(5)]
    first = pki.authority("CN=G", number=260, extensions=ids(keys[0].key))
    cas = [first]
    for one in keys[1:]:
        own = [(extension, critical) for extension, critical in ids(one.key, cas[-1].key)]
        linked = cas[-1].issue(
            "CN=G", one.key.public_key(), ca=True, key_usage=("keyCertSign", "cRLSign"), extensions=own
        )
        cas.append(pki.Authority(one.key, linked))
    certificate = pki.der(
        first.issue("CN=A", scenario.private.public_key(), extensions=ids(scenario.private, first.key))
    )
    signed = pki.sign_order(scenario.order.canonical, scenario.private, certificate, P256)

    for crls in ([ca.crl() for ca in cas], [cas[-1].crl()]):
        trust = TrustStore([first.der], [ca.der for ca in cas[1:]], crls)
        assert verify(signed, trust=trust, at=NOW).revocation is Revocation.GOOD


def test_without_the_link_the_new_key_is_a_stranger(rollover: Rollover) -> None:
    with pytest.raises(VerificationError) as caught:
        rollover.verify(rollover.new.crl(), store=False)
    assert caught.value.details["problem"] == "revocation_unusable"


def test_a_key_whose_own_certificate_was_revoked_answers_for_nothing(rollover: Rollover) -> None:
    link = rollover.new.certificate.serial_number
    with pytest.raises(VerificationError) as caught:
        rollover.verify(rollover.new.crl({link: NOW - DAY}))
    assert caught.value.code == "REVOCATION_UNKNOWN"


def test_a_key_of_the_same_name_below_another_trusted_ca_answers_for_nothing(scenario: Scenario) -> None:
    other = pki.authority("CN=Other Root", number=253)
    same_name = other.subordinate("CN=Demo Issuing CA,O=Demo Bank", number=254)
    trust = TrustStore(
        [scenario.bank.root.der, other.der], [same_name.der], [scenario.bank.root.crl(), other.crl(), same_name.crl()]
    )
    with pytest.raises(VerificationError) as caught:
        verify(scenario.sign(), trust=trust, at=NOW)
    assert caught.value.details["problem"] == "revocation_unusable"


def test_a_key_for_crls_only_may_be_the_ca_s_second(scenario: Scenario) -> None:
    second = scenario.bank.root.subordinate(
        "CN=Demo Issuing CA,O=Demo Bank", number=255, ca=False, key_usage=("cRLSign",)
    )
    trust = TrustStore([scenario.bank.root.der], [second.der], [scenario.bank.root.crl(), second.crl()])

    assert verify(scenario.sign(), trust=trust, at=NOW).revocation is Revocation.GOOD


# --- long and damaged lists -------------------------------------------------------------------------------------------


def test_a_long_list_is_read_once(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = serial_of(scenario)
    crl = scenario.bank.issuing.crl({**{(1 << 150) + n: NOW - DAY for n in range(2000)}, serial: NOW - DAY})
    trust = scenario.trust(scenario.bank.root.crl(), crl)
    monkeypatch.setattr("ushield_hw.verifier.crl._indexed", lambda *_, **__: pytest.fail("read again"))

    for signer, is_on_it in ((scenario, True), (scenario.with_certificate(subject="CN=B"), False)):
        if is_on_it:
            with pytest.raises(Revoked):
                verify(signer.sign(), trust=trust, at=NOW)
        else:
            assert verify(signer.sign(), trust=trust, at=NOW).revocation is Revocation.GOOD


def test_the_index_finds_what_cryptography_finds(scenario: Scenario, tmp_path: Path) -> None:
    from ushield_hw.cms import names
    from ushield_hw.verifier.crl import Crl

    serials = [1, 127, 128, 255, 256, 65535, 1 << 63, (1 << 159) - 1]
    der = scenario.bank.issuing.crl({serial: NOW - serial % 97 * HOUR for serial in serials}, reason=KEY_LOST)
    read, library = Crl(der), x509.load_der_x509_crl(der)
    issuer = names.canonical(library.issuer.public_bytes())

    for serial in (*serials, 2, 129, 1 << 64):
        ours, theirs = read.entry(serial, issuer), library.get_revoked_certificate_by_serial_number(serial)
        assert (ours and ours.revoked) == (theirs and theirs.revocation_date_utc)
        assert ours is None or ours.reason == "keyCompromise"


@pytest.mark.parametrize(
    "entry",
    [
        tlv(SEQUENCE, b"\x02\x01\x07", b"\x30\x0d261124020000Z"),  # not a time
        tlv(SEQUENCE, b"\x02\x01\x07", b"\x17\x0d261324020000Z", b"\x05\x00"),  # month 13, and trailing data
        tlv(SEQUENCE, b"\x02\x01\x07", b"\x17\x0d26112402000xZ"),
        tlv(SEQUENCE, b"\x02\x01\x07", b"\x17\x0b2611240200Z"),
        tlv(SEQUENCE, b"\x02\x02\x00\x07", b"\x17\x0d261124020000Z"),  # integers with a superfluous byte
        tlv(SEQUENCE, b"\x02\x02\xff\x87", b"\x17\x0d261124020000Z"),
        tlv(SEQUENCE, b"\x02\x00", b"\x17\x0d261124020000Z"),
        tlv(SEQUENCE, b"\x02\x01\x07"),
    ],
)
def test_an_entry_that_is_damaged_damages_the_list(entry: bytes) -> None:
    from ushield_hw.cms import names
    from ushield_hw.crypto.der import DerError
    from ushield_hw.verifier.crl import _indexed

    right = tlv(SEQUENCE, b"\x02\x02\x00\x87", b"\x17\x0d261124020000Z")
    issuer = names.canonical(b"\x30\x00")
    assert _indexed(right * 2, issuer, is_indirect=False)[0] == {0x87: len(right)}
    with pytest.raises((DerError, IndexError)):
        _indexed(right + entry, issuer, is_indirect=False)


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 9, 19])
def test_a_list_that_ends_within_an_entry_is_none(scenario: Scenario, cut: int) -> None:
    from ushield_hw.cms import names
    from ushield_hw.crypto.der import DerError
    from ushield_hw.verifier.crl import _indexed

    entry = tlv(SEQUENCE, b"\x02\x01\x07", b"\x17\x0d261124020000Z")
    issuer = names.canonical(b"\x30\x00")
    assert _indexed(entry, issuer, is_indirect=False) == ({7: 0}, True)
    with pytest.raises((DerError, IndexError)):
        _indexed(entry[:-cut], issuer, is_indirect=False)
