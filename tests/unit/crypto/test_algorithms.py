"""The suites use the names of cryptography and openssl."""

from __future__ import annotations

import hashlib

import pytest
from asn1crypto.algos import DigestAlgorithm, DigestInfo, SignedDigestAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from ushield_hw.backend.pkcs11.ckr import NUMBERS
from ushield_hw.crypto.algorithms import (
    CURVES,
    DIGEST_INFO_PREFIX,
    SUITES,
    Feed,
    KeyKind,
    Padding,
    Suite,
    suites_for,
)

pytestmark = pytest.mark.unit

every_suite = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: str(suite.name))


def test_names_are_unique() -> None:
    assert len({suite.name for suite in SUITES}) == len(SUITES)


def test_design_3_3() -> None:
    """ECDSA P-256/P-384 with SHA-256/384, RSA PKCS#1 v1.5 or PSS."""
    assert {(suite.key, suite.padding, suite.digest) for suite in SUITES} == {
        (KeyKind.EC_P256, Padding.ECDSA, "sha256"),
        (KeyKind.EC_P384, Padding.ECDSA, "sha384"),
        *((KeyKind.RSA, padding, digest) for padding in (Padding.PKCS1, Padding.PSS) for digest in RSA_DIGESTS),
    }


RSA_DIGESTS = ("sha256", "sha384", "sha512")


@pytest.mark.parametrize("kind", list(KeyKind))
def test_every_kind_of_key_has_a_default(kind: KeyKind) -> None:
    assert suites_for(kind)[0].digest in {"sha256", "sha384"}
    assert all(suite.key is kind for suite in suites_for(kind))


@every_suite
def test_hash(suite: Suite) -> None:
    assert suite.hash(b"message") == hashlib.new(suite.digest, b"message").digest()


@every_suite
def test_algorithms_as_another_library_reads_them(suite: Suite) -> None:
    digest = DigestAlgorithm.load(suite.digest_algorithm, strict=True)
    signature = SignedDigestAlgorithm.load(suite.signature_algorithm, strict=True)
    assert digest["algorithm"].native == suite.digest
    assert (
        signature.signature_algo
        == {"ecdsa": "ecdsa", "pkcs1": "rsassa_pkcs1v15", "pss": "rsassa_pss"}[suite.padding.value]
    )
    assert signature.hash_algo == suite.digest


@pytest.mark.parametrize(
    "suite", [suite for suite in SUITES if suite.padding is Padding.PSS], ids=lambda s: str(s.name)
)
def test_pss_says_everything(suite: Suite) -> None:
    parameters = SignedDigestAlgorithm.load(suite.signature_algorithm)["parameters"]
    assert parameters["hash_algorithm"]["algorithm"].native == suite.digest
    assert parameters["mask_gen_algorithm"]["parameters"]["algorithm"].native == suite.digest
    assert parameters["salt_length"].native == hashlib.new(suite.digest).digest_size


@pytest.mark.parametrize("digest", sorted(DIGEST_INFO_PREFIX))
def test_digest_info(digest: str) -> None:
    value = hashlib.new(digest, b"message").digest()
    info = DigestInfo.load(DIGEST_INFO_PREFIX[digest] + value, strict=True)
    assert (info["digest_algorithm"]["algorithm"].native, info["digest"].native) == (digest, value)


@pytest.mark.parametrize(
    ("kind", "curve"), [(KeyKind.EC_P256, ec.SECP256R1()), (KeyKind.EC_P384, ec.SECP384R1())], ids=["p256", "p384"]
)
def test_the_order_of_a_curve(kind: KeyKind, curve: ec.EllipticCurve) -> None:
    ec.derive_private_key(CURVES[kind].order - 1, curve)
    with pytest.raises(ValueError, match=r"(?i)private|invalid|range"):
        ec.derive_private_key(CURVES[kind].order, curve)


# --- mechanisms -------------------------------------------------------------------------------------------------------


@every_suite
def test_a_host_that_hashes_prefers_to(suite: Suite) -> None:
    offered = [way.mechanism for way in suite.ways]
    way = suite.way(offered, hash_on_token=False)
    assert way is not None
    assert way.feed is not Feed.MESSAGE


@every_suite
def test_a_token_that_hashes_gets_the_message(suite: Suite) -> None:
    offered = [way.mechanism for way in suite.ways]
    way = suite.way(offered, hash_on_token=True)
    assert way is not None
    assert way.feed is Feed.MESSAGE


@every_suite
def test_what_is_offered_is_used(suite: Suite) -> None:
    for only in suite.ways:
        assert suite.way([only.mechanism, "AES_CBC"], hash_on_token=False) == only
    assert suite.way(["AES_CBC"], hash_on_token=False) is None


def test_ckr_numbers_are_there() -> None:
    assert NUMBERS["PIN_INCORRECT"] == 0xA0
