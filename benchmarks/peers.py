"""The peers: bare loops and other libraries with the same token.

PyKCS11 and pyHanko are installed only in .venv-bench, so they are imported by name.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import cycle
from typing import Any, Final

import pkcs11
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key, pkcs7

from benchmarks.ours import signed_orders
from benchmarks.race import Work
from benchmarks.stage import Stage, orders, pin
from ushield_hw.cms import parse
from ushield_hw.crypto.algorithms import KeyKind, suites_for
from ushield_hw.crypto.private_key import token_private_key

_DIGESTS: Final = [hashlib.sha256(bytes([number])).digest() for number in range(200)]
_TO_BE_SIGNED: Final = b"x" * 999 + b"\n"  # as long as the journal's lines
_SIGNED: Final = b"x" * 1999 + b"\n"
_ROUNDS_OF_PBKDF2: Final = 20_000


def raw(stage: Stage) -> Work:
    """python-pkcs11 with C_SignInit and C_Sign over a digest only: the bare loop."""
    sign, digests = _Raw(stage).sign, cycle(_DIGESTS)
    return lambda: sign(next(digests))


def raw_synced(stage: Stage) -> Work:
    """The bare loop with the journal's number of syncs: before C_Sign, and after it."""
    sign, digests = _Raw(stage).sign, cycle(_DIGESTS)
    file = os.open(stage.folder / "synced", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def work() -> bytes:
        os.write(file, _TO_BE_SIGNED)
        os.fdatasync(file)
        signature = sign(next(digests))
        os.write(file, _SIGNED)
        os.fdatasync(file)
        return signature

    return work


def raw_synced_on_a_disk(stage: Stage) -> Work:
    """As :func:`raw_synced`, with each sync as slow as on a solid-state disk."""
    from benchmarks import ours

    ours.slow_syncs(ours.DISK_S)
    return raw_synced(stage)


def pykcs11(stage: Stage) -> Work:
    """The same with PyKCS11."""
    api: Any = import_module("PyKCS11")
    module = api.PyKCS11Lib()
    module.load(str(stage.module))
    slots = module.getSlotList(tokenPresent=True)
    slot = next(slot for slot in slots if module.getTokenInfo(slot).label.strip() == stage.ec.label)
    session = module.openSession(slot, api.CKF_SERIAL_SESSION)
    session.login(pin(stage.ec))
    (key,) = session.findObjects([(api.CKA_CLASS, api.CKO_PRIVATE_KEY)])
    mechanism, digests = api.Mechanism(api.CKM_ECDSA, None), cycle(_DIGESTS)
    return lambda: bytes(session.sign(key, next(digests), mechanism))


def pyca(stage: Stage) -> Work:
    """Order to CMS with cryptography's PKCS7SignatureBuilder and a private key object that signs on the token."""
    token = _Raw(stage)
    certificate = x509.load_der_x509_certificate(token.certificate)
    public: Any = certificate.public_key()
    suite = suites_for(KeyKind.EC_P256)[0]
    key: Any = token_private_key(public, suite, lambda message: token.sign(hashlib.sha256(message).digest()))
    endless, options = cycle(orders()), [pkcs7.PKCS7Options.Binary]

    def sign() -> bytes:
        builder = pkcs7.PKCS7SignatureBuilder().set_data(next(endless).canonical)
        return builder.add_signer(certificate, key, hashes.SHA256()).sign(Encoding.DER, options)

    return sign


def pyhanko(stage: Stage) -> Work:
    """Order to CAdES with pyHanko's own PKCS#11 signer."""
    api: Any = import_module("pyhanko.sign.pkcs11")
    token = _Raw(stage)
    certificate = asn1_x509.Certificate.load(token.certificate)
    signer = api.PKCS11Signer(token.session, signing_cert=certificate, key_id=token.key.id, use_raw_mechanism=True)
    endless, loop = cycle(orders()), asyncio.new_event_loop()

    def sign() -> bytes:
        signing = signer.async_sign_general_data(next(endless).canonical, "sha256", detached=False, use_cades=True)
        signed: bytes = loop.run_until_complete(signing).dump()
        return signed

    return sign


def raw_verify(stage: Stage) -> Work:
    """The same signatures over the same bytes, verified by cryptography with a key loaded in advance."""
    parts = [parse(der) for _, der in signed_orders(stage)]
    key, endless, how = load_der_public_key(parts[0].signer.spki), cycle(parts), ec.ECDSA(hashes.SHA256())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError(type(key).__name__)

    def verify() -> None:
        one = next(endless)
        key.verify(one.signature, one.signed_bytes, how)

    return verify


def one_core(stage: Stage) -> Work:
    """Two runs of PBKDF2 in OpenSSL, sequentially."""
    return _pbkdf2(1)


def two_cores(stage: Stage) -> Work:
    """Two runs of PBKDF2 in OpenSSL, in parallel: the current gain of a second core."""
    return _pbkdf2(2)


def _pbkdf2(threads: int) -> Work:
    pool = ThreadPoolExecutor(threads)

    def one(number: int) -> bytes:
        return hashlib.pbkdf2_hmac("sha256", b"password", bytes([number]), _ROUNDS_OF_PBKDF2)

    return lambda: list(pool.map(one, range(2)))


class _Raw:
    """The token through python-pkcs11 only."""

    def __init__(self, stage: Stage) -> None:
        token = pkcs11.lib(str(stage.module)).get_token(token_label=stage.ec.label)
        self.session: Any = token.open(user_pin=pin(stage.ec))
        self.key: Any = self.session.get_key(pkcs11.ObjectClass.PRIVATE_KEY)
        found = self.session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.CERTIFICATE})
        self.certificate = bytes(next(iter(found))[pkcs11.Attribute.VALUE])

    def sign(self, digest: bytes) -> bytes:
        """Return r||s."""
        signature: bytes = self.key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA)
        return signature
