"""Keys and certificates on a token, through python-pkcs11's sessions.

What a token says is bounded and never trusted: a label that is no UTF-8, an unknown key type or a missing attribute
makes a field empty, not an exception.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
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
_CURVES: Final = {
    bytes.fromhex("06082a8648ce3d030107"): KeyKind.EC_P256,
    bytes.fromhex("06052b81040022"): KeyKind.EC_P384,
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


def certificates(session: Any) -> tuple[CertificateRecord, ...]:
    """Return the X.509 certificate objects of a session's token."""
    return tuple(
        CertificateRecord(found.handle, _value(found, Attribute.ID) or b"", _label(found), der)
        for found in _find(session, ObjectClass.CERTIFICATE)
        if (der := _value(found, Attribute.VALUE))
    )


def keys(session: Any) -> tuple[KeyRecord, ...]:
    """Return the private and public key objects that the session can see."""
    classes = ((ObjectClass.PRIVATE_KEY, True), (ObjectClass.PUBLIC_KEY, False))
    return tuple(_key(found, private=private) for kind, private in classes for found in _find(session, kind))


def generate(
    session: Any, kind: KeyKind, bits: int, key_id: bytes, label: str, *, always_authenticate: bool
) -> PublicKey:
    """Make a pair for signing: private half sensitive, not extractable, for C_Sign only."""
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
        if kind is KeyKind.RSA:
            public, _ = session.generate_keypair(KeyType.RSA, bits, **wanted)
            return PublicKey(kind, modulus=public[Attribute.MODULUS], exponent=public[Attribute.PUBLIC_EXPONENT])
        domain = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: _PARAMETERS[kind]}, local=True)
        public, _ = domain.generate_keypair(**wanted)
        return PublicKey(kind, point=_point(public[Attribute.EC_POINT], kind))


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


def _find(session: Any, kind: ObjectClass) -> Iterator[Any]:
    with translated("C_FindObjects"):
        yield from list(islice(session.get_objects({Attribute.CLASS: kind}), _MOST_OBJECTS))


def _key(found: Any, *, private: bool) -> KeyRecord:
    key_type = _value(found, Attribute.KEY_TYPE)
    kind: KeyKind | None = None
    public: bytes | None = None
    if key_type == KeyType.RSA:
        kind, public = KeyKind.RSA, (_value(found, Attribute.MODULUS) or b"").lstrip(b"\0") or None
    elif key_type == KeyType.EC:
        kind = _CURVES.get(_value(found, Attribute.EC_PARAMS) or b"")
        point = _value(found, Attribute.EC_POINT)
        public = _point(point, kind) if point and kind else None
    return KeyRecord(
        found.handle,
        private,
        _value(found, Attribute.ID) or b"",
        _label(found),
        kind,
        public,
        bool(_value(found, Attribute.SIGN)) if private else False,
        bool(_value(found, Attribute.ALWAYS_AUTHENTICATE)) if private else False,
    )


def _label(found: Any) -> str:
    return str(_value(found, Attribute.LABEL) or "")


def _value(found: Any, attribute: Attribute) -> Any:
    """Return an attribute, or None where the token does not have it or does not show it."""
    try:
        value = found[attribute]
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive, pkcs11.FunctionFailed, LookupError, ValueError):
        return None
    except pkcs11.PKCS11Error as error:
        raise CkrError("C_GetAttributeValue", number_of(error)) from error
    return None if isinstance(value, (bytes, str)) and len(value) > _LONGEST_VALUE else value


def _point(value: bytes, kind: KeyKind) -> bytes:
    """Return the raw point: CKA_EC_POINT is a DER OCTET STRING, though some tokens store the point as it is."""
    length = _POINT_LENGTHS[kind]
    return value[-length:] if len(value) >= length and value[-length] == 4 else value  # noqa: PLR2004
