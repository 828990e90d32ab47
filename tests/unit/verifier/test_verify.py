"""Verification from bytes to a result."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.cms import forge, pki
from tests.unit.cms.people import P256
from tests.unit.order.samples import login, payment
from tests.unit.verifier.conftest import DAY, NOW, Scenario, make_scene
from ushield_hw import cms, messages
from ushield_hw.cms import CertificateFacts, Confirmation, Profile
from ushield_hw.crypto.algorithms import SUITES, Suite
from ushield_hw.errors import BadSignature, InputError, InvalidError, Mismatch, UntrustedSigner, UShieldError
from ushield_hw.order import Rules, message_format
from ushield_hw.verifier import Revocation, TrustStore, check_signature, verify


def told(error: UShieldError) -> None:
    """The error must have a text in both languages without unfilled placeholders."""
    for language in messages.LANGUAGES:
        messages.set_language(language)
        assert messages.known(error.code, language)
        assert messages.known(f"{error.code}.remedy", language)
        assert "problem" not in error.details or messages.known(f"problem.{error.problem}", language)
        assert "{" not in error.message + error.remedy
    messages.set_language(None)


def bad(signed: bytes, trust: TrustStore, **options: object) -> str:
    with pytest.raises(BadSignature) as caught:
        verify(signed, trust=trust, at=NOW, **options)  # type: ignore[arg-type]
    told(caught.value)
    return str(caught.value.problem)


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: str(suite.name))
def test_every_suite_and_profile_verifies(scenario: Scenario, suite: Suite, profile: Profile) -> None:
    someone = scenario.bank.customer(suite.key)
    signed = pki.sign_order(
        scenario.order.canonical,
        someone.private,
        someone.certificate,
        suite,
        profile=profile,
        intermediates=[scenario.bank.issuing.der],
    )

    verified = verify(signed, trust=scenario.trust(), expected=scenario.order, at=NOW)

    assert (verified.order, verified.format, verified.profile) == (scenario.order, "jcs", profile)
    assert verified.revocation is Revocation.NOT_CHECKED


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: str(suite.name))
def test_every_suite_s_signature_is_looked_at(scenario: Scenario, suite: Suite) -> None:
    someone, other = scenario.bank.customer(suite.key), pki.key(suite.key, number=9)
    signed = pki.sign_order(scenario.order.canonical, other, someone.certificate, suite)

    assert bad(signed, scenario.trust()) == "cms_signature_wrong"


@pytest.mark.parametrize("confirmation", Confirmation)
def test_the_document_is_the_one_ushield_verify_prints(scenario: Scenario, confirmation: Confirmation) -> None:
    signed = scenario.sign(confirmation=confirmation)
    crls = [scenario.bank.root.crl(), scenario.bank.issuing.crl()]

    document = verify(signed, trust=scenario.trust(*crls), at=NOW).to_json()

    assert document == {
        "verified": True,
        "order": scenario.order.to_json(),
        "signer": {
            "subject": "CN=张三,O=Demo Bank",
            "serial": f"{CertificateFacts.read(scenario.certificate).serial:x}",
        },
        "profile": "cades",
        "confirmation": confirmation.value,
        "claimed_signing_time": f"{NOW:%Y-%m-%dT%H:%M:%SZ}",
        "revocation": "good",
    }


def test_a_plain_one_states_no_confirmation(scenario: Scenario) -> None:
    verified = verify(scenario.sign(profile=Profile.PLAIN), trust=scenario.trust(), at=NOW)

    assert (verified.confirmation, verified.claimed_signing_time) == (None, None)
    assert verified.to_json()["claimed_signing_time"] is None
    assert (verified.to_json()["confirmation"], verified.to_json()["revocation"]) == (None, "not_checked")


def test_tells_whose_signature_it_is(scenario: Scenario) -> None:
    signer = verify(scenario.sign(), trust=scenario.trust(), at=NOW).signer

    assert (signer.subject, signer.issuer) == ("CN=张三,O=Demo Bank", "CN=Demo Issuing CA,O=Demo Bank")
    assert signer.certificate == scenario.certificate


def test_a_changed_order_is_found_out_although_it_is_an_order(scenario: Scenario) -> None:
    other = payment(amount__value="999.00").canonical
    template = cms.Template(scenario.certificate, P256, Profile.PLAIN, None)
    raw = pki.token_sign(scenario.private, P256, scenario.order.canonical)

    assert bad(template.draft(other, NOW).assemble(raw), scenario.trust()) == "cms_signature_wrong"


def test_a_cades_signature_shown_again_as_plain_is_refused(scenario: Scenario, tmp_path: Path) -> None:
    genuine = cms.parse(scenario.sign())
    shown_again = forge.plain(scenario.private, scenario.certificate, P256, genuine.signed_bytes).but(
        signature=genuine.signature, certificates=sorted([scenario.certificate, scenario.bank.issuing.der])
    )

    assert pki.openssl_accepts(shown_again.der(), scenario.bank.root.pem, tmp_path)
    assert bad(shown_again.der(), scenario.trust()) == "cms_not_an_order"


@pytest.mark.parametrize(
    "rewrite", [lambda order: order + b"\n", lambda order: b" " + order, lambda order: order.replace(b",", b", ", 1)]
)
def test_an_order_signed_in_another_form_than_the_canonical_is_refused(
    scenario: Scenario, rewrite: Callable[[bytes], bytes]
) -> None:
    content = rewrite(scenario.order.canonical)

    assert bad(scenario.sign(content), scenario.trust()) == "cms_not_an_order"
    assert bad(scenario.sign(content), scenario.trust(), expected=scenario.order) == "cms_not_an_order"


def test_what_is_wrong_with_the_order_is_told(scenario: Scenario) -> None:
    with pytest.raises(BadSignature) as caught:
        verify(scenario.sign(b"{}"), trust=scenario.trust(), at=NOW)

    why = caught.value.details["why"]
    assert isinstance(why, InputError)
    assert why.message in caught.value.message
    assert caught.value.to_json()["details"] == {"problem": "cms_not_an_order", "why": why.to_json()}
    told(caught.value)


def test_an_expected_order_comes_back_as_it_is(scenario: Scenario) -> None:
    expected = payment()
    assert expected is not scenario.order

    assert verify(scenario.sign(), trust=scenario.trust(), expected=expected, at=NOW).order is expected


def test_an_order_in_a_bank_s_own_format_verifies(scenario: Scenario) -> None:
    content = message_format("xml-tdm").encode(scenario.order, "zh")

    verified = verify(
        scenario.sign(content, profile=Profile.PLAIN), trust=scenario.trust(), expected=scenario.order, at=NOW
    )

    assert (verified.format, verified.order) == ("xml-tdm", scenario.order)


def test_another_order_than_expected_is_told_field_by_field(scenario: Scenario) -> None:
    expected = payment(amount__value="9.00", payee__name="李四")

    with pytest.raises(Mismatch) as caught:
        verify(scenario.sign(), trust=scenario.trust(), expected=expected, at=NOW)

    assert set(caught.value.fields) == {"amount.value", "payee.name"}
    told(caught.value)


def test_a_login_is_not_a_payment(scenario: Scenario) -> None:
    for_login = scenario.with_certificate(key_usage=("digitalSignature",))

    with pytest.raises(Mismatch) as caught:
        verify(for_login.sign(login().canonical), trust=scenario.trust(), expected=scenario.order, at=NOW)
    assert "type" in caught.value.fields


@pytest.mark.parametrize(
    ("uses", "payment_passes", "login_passes"),
    [
        (("nonRepudiation",), True, False),
        (("digitalSignature",), False, True),
        (("digitalSignature", "nonRepudiation"), True, True),
        (("keyAgreement",), False, False),
        (None, True, True),
    ],
)
def test_key_usage_must_fit_the_type_of_order(
    scenario: Scenario, uses: tuple[str, ...] | None, payment_passes: bool, login_passes: bool
) -> None:
    signer = scenario.with_certificate(key_usage=uses)
    for order, passes in ((scenario.order, payment_passes), (login(), login_passes)):
        signed = signer.sign(order.canonical)
        for expected in (None, order):
            if passes:
                assert verify(signed, trust=scenario.trust(), expected=expected, at=NOW).order == order
                continue
            with pytest.raises(UntrustedSigner) as caught:
                verify(signed, trust=scenario.trust(), expected=expected, at=NOW)
            assert caught.value.reason == "key_usage"
            told(caught.value)


def test_a_key_for_something_else_is_refused_whatever_it_signed(scenario: Scenario) -> None:
    signed = scenario.with_certificate(key_usage=("keyAgreement",)).sign(b"no order")

    with pytest.raises(UntrustedSigner, match="keyAgreement"):
        verify(signed, trust=scenario.trust(), at=NOW)


def test_expiry_is_judged_only_where_the_moment_is_given(scenario: Scenario) -> None:
    last = scenario.order.expires - timedelta(seconds=1)
    assert verify(scenario.sign(), trust=scenario.trust(), at=last).order == scenario.order
    for moment in (scenario.order.expires, NOW + 100 * DAY):
        with pytest.raises(InvalidError) as caught:
            verify(scenario.sign(), trust=scenario.trust(), at=moment)
        told(caught.value)
        assert (type(caught.value), caught.value.code) == (InvalidError, "ORDER_EXPIRED")
        assert verify(scenario.sign(), trust=scenario.trust(), at=moment, judge_expiry=False).order == scenario.order
    assert verify(scenario.sign(), trust=scenario.trust()).order == scenario.order  # now, after its expiry


def test_another_order_is_named_before_its_expiry(scenario: Scenario) -> None:
    with pytest.raises(Mismatch):
        verify(scenario.sign(), trust=scenario.trust(), expected=payment(purpose="x"), at=NOW + DAY)


def test_an_order_that_lives_more_than_a_day_is_refused_at_any_moment(scenario: Scenario) -> None:
    content = scenario.order.canonical.replace(b'"expires":"2026-11-24T02:05:00Z"', b'"expires":"2026-11-25T02:00:01Z"')
    assert bad(scenario.sign(content), scenario.trust()) == "cms_not_an_order"


def test_rules_are_handed_to_the_order(scenario: Scenario) -> None:
    demo = Rules(demo=True)
    order = payment(demo, bank__origin="http://localhost:8000")
    signed = scenario.sign(order.canonical)

    assert verify(signed, trust=scenario.trust(), at=NOW, rules=demo).order == order
    assert bad(signed, scenario.trust()) == "cms_not_an_order"


def test_now_is_the_moment_if_none_is_given(scenario: Scenario) -> None:
    real = datetime.now(UTC)
    current = scenario.with_certificate(not_before=real - timedelta(hours=1), not_after=real + timedelta(hours=1))
    over = scenario.with_certificate(not_before=real - timedelta(hours=2), not_after=real - timedelta(hours=1))
    root = pki.authority(not_before=real - DAY, not_after=real + DAY)
    assert root.certificate.subject == scenario.bank.root.certificate.subject

    assert verify(current.sign(), trust=scenario.trust()).order == scenario.order
    with pytest.raises(UntrustedSigner, match="it has expired"):
        verify(over.sign(), trust=scenario.trust())


def test_the_moment_may_be_given_in_any_time_zone(scenario: Scenario) -> None:
    in_china = NOW.astimezone(timezone(timedelta(hours=8)))

    assert verify(scenario.sign(), trust=scenario.trust(), at=in_china).order == scenario.order


def test_a_moment_without_a_time_zone_is_a_mistake(scenario: Scenario) -> None:
    with pytest.raises(ValueError, match="time zone"):
        verify(scenario.sign(), trust=scenario.trust(), at=NOW.replace(tzinfo=None))


def test_what_is_no_signed_order_is_a_bad_input_file(scenario: Scenario) -> None:
    with pytest.raises(InputError) as caught:
        verify(scenario.order.canonical, trust=scenario.trust(), at=NOW)
    told(caught.value)


def test_check_signature_asks_for_no_trust(scenario: Scenario) -> None:
    someone = pki.der(pki.authority("CN=Nobody", number=120).issue("CN=A", scenario.private.public_key()))
    signed = pki.sign_order(b"anything", scenario.private, someone, P256)

    assert check_signature(signed).content == b"anything"
    with pytest.raises(BadSignature, match="not made by"):
        check_signature(signed[:-1] + bytes((signed[-1] ^ 1,)))


def test_works_where_an_event_loop_runs_and_leaves_none_behind(scenario: Scenario) -> None:
    async def inside() -> str:
        await asyncio.sleep(0)
        verified = verify(scenario.sign(), trust=scenario.trust(), at=NOW)
        await asyncio.sleep(0)
        return verified.signer.subject

    assert asyncio.run(inside()) == "CN=张三,O=Demo Bank"
    verify(scenario.sign(), trust=scenario.trust(), at=NOW)
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    assert not [one for one in gc.get_objects() if isinstance(one, asyncio.AbstractEventLoop) and not one.is_closed()]


def test_many_threads_share_a_trust_store(scenario: Scenario) -> None:
    trust = scenario.trust(scenario.bank.root.crl(), scenario.bank.issuing.crl())
    orders = [payment(order_no=f"N{number}") for number in range(40)]
    signed = [scenario.sign(order.canonical) for order in orders]

    with ThreadPoolExecutor(8) as pool:
        verified = pool.map(lambda one: verify(one, trust=trust, at=NOW), signed)
        assert [one.order for one in verified] == orders


def test_the_slow_libraries_are_imported_only_when_used() -> None:
    program = """
import sys
import ushield_hw.verifier
slow = {"cryptography", "asn1crypto", "pkcs11", "smartcard"}
print(sorted({name.partition(".")[0] for name in sys.modules} & slow))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)

    assert run.stdout == "[]\n"


FIXED = make_scene()
GENUINE = [FIXED.sign(), FIXED.sign(profile=Profile.PLAIN), FIXED.sign(intermediates=[])]
TRUST = TrustStore([FIXED.bank.root.der], [FIXED.bank.issuing.der])


@given(
    signed=st.sampled_from(GENUINE),
    at=st.floats(0, 1),
    gone=st.integers(0, 3),
    come=st.binary(max_size=3),
)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damage_is_never_verified_and_always_told(signed: bytes, at: float, gone: int, come: bytes) -> None:
    place = int(at * len(signed))
    damaged = signed[:place] + come + signed[place + gone :]
    try:
        verify(damaged, trust=TRUST, at=NOW)
    except UShieldError as error:
        assert damaged not in GENUINE
        told(error)
    else:
        assert damaged in GENUINE  # so nothing is accepted that openssl refuses: see test_openssl_agrees


@pytest.mark.parametrize("signed", GENUINE, ids=["cades", "plain", "without its CA"])
def test_openssl_agrees(signed: bytes, tmp_path: Path) -> None:
    assert pki.openssl_accepts(signed, FIXED.bank.root.pem + FIXED.bank.issuing.pem, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_no_bit_can_be_flipped(part: int) -> None:
    """Every bit of a signed order is flipped in turn: nothing is accepted, and every error is a documented one."""
    signed, taken = GENUINE[0], []
    for bit in range(part, 8 * len(signed), 4):
        flipped = bytearray(signed)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            verify(bytes(flipped), trust=TRUST, at=NOW)
        except UShieldError:
            continue
        taken.append(bit)
    assert taken == []
