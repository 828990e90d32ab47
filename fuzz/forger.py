"""Mutates signed orders and then repairs some parts, including the signature, with the test keys.

A changed order is rarely accepted because of its signature. Therefore everything that a forger with a token and a CA
could make consistent is repaired at random, so that accepting paths are covered as often as rejecting ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fuzz.der import Bender, Node, read
from tests.unit.cms import forge, pki
from tests.unit.cms.people import BY_NAME, P256, P384, RSA, Bank
from tests.unit.order.samples import login, payment
from ushield_hw.cms import Confirmation, Profile
from ushield_hw.crypto.algorithms import SUITES, Suite
from ushield_hw.crypto.der import integer, oid, tlv

KEPT: Final = Path("build/fuzz/rsa.pem")  # findings must be reproducible with the same key

PSS: Final = BY_NAME["rsa-pss-sha256"]
CONTENTS: Final = tuple(
    order.canonical
    for order in (payment(), payment(purpose="学费"), login(), payment(payee__name="阿依古丽·买买提", purpose="a"))
)


def _ec(number: int, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number, curve())


def _rsa() -> rsa.RSAPrivateKey:
    if not KEPT.exists():
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        made = rsa.generate_private_key(65537, 2048)
        KEPT.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    loaded = load_pem_private_key(KEPT.read_bytes(), None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    return loaded


def _authority(subject: str, number: int, above: pki.Authority | None) -> pki.Authority:
    """Return a CA with a fixed key."""
    maker = above or pki.authority(subject)
    key = _ec(number)
    issued = pki.Authority(key if above is None else maker.key, maker.certificate).issue(
        subject,
        key.public_key(),
        key_usage=("keyCertSign", "cRLSign"),
        ca=True,
        serial=number,
        not_before=pki.NOW - 1000 * pki.DAY,
        not_after=pki.NOW + 3000 * pki.DAY,
    )
    return pki.Authority(key, issued)


def _bank() -> Bank:
    root = _authority("CN=Demo Root,O=Demo Bank", 1001, None)
    return Bank(root, _authority("CN=Demo Issuing CA,O=Demo Bank", 1002, root))


BANK: Final = _bank()
_KEYS: Final[dict[str, pki.Key]] = {P256.name: _ec(7), P384.name: _ec(8, ec.SECP384R1), RSA.name: _rsa()}
_BY_SPKI: Final = {
    key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo): key for key in _KEYS.values()
}


def certificate(suite: Suite) -> bytes:
    """Return the certificate of the customer's key for a suite, valid for payments and logins."""
    key = _KEYS.get(suite.name) or _KEYS[RSA.name]
    uses = ("nonRepudiation", "digitalSignature")
    return pki.der(BANK.issuing.issue("CN=张三,O=Demo Bank", key.public_key(), key_usage=uses, serial=77))


def seeds() -> list[bytes]:
    """Return genuine signed orders of every form."""
    found = []
    for suite in SUITES:
        private, own = _KEYS.get(suite.name) or _KEYS[RSA.name], certificate(suite)
        found += [
            pki.sign_order(CONTENTS[0], private, own, suite),
            pki.sign_order(CONTENTS[1], private, own, suite, profile=Profile.PLAIN),
        ]
    private, own = _KEYS[P256.name], certificate(P256)
    found += [
        pki.sign_order(CONTENTS[2], private, own, P256, intermediates=[BANK.issuing.der]),
        pki.sign_order(CONTENTS[2], private, own, P256, intermediates=[BANK.issuing.der, BANK.root.der]),
    ]
    return found + [
        pki.sign_order(CONTENTS[3], private, own, P256, confirmation=confirmation) for confirmation in Confirmation
    ]


WORDS: Final = (
    *(forge.attribute(forge.CONFIRMATION, tlv(0x0C, name.encode())) for name in ("host", "none", "button", "nobody")),
    forge.attribute(forge.SIGNING_TIME, tlv(0x17, b"261124020000Z")),
    forge.attribute(forge.CONTENT_TYPE, forge.ID_SIGNED_DATA),
    forge.ID_DATA,
    forge.ID_SIGNED_DATA,
    *(integer(number) for number in (0, 1, 3, 127, 128, 2**159)),
    *(
        b"\x02\x01\xff",
        b"\x02\x02\x00\x01",
        b"\x05\x00",
        b"\x01\x01\xff",
        b"\x01\x01\x01",
        b"\x01\x01\x00",
        b"\x30\x00",
    ),
    *(b"\x03\x02\x06\x40", b"\x03\x02\x06\xc0", b"\x03\x02\x07\x80", b"\x03\x01\x00", b"\x03\x03\x07\x06\x80"),
    *(b"\x17\x0d500101000000Z", b"\x18\x0f20491231235959Z", b"\x18\x0f99991231235959Z", b"\x17\x0d261124020060Z"),
    *(suite.digest_algorithm for suite in SUITES),
    *(suite.signature_algorithm for suite in SUITES),
    tlv(0x30, oid("1.3.14.3.2.26")),
    *(tlv(0x30, oid(f"2.5.29.{n}"), b"\x01\x01\xff", tlv(0x04, b"\x30\x00")) for n in (15, 17, 19, 30, 31, 35, 36, 37)),
    *(
        tlv(0x30, oid("2.5.29.19"), tlv(0x04, one))
        for one in (b"\x30\x03\x01\x01\xff", b"\x30\x03\x02\x01\x00", b"\x30\x00")
    ),
    *(
        tlv(0x30, oid("2.5.29.15"), tlv(0x04, one))
        for one in (b"\x03\x02\x06\xc0", b"\x03\x02\x02\x04", b"\x03\x01\x00")
    ),
    tlv(0x30, oid("2.5.29.37"), tlv(0x04, tlv(0x30, oid("1.3.6.1.5.5.7.3.1")))),
    tlv(0x30, oid("2.5.29.32"), b"\x01\x01\xff", tlv(0x04, tlv(0x30, tlv(0x30, oid("2.5.29.32.0"))))),
    tlv(0x30, oid("2.5.29.14"), tlv(0x04, tlv(0x04, bytes(20)))),
    tlv(0x30, oid("2.5.29.35"), tlv(0x04, tlv(0x30, tlv(0x80, bytes(20))))),
    tlv(0x30, oid("1.3.6.1.4.1.99999.1"), b"\x01\x01\xff", tlv(0x04, b"\x05\x00")),
    tlv(0x31, tlv(0x30, oid("2.5.4.3"), tlv(0x13, b"Somebody"))),
)


class Forger:
    """Derives a signed order from another."""

    def __init__(self) -> None:
        self._donors = [tree for seed in seeds() if (tree := read(seed)) is not None]

    def mutate(self, data: bytes, random: Random) -> bytes:
        """Mutate a signed order in one to three places and repair some parts."""
        tree = read(data)
        if tree is None or random.random() < 0.5:  # a rejected input rarely leads to an accepted one
            tree = read(random.choice(self._donors).written())
        assert tree is not None
        if random.random() < 0.15:
            attempt(lambda: _content(tree).set(random.choice(CONTENTS)))
        bender = Bender(random, WORDS, self._donors)
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            bender.bend(random.choice((tree, tree, *_parts(tree))))
        if random.random() < 0.85:
            _put_right(tree, random)
        return tree.written()


def attempt(step: Callable[[], object]) -> None:
    """Apply a step that may be impossible on the mutated tree."""
    try:
        step()
    except (IndexError, ValueError, TypeError, AttributeError, StopIteration):
        return


def _signed_data(tree: Node) -> Node:
    return tree.child(1, 0)


def _content(tree: Node) -> Node:
    return _signed_data(tree).child(2, 1, 0)


def _certificates(tree: Node) -> Node:
    return next(node for node in _signed_data(tree).children or [] if node.tag == 0xA0)


def _info(tree: Node) -> Node:
    return _signed_data(tree).child(-1, 0)


def _attributes(info: Node) -> Node | None:
    return next((node for node in info.children or [] if node.tag == 0xA0), None)


def _parts(tree: Node) -> list[Node]:
    """Return the parts to mutate more often: the attributes and the certificate's own fields."""
    found: list[Node] = []
    attempt(lambda: found.append(_info(tree)))
    for steps in ((0, 0), (0, 0, 5), (0, 0, -1, 0), (0, 0, -1, 0, -1)):  # the fields; name; extensions; one of them
        attempt(lambda steps=steps: found.append(_certificates(tree).child(*steps)))  # type: ignore[misc]
    return found


def _put_right(tree: Node, random: Random) -> None:
    steps = (_certify, _name_signer, _hash_certificate, _digest, _sort_attributes, _sort_certificates)
    for step in steps:
        if random.random() < 0.8:
            attempt(partial(step, tree))
    attempt(partial(_sign, tree))


def _certify(tree: Node) -> None:
    """Sign the signer's certificate again with the issuing CA's key."""
    signers = _own(tree)
    signers.child(2).set(b"\0" + pki.sign_der(BANK.issuing.key, signers.child(0).written()))


def _own(tree: Node) -> Node:
    """Return the certificate with one of the test keys."""
    return next(one for one in _certificates(tree).children or [] if _key_in(one) is not None)


def _key_in(node: Node) -> pki.Key | None:
    octets = node.written()
    return next((key for spki, key in _BY_SPKI.items() if spki in octets), None)


def _name_signer(tree: Node) -> None:
    fields = _own(tree).child(0).children or []
    at = next(n for n, one in enumerate(fields) if one.tag == 0x02)
    _info(tree).child(1).children = [fields[at + 2], fields[at]]


def _values(tree: Node, name: bytes) -> Node:
    attributes = _attributes(_info(tree))
    return next(one.child(1) for one in (attributes and attributes.children) or [] if one.child(0).written() == name)


def _hash_certificate(tree: Node) -> None:
    digest = hashlib.sha256(_own(tree).written()).digest()
    _values(tree, forge.SIGNING_CERTIFICATE_V2).child(0, 0, 0, 0).set(digest)


def _algorithm(tree: Node) -> hashes.HashAlgorithm:
    named = _info(tree).child(2).written()
    return hashes.SHA384() if named == P384.digest_algorithm else hashes.SHA256()


def _hash(tree: Node, message: bytes) -> bytes:
    return hashlib.new(_algorithm(tree).name, message).digest()


def _body(node: Node) -> bytes:
    return node.content if node.children is None else b"".join(one.written() for one in node.children)


def _digest(tree: Node) -> None:
    _values(tree, forge.MESSAGE_DIGEST).child(0).set(_hash(tree, _body(_content(tree))))


def _sort_attributes(tree: Node) -> None:
    attributes = _attributes(_info(tree))
    if attributes is not None and attributes.children:
        attributes.children.sort(key=Node.written)


def _sort_certificates(tree: Node) -> None:
    (_certificates(tree).children or []).sort(key=Node.written)


def _sign(tree: Node) -> None:
    info = _info(tree)
    attributes = _attributes(info)
    message = _body(_content(tree)) if attributes is None else tlv(0x31, _body(attributes))
    place = next(node for node in reversed(info.children or []) if node.tag == 0x04)
    key = _key_in(_own(tree))
    pss = place is not info.child(-1) or PSS.signature_algorithm in info.written()
    place.set(_signature(key, _hash(tree, message), _algorithm(tree), pss=pss))


def _signature(key: pki.Key | None, digest: bytes, algorithm: hashes.HashAlgorithm, *, pss: bool) -> bytes:
    done = Prehashed(algorithm)
    if isinstance(key, rsa.RSAPrivateKey):
        filled = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size) if pss else padding.PKCS1v15()
        return key.sign(digest, filled, done)
    assert key is not None
    return key.sign(digest, ec.ECDSA(done))
