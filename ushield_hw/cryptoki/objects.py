"""Keys and certificates on a token: read through the module's function list, made through python-pkcs11.

What a token says is bounded and never trusted: a label that is no UTF-8, an unknown key type or a missing attribute
makes a field empty, not an exception. An error does: python-pkcs11 takes one that comes while it asks how long an
attribute is for "there is no such attribute", and a token that was pulled out for one without a certificate.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.attributes import AttributeMapper

from ushield_hw.cryptoki import abi
from ushield_hw.cryptoki.ckr import NUMBERS, CkrError, number_of
from ushield_hw.cryptoki.model import CertificateRecord, KeyRecord, PublicKey
from ushield_hw.suites import KeyKind

_MOST_OBJECTS: Final = 1000
_LONGEST_VALUE: Final = 1 << 16
_BATCH: Final = 64
_OF_KEYS: Final = (Attribute.KEY_TYPE, Attribute.ID, Attribute.LABEL)
_OF_PRIVATE_KEYS: Final = (Attribute.SIGN, Attribute.ALWAYS_AUTHENTICATE)
_OF_TYPE: Final[dict[int, tuple[Attribute, ...]]] = {
    KeyType.RSA: (Attribute.MODULUS,),
    KeyType.EC: (Attribute.EC_PARAMS, Attribute.EC_POINT),
}
# What a token answers of an attribute that an object does not have or does not show.
_NOT_SHOWN: Final = ("ATTRIBUTE_TYPE_INVALID", "ATTRIBUTE_SENSITIVE", "FUNCTION_FAILED")
_CURVES: Final = {
    bytes.fromhex("06082a8648ce3d030107"): KeyKind.EC_P256,
    bytes.fromhex("06052b81040022"): KeyKind.EC_P384,
}
# SHA-256 of the same curves' parameters when every number is spelt out, as OpenSSL does: ykcs11 2.2 shows them so.
_SPELT_OUT: Final = {
    "40c3c405abfc62e096cb6491f85f967d6d75ede716604629654910c475d4b846": KeyKind.EC_P256,
    "19a03321b63c6490867791325fc61a4df548ffaf40b94e499793a6267e5a72dd": KeyKind.EC_P384,
}
_PARAMETERS: Final = {kind: parameters for parameters, kind in _CURVES.items()}
_POINT_LENGTHS: Final = {KeyKind.EC_P256: 65, KeyKind.EC_P384: 97}
# digest -> (CKM_SHA*, CKG_MGF1_SHA*, salt length in bytes), PKCS#11 v2.40 mechanisms, section 2.1
_PSS: Final = {"sha256": (0x250, 2, 32), "sha384": (0x260, 3, 48), "sha512": (0x270, 4, 64)}


def _mapper() -> AttributeMapper:
    """Return python-pkcs11's attribute packing, made tolerant of what real tokens hold."""
    mapper = AttributeMapper()
    number = mapper.attribute_types[Attribute.MODULUS_BITS]
    mapper.register_handler(Attribute.LABEL, lambda label: label.encode(), lambda raw: raw.decode("utf-8", "replace"))
    mapper.register_handler(Attribute.KEY_TYPE, lambda value: number[0](int(value)), number[1])
    return mapper


MAPPER: Final = _mapper()


@contextmanager
def translated(function: str) -> Iterator[None]:
    """Turn python-pkcs11's exceptions into CkrError."""
    try:
        yield
    except pkcs11.PKCS11Error as error:
        raise CkrError(function, number_of(error)) from error


def certificates(functions: abi.Functions, session: int) -> tuple[CertificateRecord, ...]:
    """Return the X.509 certificate objects that a session shows."""
    found = []
    for handle in _find(functions, session, ObjectClass.CERTIFICATE):
        said = _read(functions, session, handle, (Attribute.ID, Attribute.LABEL, Attribute.VALUE))
        if der := said.get(Attribute.VALUE):
            found.append(CertificateRecord(handle, said.get(Attribute.ID, b""), _label(said), der))
    return tuple(found)


def keys(functions: abi.Functions, session: int) -> tuple[KeyRecord, ...]:
    """Return the private and public key objects that a session shows."""
    classes = ((ObjectClass.PRIVATE_KEY, True), (ObjectClass.PUBLIC_KEY, False))
    return tuple(
        _key(functions, session, handle, private=private)
        for kind, private in classes
        for handle in _find(functions, session, kind)
    )


def generate(
    session: Any, kind: KeyKind, bits: int, key_id: bytes, label: str, *, always_authenticate: bool
) -> PublicKey:
    """Make a pair for signing: private half sensitive, not extractable, for C_Sign only.

    Raises:
        CkrError: no pair was made, or not one that stays on the token.
    """
    private = {
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.SIGN: True,
        **dict.fromkeys((Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE), False),
    }
    if always_authenticate:
        private[Attribute.ALWAYS_AUTHENTICATE] = True
    wanted = {
        "capabilities": pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
        "store": True,
        "id": key_id,
        "label": label,
        "private_template": private,
    }
    with translated("C_GenerateKeyPair"):
        try:
            public, _ = _pair(session, kind, bits, wanted)
        except pkcs11.AttributeTypeInvalid:  # ykcs11 will not be told that a key stays; it says so itself
            del private[Attribute.EXTRACTABLE]
            public, made = _pair(session, kind, bits, wanted)
            if made[Attribute.EXTRACTABLE]:
                made.destroy()
                raise
        if kind is KeyKind.RSA:
            return PublicKey(kind, modulus=public[Attribute.MODULUS], exponent=public[Attribute.PUBLIC_EXPONENT])
        return PublicKey(kind, point=_point(public[Attribute.EC_POINT], kind))


def _pair(session: Any, kind: KeyKind, bits: int, wanted: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the public and the private half of a new pair."""
    if kind is KeyKind.RSA:
        made: tuple[Any, Any] = session.generate_keypair(KeyType.RSA, bits, **wanted)
        return made
    domain = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: _PARAMETERS[kind]}, local=True)
    made = domain.generate_keypair(**wanted)
    return made


def write_certificate(
    session: Any, der: bytes, key_id: bytes, label: str, subject: bytes, issuer: bytes, serial: bytes
) -> int:
    """Write a certificate object; return its handle. ``subject``, ``issuer`` and ``serial`` are DER."""
    with translated("C_CreateObject"):
        made = session.create_object(
            {
                Attribute.CLASS: ObjectClass.CERTIFICATE,
                Attribute.CERTIFICATE_TYPE: pkcs11.CertificateType.X_509,
                Attribute.TOKEN: True,
                Attribute.PRIVATE: False,
                Attribute.ID: key_id,
                Attribute.LABEL: label,
                Attribute.SUBJECT: subject,
                Attribute.ISSUER: issuer,
                Attribute.SERIAL_NUMBER: serial,
                Attribute.VALUE: der,
            }
        )
    return int(made.handle)


def relabel(functions: abi.Functions, session: int, handle: int, label: str) -> None:
    """Give an object another label."""
    value = label.encode()
    room = ctypes.create_string_buffer(value, len(value))
    template = abi.Attribute(Attribute.LABEL, ctypes.addressof(room), len(value))
    functions.call("C_SetAttributeValue", session, handle, ctypes.byref(template), 1)


@cache
def mechanism(name: str, digest: str | None) -> abi.Mechanism:
    """Return the CK_MECHANISM for a name (without CKM_), with the PSS parameters for ``digest``."""
    try:
        number = int(pkcs11.Mechanism[name])
    except KeyError:
        raise CkrError("C_SignInit", NUMBERS["MECHANISM_INVALID"]) from None
    if "PSS" not in name:
        return abi.Mechanism(number, None, 0)
    parameters = abi.PssParams(*_PSS[digest or "sha256"])
    made = abi.Mechanism(number, ctypes.cast(ctypes.pointer(parameters), ctypes.c_void_p), ctypes.sizeof(parameters))
    made.parameters = parameters  # C holds only the address: keep the structure alive as long as the mechanism
    return made


def _find(functions: abi.Functions, session: int, kind: ObjectClass) -> list[int]:
    """Return the handles of the objects of a class."""
    wanted = ctypes.c_ulong(kind)
    template = abi.Attribute(Attribute.CLASS, ctypes.addressof(wanted), ctypes.sizeof(wanted))
    functions.call("C_FindObjectsInit", session, ctypes.byref(template), 1)
    batch, count, found = (ctypes.c_ulong * _BATCH)(), ctypes.c_ulong(1), list[int]()
    while count.value and len(found) < _MOST_OBJECTS:
        functions.call("C_FindObjects", session, batch, _BATCH, ctypes.byref(count))
        found += batch[: min(count.value, _BATCH)]
    functions.call("C_FindObjectsFinal", session)
    return found[:_MOST_OBJECTS]


def _read(functions: abi.Functions, session: int, handle: int, wanted: Sequence[Attribute]) -> dict[Attribute, bytes]:
    """Return attributes of an object; those that it does not have or does not show are left out.

    One that fails alone is no reason to give up the others, and some modules fail for all when one is missing: so what
    was refused together is asked for one by one. Any other error is raised: a token that cannot be read has not said
    that there is nothing on it.
    """
    try:
        return _read_together(functions, session, handle, wanted)
    except CkrError as error:
        if not error.among(*_NOT_SHOWN):
            raise
        if len(wanted) == 1:
            return {}
    return {name: value for one in wanted for name, value in _read(functions, session, handle, [one]).items()}


def _read_together(
    functions: abi.Functions, session: int, handle: int, wanted: Sequence[Attribute]
) -> dict[Attribute, bytes]:
    template = (abi.Attribute * len(wanted))(*(abi.Attribute(name, None, 0) for name in wanted))
    functions.call("C_GetAttributeValue", session, handle, template, len(wanted))
    asked = [(name, one.ulValueLen) for name, one in zip(wanted, template, strict=True)]
    asked = [(name, length) for name, length in asked if 0 < length <= _LONGEST_VALUE]  # not shown is the greatest
    if not asked:
        return {}
    buffers = [ctypes.create_string_buffer(length) for _, length in asked]
    template = (abi.Attribute * len(asked))(
        *(
            abi.Attribute(name, ctypes.addressof(room), len(room))
            for (name, _), room in zip(asked, buffers, strict=True)
        )
    )
    functions.call("C_GetAttributeValue", session, handle, template, len(asked))
    return {
        name: room.raw[: one.ulValueLen]
        for (name, length), room, one in zip(asked, buffers, template, strict=True)
        if one.ulValueLen <= length
    }


def _key(functions: abi.Functions, session: int, handle: int, *, private: bool) -> KeyRecord:
    said = _read(functions, session, handle, _OF_KEYS + (_OF_PRIVATE_KEYS if private else ()))
    key_type = int.from_bytes(said.get(Attribute.KEY_TYPE, b"\xff"), sys.byteorder)
    said |= _read(functions, session, handle, _OF_TYPE[key_type]) if key_type in _OF_TYPE else {}
    kind: KeyKind | None = None
    public: bytes | None = None
    if key_type == KeyType.RSA:
        kind, public = KeyKind.RSA, said.get(Attribute.MODULUS, b"").lstrip(b"\0") or None
    elif key_type == KeyType.EC:
        kind = _curve(said.get(Attribute.EC_PARAMS, b""))
        point = said.get(Attribute.EC_POINT)
        public = _point(point, kind) if point and kind else None
    return KeyRecord(
        handle,
        private,
        said.get(Attribute.ID, b""),
        _label(said),
        kind,
        public,
        private and any(said.get(Attribute.SIGN, b"")),
        private and any(said.get(Attribute.ALWAYS_AUTHENTICATE, b"")),
    )


def _label(said: Mapping[Attribute, bytes]) -> str:
    return said.get(Attribute.LABEL, b"").decode("utf-8", "replace")


def _curve(parameters: bytes) -> KeyKind | None:
    return _CURVES.get(parameters) or _SPELT_OUT.get(hashlib.sha256(parameters).hexdigest())


def _point(value: bytes, kind: KeyKind) -> bytes:
    """Return the raw point: CKA_EC_POINT is a DER OCTET STRING, though some tokens store the point as it is."""
    length = _POINT_LENGTHS[kind]
    return value[-length:] if len(value) >= length and value[-length] == 4 else value  # noqa: PLR2004
