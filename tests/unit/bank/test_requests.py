"""Requests as untrusted input: which are refused, with which error, for arbitrary bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.bank.world import SUBJECT, SoftKey
from ushield_hw.bank.ca.requests import MOST_OCTETS, read_request
from ushield_hw.errors import RequestRefused

pytestmark = pytest.mark.unit

GOOD = SoftKey().pkcs10()


def refusal(der: bytes) -> str:
    with pytest.raises(RequestRefused) as caught:
        read_request(der)
    return caught.value.code


def signed_by(key: object, digest: hashes.HashAlgorithm | None) -> bytes:
    name = x509.Name.from_rfc4514_string(SUBJECT)
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, digest).public_bytes(Encoding.DER)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key",
    [
        SoftKey(),
        SoftKey(ec.generate_private_key(ec.SECP384R1())),
        SoftKey(rsa.generate_private_key(65537, 2048)),
    ],
    ids=["p256", "p384", "rsa"],
)
def test_a_good_request(key: SoftKey) -> None:
    found = read_request(key.pkcs10())
    assert (found.spki, found.spki_sha256) == (key.spki, key.spki_sha256)
    assert found.subject.rfc4514_string() == SUBJECT


@pytest.mark.parametrize(
    "der",
    [
        signed_by(rsa.generate_private_key(65537, 1024), hashes.SHA256()),  # noqa: S505 - weak on purpose
        signed_by(rsa.generate_private_key(3, 2048), hashes.SHA256()),
        signed_by(ec.generate_private_key(ec.SECP521R1()), hashes.SHA256()),
        signed_by(ec.generate_private_key(ec.SECP256K1()), hashes.SHA256()),
        signed_by(ed25519.Ed25519PrivateKey.generate(), None),
        signed_by(dsa.generate_private_key(1024), hashes.SHA256()),  # noqa: S505 - likewise
    ],
    ids=["rsa-1024", "rsa-e3", "p521", "k256", "ed25519", "dsa"],
)
def test_keys_that_sign_no_orders(der: bytes) -> None:
    assert refusal(der) == "KEY_TOO_WEAK"


def test_a_weak_digest(tmp_path: Path) -> None:
    words = ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-sha1", "-subj", "/CN=x", "-outform", "DER"]
    made = subprocess.run(
        ["openssl", *words, "-keyout", str(tmp_path / "key")], capture_output=True, timeout=60, check=True
    )
    assert refusal(made.stdout) == "KEY_TOO_WEAK"


def test_a_curve_that_is_spelt_out(tmp_path: Path) -> None:
    """The library recognises the named curve in explicit parameters, which RFC 5480 section 2.1.1 forbids."""
    kinds = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"]
    words = ["req", "-new", *kinds, "-nodes", "-subj", "/CN=x", "-outform", "DER", "-keyout", str(tmp_path / "key")]
    made = subprocess.run(["openssl", *words], capture_output=True, timeout=60, check=True)
    assert refusal(made.stdout) == "KEY_TOO_WEAK"


@pytest.mark.parametrize("version", [1, 2, 255])
def test_a_version_that_there_is_not(version: int) -> None:
    assert GOOD.count(b"\x02\x01\x00\x30") == 1
    assert refusal(GOOD.replace(b"\x02\x01\x00\x30", b"\x02\x01%c\x30" % version)) == "REQUEST_MALFORMED"


def test_signed_by_another_key() -> None:
    forged = GOOD.replace(read_request(GOOD).spki, SoftKey().spki)
    assert forged != GOOD
    assert refusal(forged) == "PROOF_WRONG"


def test_another_name_under_the_same_signature() -> None:
    assert refusal(GOOD.replace(b"Demo Bank", b"Evil Bank")) == "PROOF_WRONG"


def test_too_long() -> None:
    assert refusal(GOOD + bytes(MOST_OCTETS)) == "REQUEST_MALFORMED"


@given(st.binary(max_size=400))
def test_noise_is_malformed(noise: bytes) -> None:
    assert refusal(noise) == "REQUEST_MALFORMED"


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_changed_octet_gets_through(at: int, by: int) -> None:
    changed = bytearray(GOOD)
    changed[at] ^= by
    assert refusal(bytes(changed)) in {"REQUEST_MALFORMED", "PROOF_WRONG", "KEY_TOO_WEAK"}


@given(st.integers(0, len(GOOD) - 1))
def test_cut_off_is_malformed(at: int) -> None:
    assert refusal(GOOD[:at]) == "REQUEST_MALFORMED"


@given(st.binary(min_size=1, max_size=20))
def test_nothing_may_follow(more: bytes) -> None:
    assert refusal(GOOD + more) == "REQUEST_MALFORMED"
