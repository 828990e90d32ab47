"""A virtual SmartCard-HSM for OpenSC's sc-hsm driver: files, keys, PIN and SO PIN.

It implements the commands that OpenSC 0.23 and 0.27 send (source: ``card-sc-hsm.c``, ``card-sc-hsm.h``,
``pkcs15-sc-hsm.c``). Subclasses define what a signature or decryption needs besides the PIN: :meth:`SmartCardHsm.allow`
and :meth:`SmartCardHsm.allow_decipher`.
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
_HASHES: Final[dict[int, Callable[[], hashes.HashAlgorithm]]] = {  # key: the low half of the algorithm number
    0x1: hashes.SHA1,
    0x2: hashes.SHA224,
    0x3: hashes.SHA256,
    0x4: hashes.SHA384,
    0x5: hashes.SHA512,
}
_PREHASHED: Final[dict[int, Callable[[], hashes.HashAlgorithm]]] = {
    made().digest_size: made for made in (hashes.SHA1, hashes.SHA224, hashes.SHA256, hashes.SHA384, hashes.SHA512)
}
# The high half of the algorithm number. A low half of 0 means that the host has hashed (and, for RSA_RAW, padded).
_RSA_RAW, _RSA_DECIPHER, _RSA_PKCS1, _RSA_PSS, _ECDSA, _ECDH = 0x20, 0x21, 0x30, 0x40, 0x70, 0x80
_MOST_TRIES: Final = 10
_PRIMES: Final = {
    0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF: ec.SECP256R1(),
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFFFF0000000000000000FFFFFFFF: ec.SECP384R1(),
}
_EXPONENT: Final = 65537

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class SmartCardHsm:
    """The card. Not thread-safe.

    Args:
        memory: its non-volatile memory; :func:`blank` creates a new one.
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
            0x50: self._initialize,
            0x62: self._decipher,
            0x68: self._sign,
        }

    def reset(self) -> None:
        """Clear the logins."""
        self._chaining.clear()
        self.logged_out()

    def pulled_out(self) -> None:
        """Do nothing: this card never waits."""

    def transmit(self, command: bytes) -> bytes:
        """Return the response APDU for a command APDU."""
        try:
            return self._answer(Command.parse(command))
        except Refused as refused:
            return refused.data + refused.sw.to_bytes(2, "big")

    def allow(self, reference: int, key: PrivateKey, algorithm: int, data: bytes) -> None:
        """Authorize a signature.

        Raises:
            Refused: it is not allowed.
        """
        self.needs("user")

    def allow_decipher(self, reference: int) -> None:
        """Authorize a decryption or key agreement.

        Raises:
            Refused: it is not allowed.
        """
        self.needs("user")

    def signed(self) -> None:
        """Called after a signature was made."""

    def needs(self, name: str) -> None:
        """Raise ``Refused`` unless a secret was verified since the last reset."""
        if name not in self._verified:
            raise Refused(apdu.SECURITY_NOT_SATISFIED)

    def verified(self, name: str) -> None:
        """Called after a secret was verified."""
        self._verified.add(name)

    def logged_out(self) -> None:
        """Clear all logins."""
        self._verified.clear()

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
            self.logged_out()  # selecting the applet again ends its logins; OpenSC's C_Logout does nothing else
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
            return self.token_info(self._label())
        if name not in self.memory.files:
            raise Refused(apdu.FILE_NOT_FOUND)
        return self.memory.files[name]

    def token_info(self, label: str | None) -> bytes:
        """Return EF.TokenInfo (ISO/IEC 7816-15). ``label``: the label set at initialization, or None."""
        return token_info(self.memory.serial, label or "SmartCard-HSM", "ushield_hw")

    def _label(self) -> str | None:
        """Return the label in the EF.TokenInfo that was written at initialization, or None."""
        for _, info in tlvs(self.memory.files.get(_TOKEN_INFO, b"")):
            return next((value.decode("utf-8", "replace") for tag, value in tlvs(info) if tag == 0x80), None)
        return None

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
        keys = (_KEY | key for key in (0, *sorted(self.memory.keys)))  # 0 is the device's own key
        names = [_DEVICE_CERTIFICATE, *keys, *sorted(self.memory.files)]
        return b"".join(name.to_bytes(2, "big") for name in names)

    def _device_certificate(self) -> bytes:
        """Return a card verifiable certificate; OpenSC reads the serial number from its holder reference."""
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

    def _initialize(self, command: Command) -> bytes:
        """Erase everything and set both PINs, if the SO PIN (the "initialisation code") is correct."""
        wanted = dict(tlvs(command.data))
        code, pin = wanted.get(0x82, b""), wanted.get(0x81, b"")
        tries = int.from_bytes(wanted.get(0x91, b"\3"), "big")
        if len(code) != _SO_LENGTH or (pin and len(pin) not in _PIN_LENGTHS) or not 1 <= tries <= _MOST_TRIES:
            raise Refused(apdu.WRONG_DATA)
        so = self.memory.secrets["so"]
        right = so.check(code)
        self.memory.save()
        if not right:
            raise Refused(apdu.NOT_SATISFIED if so.left else apdu.PIN_BLOCKED)  # OpenSC reports both as a wrong PIN
        with self.memory.writing():
            self.memory.files.clear()
            self.memory.keys.clear()
            self.memory.secrets["user"] = Secret.of(pin, tries) if pin else Secret(tries, tries)
        self.logged_out()
        return b""

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

    def _key(self, reference: int) -> PrivateKey:
        if reference not in self.memory.keys:
            raise Refused(apdu.FILE_NOT_FOUND)
        key = serialization.load_der_private_key(self.memory.keys[reference], None)
        assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)  # noqa: S101 - no others are made
        return key

    def _sign(self, command: Command) -> bytes:
        reference, algorithm = command.p1, command.p2
        key = self._key(reference)
        _check_algorithm(key, algorithm)
        self.allow(reference, key, algorithm, command.data)
        signature = _signature(key, algorithm, command.data)
        self.signed()
        return signature

    def _decipher(self, command: Command) -> bytes:
        key = self._key(command.p1)
        if command.p2 != (_RSA_DECIPHER if isinstance(key, rsa.RSAPrivateKey) else _ECDH):
            raise Refused(apdu.WRONG_PARAMETERS)
        self.allow_decipher(command.p1)
        return _rsa_raw(key, command.data) if isinstance(key, rsa.RSAPrivateKey) else _agreed(key, command.data)


def token_info(serial: str, label: str, manufacturer: str) -> bytes:
    """Return a TokenInfo (ISO/IEC 7816-15) with the fields that OpenSC shows."""
    parts = [tlv(0x02, b"\1"), tlv(0x04, serial.encode()), tlv(0x0C, manufacturer.encode())]
    return tlv(0x30, *parts, tlv(0x80, label.encode()), tlv(0x03, b"\4\x30"))


def blank(serial: str, pin: str, so_pin: str, *, tries: int, so_tries: int = 15) -> Memory:
    """Return the memory of an empty card.

    Args:
        serial: upper-case letters and digits, at most 11.
        pin: the user PIN, 6 to 15 bytes.
        so_pin: 16 hexadecimal digits.
        tries: number of attempts for the user PIN.
        so_tries: number of attempts for the SO PIN.
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
    """Return the card verifiable certificate request with the public key. OpenSC does not check its signatures."""
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


def _check_algorithm(key: PrivateKey, algorithm: int) -> None:
    kind, hashing = algorithm & 0xF0, algorithm & 0x0F
    kinds = {_RSA_RAW, _RSA_PKCS1, _RSA_PSS} if isinstance(key, rsa.RSAPrivateKey) else {_ECDSA}
    if kind not in kinds or (hashing and (kind == _RSA_RAW or hashing not in _HASHES)):
        raise Refused(apdu.WRONG_PARAMETERS)


def _signature(key: PrivateKey, algorithm: int, data: bytes) -> bytes:
    """Return a signature: ECDSA and PSS over a message or its digest, PKCS#1 over a message or a DigestInfo."""
    kind = algorithm & 0xF0
    if kind == _RSA_RAW:
        assert isinstance(key, rsa.RSAPrivateKey)  # noqa: S101 - _check_algorithm
        return _rsa_raw(key, data)
    if algorithm == _RSA_PKCS1:
        assert isinstance(key, rsa.RSAPrivateKey)  # noqa: S101 - as above
        return _rsa_raw(key, _padded(data, key.key_size // 8))
    made = _HASHES[algorithm & 0x0F]() if algorithm & 0x0F else _hash_of(data)
    hashing = made if algorithm & 0x0F else utils.Prehashed(made)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashing))
    if kind == _RSA_PKCS1:
        return key.sign(data, padding.PKCS1v15(), hashing)
    return key.sign(data, padding.PSS(padding.MGF1(made), made.digest_size), hashing)


def _rsa_raw(key: rsa.RSAPrivateKey, block: bytes) -> bytes:
    """Return RSASP1 or RSADP of RFC 8017, sections 5.2.1 and 5.1.2; the host does the padding."""
    numbers, number = key.private_numbers(), int.from_bytes(block, "big")
    if len(block) != key.key_size // 8 or number >= numbers.public_numbers.n:
        raise Refused(apdu.WRONG_DATA)
    return pow(number, numbers.d, numbers.public_numbers.n).to_bytes(len(block), "big")


def _padded(info: bytes, size: int) -> bytes:
    """Return the EMSA-PKCS1-v1_5 block (RFC 8017, section 9.2) for a DigestInfo."""
    if len(info) > size - 11:
        raise Refused(apdu.WRONG_DATA)
    return b"\0\1" + b"\xff" * (size - len(info) - 3) + b"\0" + info


def _agreed(key: ec.EllipticCurvePrivateKey, point: bytes) -> bytes:
    """Return the x coordinate of the shared secret, formatted like an uncompressed point."""
    try:
        other = ec.EllipticCurvePublicKey.from_encoded_point(key.curve, point)
    except ValueError as error:
        raise Refused(apdu.WRONG_DATA) from error
    return b"\4" + key.exchange(ec.ECDH(), other)


def _hash_of(digest: bytes) -> hashes.HashAlgorithm:
    """Return the hash algorithm with this digest length."""
    if len(digest) not in _PREHASHED:
        raise Refused(apdu.WRONG_DATA)
    return _PREHASHED[len(digest)]()
