"""The strict reader with damaged and arbitrary input: a definite result for any bytes, and no false acceptance."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.cms import forge, pki
from tests.unit.cms.people import CONTENT, P256, RSA, make_bank
from ushield_hw.cms import Confirmation, Profile, SignedOrderParts, Template, parse
from ushield_hw.crypto.algorithms import KeyKind
from ushield_hw.crypto.der import integer, tlv
from ushield_hw.errors import BadSignature, InputError

BANK = make_bank()
ONE, OTHER, RSA_ONE = BANK.customer(), BANK.customer(number=1), BANK.customer(KeyKind.RSA)
GENUINE = [
    pki.sign_order(CONTENT, ONE.private, ONE.certificate, P256),
    pki.sign_order(CONTENT, ONE.private, ONE.certificate, P256, profile=Profile.PLAIN),
    pki.sign_order(CONTENT, ONE.private, ONE.certificate, P256, intermediates=[BANK.issuing.der]),
    pki.sign_order(CONTENT, RSA_ONE.private, RSA_ONE.certificate, RSA),
]
QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# One change: relative position, number of bytes removed, bytes inserted.
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), st.binary(max_size=4)), min_size=1, max_size=3)


def written_again(parts: SignedOrderParts) -> bytes:
    """Encode a signed order again from its parsed parts."""
    template = Template(parts.certificate, parts.suite, parts.profile, parts.confirmation, parts.intermediates)
    raw = parts.signature
    if parts.suite is P256:
        r, s = decode_dss_signature(raw)
        raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return template.draft(parts.content, parts.signing_time or pki.NOW).assemble(raw)


def read_or_refused(data: bytes) -> SignedOrderParts | None:
    try:
        return parse(data)
    except BadSignature as error:
        assert str(error.problem).startswith("cms_")
    except InputError as error:
        assert error.code == "SIGNED_ORDER_MALFORMED"
    return None


@pytest.mark.parametrize("genuine", GENUINE, ids=["cades", "plain", "with its CA", "rsa"])
def test_there_is_one_way_to_write_it(genuine: bytes) -> None:
    assert written_again(parse(genuine)) == genuine


@pytest.mark.slow
@given(genuine=st.sampled_from(GENUINE), changes=CHANGES)
@settings(QUICK, max_examples=1500)
def test_damaged_bytes_are_refused_or_written_the_one_way(
    genuine: bytes, changes: list[tuple[float, int, bytes]]
) -> None:
    data = genuine
    for share, gone, come in changes:
        at = int(share * len(data))
        data = data[:at] + come + data[at + gone :]

    parts = read_or_refused(data)

    assert parts is None or written_again(parts) == data


@given(st.binary(max_size=80).map(lambda rest: tlv(0x30, forge.ID_SIGNED_DATA, rest)) | st.binary(max_size=200))
@settings(QUICK, max_examples=500)
def test_made_up_bytes_are_refused(data: bytes) -> None:
    assert read_or_refused(data) is None


@pytest.mark.parametrize("genuine", GENUINE[:2], ids=["cades", "plain"])
def test_every_way_to_cut_it_off_is_refused(genuine: bytes) -> None:
    assert [read_or_refused(genuine[:size]) for size in range(len(genuine))] == [None] * len(genuine)


RIGHT = forge.attributes(P256, ONE.certificate, CONTENT)
WRONG = [
    *RIGHT.values(),
    *forge.attributes(P256, OTHER.certificate, b"other", confirmation="button").values(),
    forge.attribute(forge.SIGNING_TIME, tlv(0x17, b"261124020000Z")),
]
ATTRIBUTES = st.none() | st.lists(st.sampled_from(WRONG), max_size=6) | st.permutations(list(RIGHT.values()))
CERTIFICATES = st.lists(
    st.sampled_from([ONE.certificate, OTHER.certificate, BANK.issuing.der, BANK.root.der]), max_size=4
)


@pytest.mark.slow
@given(
    attributes=ATTRIBUTES,
    is_sorted=st.booleans(),
    certificates=CERTIFICATES | st.just([ONE.certificate]),
    version=st.sampled_from([1, 1, 1, 3]),
    signed_by=st.sampled_from([ONE.private, ONE.private, OTHER.private]),
    content=st.sampled_from([CONTENT, CONTENT, b"other"]),
)
@example(sorted(RIGHT.values()), False, [ONE.certificate], 1, ONE.private, CONTENT)
@example(None, False, [ONE.certificate], 1, ONE.private, CONTENT)
@settings(QUICK, max_examples=400)
def test_what_is_put_together_at_will_passes_only_as_the_genuine_thing(
    attributes: list[bytes] | None,
    is_sorted: bool,
    certificates: list[bytes],
    version: int,
    signed_by: pki.Key,
    content: bytes,
) -> None:
    listed = sorted(attributes) if attributes and is_sorted else attributes
    stock = sorted(set(certificates)) if is_sorted else certificates
    made = forge.Forgery(signed_by, ONE.certificate, P256, content, attributes=listed, certificates=stock)

    parts = read_or_refused(made.but(version=integer(version)).der())

    if parts is None or not _is_signed(parts):
        return
    assert (signed_by, version, parts.certificate) == (ONE.private, 1, ONE.certificate)
    assert set(parts.intermediates) <= {BANK.issuing.der, BANK.root.der}
    if parts.profile is Profile.CADES:
        assert listed == sorted(forge.attributes(P256, ONE.certificate, content, confirmation=_stated(parts)).values())


def _stated(parts: SignedOrderParts) -> str:
    assert isinstance(parts.confirmation, Confirmation)
    return parts.confirmation.value


def _is_signed(parts: SignedOrderParts) -> bool:
    public = ONE.private.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    try:
        public.verify(parts.signature, parts.signed_bytes, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
