"""The virtual card with unmodified third-party programs: OpenSC's pkcs11-tool and sc-hsm-tool."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from ushield_hw.testing.card.ushield import Model
from ushield_hw.testing.shield import VirtualShield

pytestmark = pytest.mark.stack

MESSAGE: Final = "收款人 128.50".encode()


class Tool:
    """pkcs11-tool with a card without confirmation, which has an EC key (id 0a) and an RSA key (id 0b)."""

    def __init__(self, shield: VirtualShield, folder: Path) -> None:
        self.shield = shield
        self.folder = folder
        self.message = folder / "message"
        self.message.write_bytes(MESSAGE)
        self("--keypairgen", "--key-type", "EC:secp384r1", "--id", "0a")
        self("--keypairgen", "--key-type", "rsa:2048", "--id", "0b")

    def __call__(self, *arguments: str) -> str:
        # This PIN belongs to a test token; pkcs11-tool accepts it from a program in no other way.
        command = ["pkcs11-tool", "--module", str(self.shield._module), "--login", "--pin", self.shield.pin, *arguments]
        environment = {**os.environ, **self.shield.host_env}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def output(self, *arguments: str) -> bytes:
        made = self.folder / "output"
        made.unlink(missing_ok=True)
        self(*arguments, "--output-file", str(made))
        return made.read_bytes()

    def key(
        self, kind: type[ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]
    ) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
        keys = (load_der_private_key(der, None) for der in self.shield.card.memory.keys.values())
        return next(key for key in keys if isinstance(key, kind))


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    with VirtualShield(model=Model.NONE, certified=False) as shield:
        yield Tool(shield, tmp_path_factory.mktemp("tool"))


@pytest.mark.parametrize("name", ["SHA256", "SHA384", "SHA512"])
def test_ecdsa_over_a_message(tool: Tool, name: str) -> None:
    raw = tool.output("--sign", "--mechanism", f"ECDSA-{name}", "--id", "0a", "--input-file", str(tool.message))
    half = len(raw) // 2
    signature = encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    key = tool.key(ec.EllipticCurvePrivateKey)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    key.public_key().verify(signature, MESSAGE, ec.ECDSA(getattr(hashes, name)()))


@pytest.mark.parametrize("name", ["SHA256", "SHA384", "SHA512"])
def test_rsa_over_a_message(tool: Tool, name: str) -> None:
    mechanism = f"{name}-RSA-PKCS"
    signature = tool.output("--sign", "--mechanism", mechanism, "--id", "0b", "--input-file", str(tool.message))
    key = tool.key(rsa.RSAPrivateKey)
    assert isinstance(key, rsa.RSAPrivateKey)
    key.public_key().verify(signature, MESSAGE, padding.PKCS1v15(), getattr(hashes, name)())


def test_rsa_decipher(tool: Tool) -> None:
    key = tool.key(rsa.RSAPrivateKey)
    assert isinstance(key, rsa.RSAPrivateKey)
    secret = tool.folder / "secret"
    secret.write_bytes(key.public_key().encrypt(MESSAGE, padding.PKCS1v15()))
    assert tool.output("--decrypt", "--mechanism", "RSA-PKCS", "--id", "0b", "--input-file", str(secret)) == MESSAGE


def test_ecdh(tool: Tool) -> None:
    key, other = tool.key(ec.EllipticCurvePrivateKey), ec.generate_private_key(ec.SECP384R1())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    public = tool.folder / "other.der"
    public.write_bytes(other.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    made = tool.output("--derive", "--mechanism", "ECDH1-DERIVE", "--id", "0a", "--input-file", str(public))
    assert made == key.exchange(ec.ECDH(), other.public_key())


def test_logging_out_locks_the_card(tool: Tool) -> None:
    """pkcs11-tool ends with C_Logout: the next program has no login."""
    tool("--list-objects")
    answer = tool.shield.card.transmit(bytes.fromhex("00200081"))
    assert answer.hex().startswith("63c")


def test_one_reader_is_shown_for_one_token(tool: Tool) -> None:
    environment = {**os.environ, **tool.shield.host_env}
    shown = subprocess.run(
        ["opensc-tool", "-l"], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert [line.split()[:2] for line in shown.stdout.splitlines()[2:]] == [["0", "Yes"]]


def test_it_is_initialised_by_sc_hsm_tool(tmp_path: Path) -> None:
    with VirtualShield(model=Model.NONE, certified=False) as shield:
        environment = {**os.environ, **shield.host_env}
        command = ["sc-hsm-tool", "--initialize", "--so-pin", shield.so_pin, "--pin", "648219", "--label", "Payroll"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        listed = ["pkcs11-tool", "--module", str(shield._module), "-L"]
        shown = subprocess.run(listed, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
        assert "Payroll" in shown
        assert "ushield_hw none" in shown
