"""The strict reader, compared with openssl on what the reader rejects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cms import forge, pki
from tests.unit.cms.cases import CASES, Scenario, make_scene
from tests.unit.cms.conftest import Openssl
from tests.unit.cms.forge import Forgery
from tests.unit.cms.people import CONTENT, P256, Bank, chain
from ushield_hw import messages
from ushield_hw.cms import MOST_OCTETS, parse
from ushield_hw.crypto.der import SEQUENCE, integer, oid, tlv
from ushield_hw.errors import BadSignature, InputError, UShieldError


@pytest.fixture(scope="session")
def scenario(bank: Bank) -> Scenario:
    return make_scene(bank)


def problem(der: bytes) -> str:
    """Return the problem that the reader reports; its text must exist and be complete in both languages."""
    with pytest.raises(UShieldError) as caught:
        parse(der)
    error = caught.value
    assert (type(error), error.code) == (BadSignature, "BAD_SIGNATURE")
    for language in messages.LANGUAGES:
        messages.set_language(language)
        assert messages.known(f"problem.{error.problem}", language)
        assert "{" not in error.message + error.remedy
    messages.set_language(None)
    return str(error.problem).removeprefix("cms_")


def accepted(der: bytes) -> bool:
    return bool(parse(der).content == CONTENT)


def test_what_the_forger_starts_from_is_right(scenario: Scenario, openssl: Openssl) -> None:
    for right in (scenario.cades, scenario.plain):
        assert accepted(right.der())
        assert openssl(right.der(), "-cades")


@pytest.mark.parametrize(
    ("make", "expected", "openssl_takes", "openssl_cades_takes"),
    [case[1:] for case in CASES],
    ids=[c[0] for c in CASES],
)
def test_one_broken_rule(
    scenario: Scenario,
    openssl: Openssl,
    make: Callable[[Scenario], Forgery],
    expected: str,
    openssl_takes: bool,
    openssl_cades_takes: bool,
) -> None:
    der = make(scenario).der()

    assert problem(der) == expected
    for good in (scenario.cades, scenario.plain):  # both forms of this signer are now cached
        parse(good.der())
    assert problem(der) == expected
    assert (openssl(der), openssl(der, "-cades")) == (openssl_takes, openssl_cades_takes)


def signed(scenario: Scenario) -> bytes:
    return scenario.cades.der()


# The same for changes to the whole file.
WHOLE: list[tuple[str, Callable[[Scenario], bytes], str, bool]] = [
    ("one octet follows", lambda s: signed(s) + b"\x00", "trailing_bytes", True),
    ("another signed order follows", lambda s: signed(s) * 2, "trailing_bytes", True),
    ("the last octet is missing", lambda s: signed(s)[:-1], "cut_off", False),
    ("cut off after the beginning", lambda s: signed(s)[:40], "cut_off", False),
    ("indefinite lengths (BER)", lambda s: forge.as_ber(s.cades), "not_der", True),
    ("a length with a leading zero", lambda s: b"\x30\x83\x00" + signed(s)[2:], "not_der", True),
    ("too large", lambda s: s.plain.but(content=bytes(MOST_OCTETS)).der(), "too_large", True),
    (
        "something after the signed data",
        lambda s: forge.wrapped(s.cades.signed_data() + b"\x05\x00"),
        "structure",
        False,
    ),
    ("no signed data", lambda s: forge.wrapped(b""), "structure", False),
    ("something after the wrapper", lambda s: forge.outermost(s.cades.signed_data(), b"\x05\x00"), "structure", False),
    ("a short one cut off", lambda s: b"\x30\x40" + forge.ID_SIGNED_DATA, "cut_off", False),
]


@pytest.mark.parametrize(("make", "expected", "openssl_takes"), [case[1:] for case in WHOLE], ids=[c[0] for c in WHOLE])
def test_the_bytes_as_a_whole(
    scenario: Scenario, openssl: Openssl, make: Callable[[Scenario], bytes], expected: str, openssl_takes: bool
) -> None:
    der = make(scenario)

    assert problem(der) == expected
    assert openssl(der) is openssl_takes


def test_the_longest_signed_order_is_read(scenario: Scenario) -> None:
    fixed = scenario.plain.but(signature=tlv(SEQUENCE, integer(1), integer(1)))
    longest = MOST_OCTETS - (len(fixed.but(content=bytes(1 << 17)).der()) - (1 << 17))

    assert len(fixed.but(content=bytes(longest)).der()) == MOST_OCTETS
    assert parse(fixed.but(content=bytes(longest)).der())
    assert problem(fixed.but(content=bytes(longest + 1)).der()) == "too_large"


def test_openssl_checks_a_detached_one_when_it_is_given_the_content(
    scenario: Scenario, openssl: Openssl, tmp_path: Path
) -> None:
    der = scenario.cades.but(wrapped_content=b"").der()
    (tmp_path / "order").write_bytes(CONTENT)

    assert openssl(der, "-content", "order")
    assert problem(der) == "detached"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "cms_empty"),
        (b"-----BEGIN CMS-----\nMIIB\n-----END CMS-----\n", "cms_is_pem"),
        (b'{"type": "ushield.payment/1"}', "cms_is_something_else"),
        (b"PK\x03\x04", "cms_is_something_else"),
        (b"\x30", "cms_is_something_else"),
        (b"\x30\x80", "cms_is_something_else"),
        (tlv(0x31, forge.ID_SIGNED_DATA, tlv(0xA0, b"")), "cms_is_something_else"),
        (tlv(SEQUENCE, oid("1.2.840.113549.1.7.3"), tlv(0xA0, b"")), "cms_is_something_else"),  # enveloped data
    ],
)
def test_what_is_no_signed_data_at_all_is_a_bad_input_file(data: bytes, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(data)

    assert (caught.value.code, caught.value.problem) == ("SIGNED_ORDER_MALFORMED", expected)
    assert messages.known(f"problem.{expected}", "en")
    assert messages.known(f"problem.{expected}", "zh")


def test_a_certificate_is_a_bad_input_file_too(bank: Bank) -> None:
    with pytest.raises(InputError):
        parse(bank.root.der)


@pytest.mark.parametrize(("length", "fits"), [(4, True), (5, False)])
def test_the_path_inside_is_in_order_and_not_endless(bank: Bank, length: int, fits: bool) -> None:
    authorities = list(chain(bank, length))
    private = pki.key()
    certificate = pki.der(authorities[-1].issue("CN=A", private.public_key()))
    right = [one.der for one in reversed(authorities)]
    der = forge.plain(private, certificate, P256, CONTENT).but(certificates=sorted([certificate, *right])).der()

    if fits:
        assert parse(der).intermediates == tuple(right)
    else:
        assert problem(der) == "certificate_not_on_path"


def test_an_intermediate_must_be_a_ca(bank: Bank) -> None:
    private = pki.key()
    no_ca = bank.root.subordinate("CN=No CA", number=102, ca=False)
    certificate = pki.der(no_ca.issue("CN=A", private.public_key()))
    der = forge.plain(private, certificate, P256, CONTENT).but(certificates=sorted([certificate, no_ca.der])).der()

    assert problem(der) == "certificate_not_on_path"


@pytest.mark.parametrize("serial", [1, 0x7F, 0x80, 0xFF00, 2**159 - 1])
def test_low_and_high_serial_numbers_are_fine(bank: Bank, serial: int, openssl: Openssl) -> None:
    private = pki.key()
    certificate = pki.der(bank.issuing.issue("CN=A", private.public_key(), serial=serial))
    der = pki.sign_order(CONTENT, private, certificate, P256)

    assert parse(der).signer.serial == serial
    assert openssl(der)


def test_a_cades_signature_shown_again_as_plain_is_read_and_left_to_the_verifier(
    scenario: Scenario, openssl: Openssl
) -> None:
    """The attributes are well-formed content; the verifier detects that they are not an order."""
    genuine = parse(scenario.cades.der())
    shown_again = scenario.plain.but(content=genuine.signed_bytes, signature=genuine.signature).der()

    assert openssl(shown_again)
    assert openssl(shown_again, "-cades")
    assert parse(shown_again).content == genuine.signed_bytes
