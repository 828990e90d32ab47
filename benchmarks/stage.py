"""The common set-up: two soft tokens with a key and a certificate each, a CA, and orders to sign."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ushield_hw import Order, Session, Silent, find_token
from ushield_hw.backend.module import close_modules
from ushield_hw.certificates.certificate import install, request
from ushield_hw.config import Settings, data_dir
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.interaction import PinRequest
from ushield_hw.order.fresh import renewed
from ushield_hw.testing.softhsm import CONF_VARIABLE, SoftToken, provision
from ushield_hw.uri import TokenUri

_IN_PROCESS = 'isolation = "in-process"'
_IN_WORKER = 'isolation = "process"'


@dataclass(frozen=True, slots=True)
class Stage:
    """The set-up for measurements. It is pickled to the contestants' processes.

    Attributes:
        folder: all files of a run, on a disk.
        module: SoftHSM2's file.
        in_process: settings that run SoftHSM2 in the calling process.
        in_worker: settings that run it in a worker.
        ec: a token with a P-256 key for payments.
        rsa: a token with an RSA-2048 key for payments.
        ca: the certificate (DER) of the CA that issued both certificates.
    """

    folder: Path
    module: Path
    in_process: Settings
    in_worker: Settings
    ec: SoftToken
    rsa: SoftToken
    ca: bytes

    @property
    def environment(self) -> dict[str, str]:
        """The environment of commands, without settings of the current user."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            CONF_VARIABLE: os.environ[CONF_VARIABLE],
        }


class Holder(Silent):
    """A user who only enters the PIN."""

    def __init__(self, token: SoftToken) -> None:
        self._token = token

    def request_pin(self, ask: PinRequest) -> str:
        """Return the PIN."""
        return pin(self._token)


def set_up(folder: Path) -> Stage:
    """Create the tokens, the CA and the two certificates."""
    in_process = Settings(state_dir=folder / "state", drivers=(data_dir("drivers"),))
    made = provision(folder / "tokens", in_process)
    os.environ[CONF_VARIABLE] = str(made.conf)
    ca = _Authority()
    in_worker = in_process.with_flags(drivers=(_worker_drivers(folder / "drivers"), *in_process.drivers))
    first, second = made.tokens
    stage = Stage(folder, _module(first), in_process, in_worker, first, second, ca.certificate)
    for token, spec in ((stage.ec, KeySpec.EC_P256), (stage.rsa, KeySpec.RSA_2048)):
        with open_token(token, in_process) as session:
            install(session, ca.issue(request(session, spec, "CN=Benchmark,O=Demo Bank").pem))
    close_modules()
    return stage


def open_token(token: SoftToken, settings: Settings) -> Session:
    """Log in to a token."""
    return find_token(token.uri, settings=settings).open(Holder(token))


def pin(token: SoftToken) -> str:
    """Return a token's PIN."""
    return token.pin_file.read_text().strip()


def order_document() -> bytes:
    """Return a new order that can be signed for an hour, as JSON."""
    document: dict[str, Any] = json.loads((data_dir("examples") / "order.json").read_text(encoding="utf-8"))
    return json.dumps(renewed(document, timedelta(hours=1)), ensure_ascii=False, indent=2).encode()


def orders(count: int = 200) -> Sequence[Order]:
    """Return distinct orders; the default number suffices for signing or verifying them in turn."""
    return [Order.parse(order_document()) for _ in range(count)]


def _module(token: SoftToken) -> Path:
    path = TokenUri.parse(token.uri).module_path
    if path is None:
        raise RuntimeError("a soft token's URI names its module")
    return path


def _worker_drivers(folder: Path) -> Path:
    """Write a copy of SoftHSM2's descriptor with a worker process, as for vendor modules."""
    text = (data_dir("drivers") / "softhsm2.toml").read_text(encoding="utf-8")
    if _IN_PROCESS not in text:
        raise RuntimeError(f"softhsm2.toml does not say {_IN_PROCESS}")
    folder.mkdir()
    (folder / "softhsm2.toml").write_text(text.replace(_IN_PROCESS, _IN_WORKER), encoding="utf-8")
    return folder


class _Authority:
    """A CA for the benchmarks."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name.from_rfc4514_string("CN=Benchmark CA,O=Demo Bank")
        builder = self._builder(self._name, self._key.public_key(), ca=True)
        self.certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)

    def issue(self, csr: bytes) -> bytes:
        """Return a certificate for payments (PEM)."""
        asked = x509.load_pem_x509_csr(csr)
        builder = self._builder(asked.subject, asked.public_key(), ca=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _builder(self, subject: x509.Name, key: Any, *, ca: bool) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(_usage(ca=ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
