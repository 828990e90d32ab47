"""Wycheproof: signatures, most of them invalid on purpose, each inside a real signed order.

If signed orders use a file's algorithm, each signature must be accepted or rejected as the file states. Signatures by
other algorithms are presented as one that signed orders use, and none may be accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.suites import vectors
from tests.unit.cms import forge, pki
from tests.unit.cms.people import BY_NAME
from ushield_hw.crypto.algorithms import Suite
from ushield_hw.crypto.der import Reader, tlv
from ushield_hw.errors import BadSignature
from ushield_hw.verifier import check_signature

pytestmark = pytest.mark.unit

PKCS1 = tuple(BY_NAME[f"rsa-pkcs1-sha{bits}"] for bits in (256, 384, 512))
PSS = tuple(BY_NAME[f"rsa-pss-sha{bits}"] for bits in (256, 384, 512))
ECDSA = (BY_NAME["ecdsa-p256-sha256"], BY_NAME["ecdsa-p384-sha384"])

# The algorithms of signed orders; RSA-PSS with a salt as long as the digest, and one digest for both.
OURS: dict[str, Suite] = {
    "ecdsa_secp256r1_sha256": ECDSA[0],
    "ecdsa_secp384r1_sha384": ECDSA[1],
    "rsa_signature_2048_sha256": PKCS1[0],
    "rsa_signature_3072_sha256": PKCS1[0],
    "rsa_signature_4096_sha256": PKCS1[0],
    "rsa_signature_8192_sha256": PKCS1[0],
    "rsa_signature_2048_sha384": PKCS1[1],
    "rsa_signature_3072_sha384": PKCS1[1],
    "rsa_signature_4096_sha384": PKCS1[1],
    "rsa_signature_2048_sha512": PKCS1[2],
    "rsa_signature_3072_sha512": PKCS1[2],
    "rsa_signature_4096_sha512": PKCS1[2],
    "rsa_pss_2048_sha256_mgf1_32": PSS[0],
    "rsa_pss_3072_sha256_mgf1_32": PSS[0],
    "rsa_pss_4096_sha256_mgf1_32": PSS[0],
    "rsa_pss_2048_sha384_mgf1_48": PSS[1],
    "rsa_pss_4096_sha384_mgf1_48": PSS[1],
    "rsa_pss_4096_sha512_mgf1_64": PSS[2],
}
# Nothing else: other curves, digests and salts, SHA-1, RSA-PSS-only keys. Signatures with r and s concatenated
# (P1363) do not occur in CMS.
OTHERS: dict[str, tuple[Suite, ...]] = {
    "ecdsa_brainpoolP256r1_sha256": ECDSA,
    "ecdsa_secp256k1_sha256": ECDSA,
    "ecdsa_secp256r1_sha3_256": ECDSA[:1],
    "ecdsa_secp256r1_sha512": ECDSA[:1],
    "ecdsa_secp384r1_sha256": ECDSA[1:],
    "ecdsa_secp384r1_sha512": ECDSA[1:],
    "ecdsa_secp521r1_sha512": ECDSA,
    "ecdsa_secp256r1_sha256_p1363": ECDSA[:1],
    "ecdsa_secp384r1_sha384_p1363": ECDSA[1:],
    "rsa_pss_2048_sha1_mgf1_20": PSS[:1],
    "rsa_pss_2048_sha256_mgf1_0": PSS[:1],
    "rsa_pss_2048_sha256_mgf1_32_params": PSS[:1],
    "rsa_pss_2048_sha256_mgf1sha1_20": PSS[:1],
    "rsa_pss_2048_sha512_256_mgf1_32": PSS[:1],
    "rsa_pss_4096_sha512_mgf1_32": PSS[2:],
    "rsa_pss_misc": PSS[:1],
    "rsa_signature_2048_sha224": PKCS1[:1],
    "rsa_signature_2048_sha3_256": PKCS1[:1],
    "rsa_signature_2048_sha512_256": PKCS1[:1],
}

# Valid under the presented algorithm: the case changed digest or salt to it, or the group uses it.
RIGHT_AS_SHOWN = {
    "rsa_pss_2048_sha256_mgf1_0 69",
    "rsa_pss_misc 76",
    "rsa_signature_2048_sha224 219",
    "rsa_signature_2048_sha3_256 221",
    "rsa_signature_2048_sha512_256 221",
}


@dataclass(frozen=True)
class Vector:
    name: str
    spki: bytes
    message: bytes
    signature: bytes
    result: str


def vectors_of(name: str) -> Iterator[Vector]:
    for group in vectors.document(f"wycheproof/{name}_test.json.xz")["testGroups"]:
        spki = bytes.fromhex(group.get("publicKeyDer") or group["publicKeyAsn"])
        for test in group["tests"]:
            message, signature = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
            yield Vector(f"{name} {test['tcId']}", spki, message, signature, test["result"])


ROOT = pki.authority()
SHELL = pki.der(ROOT.issue("CN=A", pki.key().public_key()))


def certificate(spki: bytes, known: dict[bytes, bytes]) -> bytes:
    """Return a certificate for a key, signed by a CA."""
    if spki not in known:
        outer = Reader(SHELL).enter(0x30, "")
        fields, algorithm = outer.enter(0x30, ""), outer.element(0x30, "")
        parts = [tlv(*fields.any("")) for _ in range(6)]
        body = tlv(0x30, *parts, spki, tlv(*_skipped(fields)))
        known[spki] = tlv(0x30, body, algorithm, tlv(0x03, b"\0", pki.sign_der(ROOT.key, body)))
    return known[spki]


def _skipped(fields: Reader) -> tuple[int, bytes]:
    fields.any("")  # the key that is replaced
    return fields.any("")


def accepts(vector: Vector, suite: Suite, known: dict[bytes, bytes]) -> bool:
    """Put the signature into a signed order and tell whether it is accepted."""
    made = forge.plain(pki.key(), certificate(vector.spki, known), suite, vector.message)
    try:
        check_signature(made.but(signature=vector.signature).der())
    except BadSignature:
        return False
    return True


@pytest.mark.parametrize("name", OURS)
def test_every_signature_is_judged_as_the_suite_says(name: str) -> None:
    known: dict[bytes, bytes] = {}
    wrong = [
        (one.name, one.result)
        for one in vectors_of(name)
        if accepts(one, OURS[name], known) is not (one.result == "valid")
    ]
    assert wrong == []


@pytest.mark.parametrize("name", OTHERS)
def test_no_signature_of_another_algorithm_is_accepted(name: str) -> None:
    known: dict[bytes, bytes] = {}
    accepted = {one.name for one in vectors_of(name) for suite in OTHERS[name] if accepts(one, suite, known)}

    assert accepted == {one for one in RIGHT_AS_SHOWN if one.startswith(f"{name} ")}


def test_no_file_is_left_out() -> None:
    vectors.there("wycheproof")
    there = {file.name.removesuffix("_test.json.xz") for file in (vectors.FOLDER / "wycheproof").glob("*_test.json.xz")}

    assert there == OURS.keys() | OTHERS.keys()
