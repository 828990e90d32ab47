"""A SmartCard-HSM as OpenSC's sc-hsm driver drives it: files, keys, PIN and SO PIN.

The command set is what OpenSC 0.23 sends (``card-sc-hsm.c``, ``pkcs15-sc-hsm.c`` were read). What a signature takes
beyond a PIN is for a subclass to say: :meth:`SmartCardHsm.allow`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, NoReturn

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from ushield_hw.testing.card import apdu
from ushield_hw.testing.card.apdu import Chaining, Command, Refused, tlv, tlvs
from ushield_hw.testing.card.memory import Memory, Secret

AID: Final = bytes.fromhex("E82B0601040181C31F0201")
ATR: Final = bytes.fromhex("3BFE1800008131FE458031815448534D31738021408107FA")
_VERSION: Final = bytes((3, 5))
_USER, _SO = 0x81, 0x88
_SECRETS: Final = {_USER: "user", _SO: "so"}
_DEVICE_CERTIFICATE, _TOKEN_INFO = 0x2F02, 0x2F03
_KEY: Final = 0xCC00
_SO_LENGTH: Final = 8
_PIN_LENGTHS: Final = range(6, 16)
_HASHES: Final[dict[int, Callable[[], hashes.HashAlgorithm] | None]] = {
    0x70: None,
    0x71: hashes.SHA1,
    0x72: hashes.SHA224,
    0x73: hashes.SHA256,
}
_PREHASHED: Final[dict[int, Callable[[], hashes.HashAlgorithm]]] = {
    made().digest_size: made for made in (hashes.SHA1, hashes.SHA224, hashes.SHA256, hashes.SHA384, hashes.SHA512)
}
_RSA_RAW, _RSA_PSS = 0x20, 0x40
_PRIMES: Final = {
    0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF: ec.SECP256R1(),
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFFFF0000000000000000FFFFFFFF: ec.SECP384R1(),
}
_EXPONENT: Final = 65537

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class SmartCardHsm:
    """The card. One thread calls it.

    Args:
        memory: what it remembers; :func:`blank` makes a new one.
    """

    atr: bytes = ATR

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._chaining = Chaining()
        self._verified: set[str] = set()
        self._current = 0
        self._commands: dict[int, Callable[[Command], bytes]] = {
            0xA4: self._select,
            0xB1: self._read,
            0xD7: self._write,
            0xE4: self._delete,
            0x58: self._list,
            0x20: self._verify,
            0x24: self._change,
            0x2C: self._reset_retry,
            0x84: self._challenge,
            0x46: self._generate,
            0x68: self._sign,
        }

    def reset(self) -> None:
        """Forget the logins."""
        self._chaining.clear()
        self._verified.clear()

    def pulled_out(self) -> None:
        """Nothing to do here."""

    def transmit(self, command: bytes) -> bytes:
        """Answer one command APDU."""
        try:
            return self._answer(Command.parse(command))
        except Refused as refused:
            return refused.data + refused.sw.to_bytes(2, "big")

    def allow(self, reference: int, key: PrivateKey, algorithm: int, data: bytes) -> None:
        """Let a key sign, or raise ``Refused``."""
        self.needs("user")

    def signed(self) -> None:
        """A signature was made."""

    def needs(self, name: str) -> None:
        """Refuse unless a secret was verified since the last reset."""
        if name not in self._verified:
            raise Refused(apdu.SECURITY_NOT_SATISFIED)

    def verified(self, name: str) -> None:
        """A secret was verified just now."""
        self._verified.add(name)

    def _answer(self, command: Command) -> bytes:
        if command.ins == apdu.GET_RESPONSE:
            return self._chaining.more(command)
        whole = self._chaining.collect(command)
        if whole is None:
            return apdu.OK.to_bytes(2, "big")
        do = self._commands.get(whole.ins)
        if do is None:
            raise Refused(apdu.INS_NOT_SUPPORTED)
        return self._chaining.answer(do(whole), whole)

    # -- files --------------------------------------------------------------------------------------------------

    def _select(self, command: Command) -> bytes:
        if command.p1 == 4:
            if command.data != AID:
                raise Refused(apdu.FILE_NOT_FOUND)
            return tlv(0x6F, tlv(0x82, b"\x78"), tlv(0x84, AID), tlv(0x85, b"\x00\x00" + _VERSION))
        if command.data == b"\x3f\x00":
            return tlv(0x6F, tlv(0x82, b"\x38"), tlv(0x83, command.data))
        self._current = int.from_bytes(command.data, "big")
        content = self._file(self._current)
        size = len(content).to_bytes(2, "big")
        return tlv(0x62, tlv(0x80, size), tlv(0x82, b"\x01"), tlv(0x83, command.data))

    def _file(self, name: int) -> bytes:
        if name == _DEVICE_CERTIFICATE:
            return self._device_certificate()
        if name == _TOKEN_INFO:
            return self.token_info()
        if name not in self.memory.files:
            raise Refused(apdu.FILE_NOT_FOUND)
        return self.memory.files[name]

    def token_info(self) -> bytes:
        """Return EF.TokenInfo (ISO/IEC 7816-15): what the token calls itself."""
        return token_info(self.memory.serial, "SmartCard-HSM", "ushield_hw")

    def _read(self, command: Command) -> bytes:
        content = self._file(command.p1p2 or self._current)
        parts = dict(tlvs(command.data))
        start = int.from_bytes(parts.get(0x54, b""), "big")
        return content[start : start + (command.le or len(content))]

    def _write(self, command: Command) -> bytes:
        self.needs("user")
        parts = dict(tlvs(command.data))
        start, fresh = int.from_bytes(parts.get(0x54, b""), "big"), parts.get(0x53, b"")
        self._current = command.p1p2 or self._current
        with self.memory.writing():
            old = self.memory.files.get(self._current, b"")
            kept = old[:start].ljust(start, b"\0")
            self.memory.files[self._current] = kept + fresh + (old[start + len(fresh) :] if start else b"")
        return b""

    def _delete(self, command: Command) -> bytes:
        self.needs("user")
        name = int.from_bytes(command.data, "big")
        with self.memory.writing():
            gone = self.memory.files.pop(name, None)
            if name & 0xFF00 == _KEY:
                gone = self.memory.keys.pop(name & 0xFF, gone)
            if gone is None:
                raise Refused(apdu.FILE_NOT_FOUND)
        return b""

    def _list(self, command: Command) -> bytes:
        keys = (_KEY | key for key in (0, *sorted(self.memory.keys)))  # 0 is the device's own
        names = [_DEVICE_CERTIFICATE, *keys, *sorted(self.memory.files)]
        return b"".join(name.to_bytes(2, "big") for name in names)

    def _device_certificate(self) -> bytes:
        """Return a card verifiable certificate: OpenSC takes the serial number from its holder reference."""
        name = self.memory.serial.encode() + b"00000"
        key = tlv(0x7F49, tlv(0x06, bytes.fromhex("04007F00070202020203")), tlv(0x86, b"\x04" + bytes(64)))
        body = tlv(0x7F4E, tlv(0x5F29, b"\0"), tlv(0x42, b"UTCA00001"), key, tlv(0x5F20, name))
        return tlv(0x7F21, body, tlv(0x5F37, bytes(64)))

    # -- PINs ---------------------------------------------------------------------------------------------------

    def _secret(self, reference: int) -> tuple[str, Secret]:
        name = _SECRETS.get(reference)
        if name is None or name not in self.memory.secrets:
            raise Refused(apdu.REFERENCE_NOT_FOUND)
        return name, self.memory.secrets[name]

    def _verify(self, command: Command) -> bytes:
        name, secret = self._secret(command.p2)
        if not command.data:
            if name in self._verified:
                return b""
            self._tell_tries(secret)
        self._check(name, secret, command.data)
        self.verified(name)
        return b""

    def _check(self, name: str, secret: Secret, value: bytes) -> None:
        self._verified.discard(name)
        if not secret.length:
            raise Refused(apdu.DATA_INVALID)
        right = secret.check(value)
        self.memory.save()
        if not right:
            self._tell_tries(secret)

    def _tell_tries(self, secret: Secret) -> NoReturn:
        if not secret.length:
            raise Refused(apdu.DATA_INVALID)
        raise Refused(apdu.PIN_TRIES | min(secret.left, 15) if secret.left else apdu.PIN_BLOCKED)

    def _change(self, command: Command) -> bytes:
        name, secret = self._secret(command.p2)
        old, fresh = command.data[: secret.length], command.data[secret.length :]
        self._check(name, secret, old)
        self._set(name, secret, fresh)
        return b""

    def _reset_retry(self, command: Command) -> bytes:
        so = self.memory.secrets["so"]
        self._check("so", so, command.data[:_SO_LENGTH])
        name, secret = self._secret(command.p2)
        if command.p1 == 0:
            self._set(name, secret, command.data[_SO_LENGTH:])
        else:
            secret.left = secret.most
            self.memory.save()
        self._verified.discard(name)
        return b""

    def _set(self, name: str, secret: Secret, fresh: bytes) -> None:
        if len(fresh) != _SO_LENGTH if name == "so" else len(fresh) not in _PIN_LENGTHS:
            raise Refused(apdu.WRONG_LENGTH)
        secret.set(fresh)
        self.memory.save()

    def _challenge(self, command: Command) -> bytes:
        return secrets.token_bytes(command.le or 8)

    # -- keys ---------------------------------------------------------------------------------------------------

    def _generate(self, command: Command) -> bytes:
        self.needs("user")
        wanted = dict(tlvs(dict(tlvs(command.data)).get(0x7F49, b"")))
        key = _made(wanted)
        with self.memory.writing():
            self.memory.keys[command.p1] = key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        return _request(wanted, key)

    def _sign(self, command: Command) -> bytes:
        reference, algorithm = command.p1, command.p2
        if reference not in self.memory.keys:
            raise Refused(apdu.FILE_NOT_FOUND)
        key = serialization.load_der_private_key(self.memory.keys[reference], None)
        assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)  # noqa: S101 - no others are made
        self.allow(reference, key, algorithm, command.data)
        signature = _signature(key, algorithm, command.data)
        self.signed()
        return signature


def token_info(serial: str, label: str, manufacturer: str) -> bytes:
    """Return a TokenInfo of ISO/IEC 7816-15, as far as OpenSC shows it."""
    parts = [tlv(0x02, b"\1"), tlv(0x04, serial.encode()), tlv(0x0C, manufacturer.encode())]
    return tlv(0x30, *parts, tlv(0x80, label.encode()), tlv(0x03, b"\4\x30"))


def blank(serial: str, pin: str, so_pin: str, *, tries: int, so_tries: int = 15) -> Memory:
    """Return the memory of a card with nothing on it.

    Args:
        serial: upper-case letters and digits, at most 11.
        pin: the user PIN, 6 to 15 bytes.
        so_pin: 16 hexadecimal digits.
        tries: for the user PIN.
        so_tries: for the SO PIN.
    """
    memory = Memory(serial)
    memory.secrets["user"] = Secret.of(pin.encode(), tries)
    memory.secrets["so"] = Secret.of(bytes.fromhex(so_pin), so_tries)
    return memory


def _made(wanted: dict[int, bytes]) -> PrivateKey:
    prime = int.from_bytes(wanted.get(0x81, b""), "big")
    if prime in _PRIMES:
        return ec.generate_private_key(_PRIMES[prime])
    bits = int.from_bytes(wanted.get(0x02, b""), "big")
    if bits in {2048, 3072, 4096}:
        return rsa.generate_private_key(_EXPONENT, bits)
    raise Refused(apdu.WRONG_DATA)


def _request(wanted: dict[int, bytes], key: PrivateKey) -> bytes:
    """Return the card verifiable certificate request that tells the public key. Nobody checks its signatures."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        parts = {**{tag: value for tag, value in wanted.items() if tag != 0x06}, 0x86: point}
    else:
        numbers = key.public_key().public_numbers()
        parts = {0x81: numbers.n.to_bytes(key.key_size // 8, "big"), 0x82: numbers.e.to_bytes(3, "big")}
    described = [tlv(tag, value) for tag, value in sorted(parts.items())]
    public = tlv(0x7F49, tlv(0x06, wanted.get(0x06, b"")), *described)
    body = tlv(0x7F4E, tlv(0x5F29, b"\0"), tlv(0x42, b"USHIELD00000"), public, tlv(0x5F20, b"USHIELD00000"))
    return tlv(0x67, tlv(0x7F21, body, tlv(0x5F37, bytes(64))), tlv(0x42, b"USHIELD00000"), tlv(0x5F37, bytes(64)))


def _signature(key: PrivateKey, algorithm: int, data: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return _rsa_pss(key, data) if algorithm == _RSA_PSS else _rsa_raw(key, algorithm, data)
    if algorithm not in _HASHES:
        raise Refused(apdu.WRONG_PARAMETERS)
    hashing = _HASHES[algorithm]
    if hashing is not None:
        return key.sign(data, ec.ECDSA(hashing()))
    return key.sign(data, ec.ECDSA(utils.Prehashed(_hash_of(data))))


def _rsa_raw(key: rsa.RSAPrivateKey, algorithm: int, data: bytes) -> bytes:
    numbers, number = key.private_numbers(), int.from_bytes(data, "big")
    if algorithm != _RSA_RAW or len(data) != key.key_size // 8 or number >= numbers.public_numbers.n:
        raise Refused(apdu.WRONG_DATA)
    return pow(number, numbers.d, numbers.public_numbers.n).to_bytes(len(data), "big")


def _rsa_pss(key: rsa.RSAPrivateKey, digest: bytes) -> bytes:
    hashing = _hash_of(digest)
    salted = padding.PSS(padding.MGF1(hashing), hashing.digest_size)
    return key.sign(digest, salted, utils.Prehashed(hashing))


def _hash_of(digest: bytes) -> hashes.HashAlgorithm:
    """Return the hash that makes digests of this length."""
    if len(digest) not in _PREHASHED:
        raise Refused(apdu.WRONG_DATA)
    return _PREHASHED[len(digest)]()
