"""Keys and certificates on a token.

Data from a token is bounded and not trusted: an unknown key type or a missing attribute gives an empty field, not an
exception, and problems are returned together with the readable objects (see ``object_reader``).
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeVar

from ushield_hw.backend.model import CertificateRecord, Contents, KeyRecord, ObjectClass
from ushield_hw.backend.pkcs11 import function_list, numbers, text
from ushield_hw.backend.pkcs11.ckr import NUMBERS, CkrError
from ushield_hw.backend.pkcs11.numbers import Attribute
from ushield_hw.backend.pkcs11.object_reader import Reader, Unusable
from ushield_hw.crypto.algorithms import CURVES, KeyKind
from ushield_hw.crypto.public_key import PublicKey, comparable, ec_point

T = TypeVar("T")

_TRUE: Final = b"\x01"
_FALSE: Final = b"\x00"
_OF_KEYS: Final = (Attribute.KEY_TYPE, Attribute.ID, Attribute.LABEL)
_OF_PRIVATE_KEYS: Final = (Attribute.SIGN, Attribute.ALWAYS_AUTHENTICATE)
_OF_TYPE: Final[dict[int, tuple[Attribute, ...]]] = {
    numbers.RSA: (Attribute.MODULUS,),
    numbers.EC: (Attribute.EC_PARAMS, Attribute.EC_POINT),
}
_CURVES: Final = {curve.oid: kind for kind, curve in CURVES.items()}
# SHA-256 of the explicit parameters of the same curves as OpenSSL encodes them; ykcs11 2.2 returns them.
_SPELT_OUT: Final = {
    "40c3c405abfc62e096cb6491f85f967d6d75ede716604629654910c475d4b846": KeyKind.EC_P256,
    "19a03321b63c6490867791325fc61a4df548ffaf40b94e499793a6267e5a72dd": KeyKind.EC_P384,
}
# digest -> (CKM_SHA*, CKG_MGF1_SHA*, salt length in bytes), PKCS#11 v2.40 mechanisms, section 2.1
_PSS: Final = {"sha256": (0x250, 2, 32), "sha384": (0x260, 3, 48), "sha512": (0x270, 4, 64)}


def contents(reader: Reader, wanted: Collection[ObjectClass]) -> Contents:
    """Return the objects of some classes that are visible in a session, and the problems with unreadable ones.

    Args:
        reader: a reader of the session.
        wanted: the object classes.

    Raises:
        CkrError: the token cannot be read any more.
    """
    certificates = _of_class(reader, wanted, ObjectClass.CERTIFICATE, _certificate)
    private = _of_class(reader, wanted, ObjectClass.PRIVATE_KEY, _key)
    public = _of_class(reader, wanted, ObjectClass.PUBLIC_KEY, _key)
    reader.check()
    keys, only = private + public, reader.key_id
    if only is not None:  # a module may ignore the CKA_ID in the template
        certificates = tuple(one for one in certificates if one.key_id == only)
        keys = tuple(one for one in keys if one.key_id == only)
    return Contents(certificates, keys, tuple(reader.problems))


def _of_class(
    reader: Reader,
    wanted: Collection[ObjectClass],
    kind: ObjectClass,
    read: Callable[[Reader, ObjectClass, int], T],
) -> tuple[T, ...]:
    return tuple(reader.each(kind, lambda handle: read(reader, kind, handle))) if kind in wanted else ()


def _certificate(reader: Reader, kind: ObjectClass, handle: int) -> CertificateRecord:
    said = reader.read(kind, handle, (Attribute.ID, Attribute.LABEL, Attribute.VALUE))
    label, der = _label(said), said.get(Attribute.VALUE)
    if not der:
        raise Unusable(label)
    return CertificateRecord(handle, said.get(Attribute.ID, b""), label, der)


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """Options of the templates of a new key pair.

    Attributes:
        always_authenticate: each signature needs the PIN again (CKA_ALWAYS_AUTHENTICATE).
        says_false: the templates contain usage attributes with the value false, which some modules refuse.
    """

    always_authenticate: bool
    says_false: bool = True


def generate(
    functions: function_list.Functions,
    session: int,
    kind: KeyKind,
    bits: int,
    key_id: bytes,
    label: str,
    says: KeyTemplate,
) -> tuple[int, int]:
    """Generate a signature key pair; the private key is sensitive, not extractable, and for C_Sign only.

    Args:
        functions: the module's functions.
        session: a read-write session with a login.
        kind: type of the key.
        bits: length of an RSA key in bits.
        key_id: CKA_ID of both objects.
        label: CKA_LABEL of both objects.
        says: options of the templates.

    Returns:
        The handles of the public and of the private key.

    Raises:
        CkrError: no key pair was generated, or the private key would be extractable.
    """
    mechanism, public = _wanted(kind, bits)
    common: dict[int, bytes] = {Attribute.TOKEN: _TRUE, Attribute.ID: key_id, Attribute.LABEL: label.encode()}
    public = {Attribute.CLASS: _number(numbers.PUBLIC_KEY), **common, Attribute.VERIFY: _TRUE, **public}
    if says.says_false:
        public.update(dict.fromkeys((Attribute.ENCRYPT, Attribute.WRAP), _FALSE))
    private: dict[int, bytes] = {Attribute.CLASS: _number(numbers.PRIVATE_KEY), **common}
    private.update(dict.fromkeys((Attribute.PRIVATE, Attribute.SENSITIVE, Attribute.SIGN), _TRUE))
    private[Attribute.EXTRACTABLE] = _FALSE
    if says.says_false:
        private.update(dict.fromkeys((Attribute.DECRYPT, Attribute.UNWRAP, Attribute.DERIVE), _FALSE))
    if says.always_authenticate:
        private[Attribute.ALWAYS_AUTHENTICATE] = _TRUE
    try:
        return _pair(functions, session, mechanism, public, private)
    except CkrError as error:  # ykcs11 refuses CKA_EXTRACTABLE in the template, but sets it to false itself
        if not error.among("ATTRIBUTE_TYPE_INVALID"):
            raise
        del private[Attribute.EXTRACTABLE]
        made = _pair(functions, session, mechanism, public, private)
        if _extractable(functions, session, made[1]):
            functions.call("C_DestroyObject", session, made[1])
            raise
        return made


def public_half(reader: Reader, handle: int, kind: KeyKind) -> PublicKey:
    """Return the public key of a new key pair.

    Args:
        reader: a reader of the session.
        handle: the public key object.
        kind: type of the key.

    Raises:
        CkrError: the token does not return it.
    """
    wanted = (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT) if kind is KeyKind.RSA else (Attribute.EC_POINT,)
    said = reader.read(ObjectClass.PUBLIC_KEY, handle, wanted)
    if not all(said.get(name) for name in wanted):
        raise CkrError("C_GetAttributeValue", NUMBERS["ATTRIBUTE_TYPE_INVALID"])
    if kind is KeyKind.RSA:
        return PublicKey(kind, modulus=said[Attribute.MODULUS], exponent=said[Attribute.PUBLIC_EXPONENT])
    if (point := _point(said[Attribute.EC_POINT], kind)) is None:
        raise CkrError("C_GetAttributeValue", NUMBERS["ATTRIBUTE_VALUE_INVALID"])
    return PublicKey(kind, point=point)


def _wanted(kind: KeyKind, bits: int) -> tuple[function_list.Mechanism, dict[int, bytes]]:
    """Return the key generation mechanism, and the type-specific attributes of the public key's template."""
    if kind is KeyKind.RSA:
        size: dict[int, bytes] = {Attribute.MODULUS_BITS: _number(bits), Attribute.PUBLIC_EXPONENT: b"\x01\x00\x01"}
        return function_list.Mechanism(numbers.MECHANISMS["RSA_PKCS_KEY_PAIR_GEN"], None, 0), size
    return function_list.Mechanism(numbers.MECHANISMS["EC_KEY_PAIR_GEN"], None, 0), {
        Attribute.EC_PARAMS: CURVES[kind].oid
    }


def _pair(
    functions: function_list.Functions,
    session: int,
    mechanism: function_list.Mechanism,
    public: Mapping[int, bytes],
    private: Mapping[int, bytes],
) -> tuple[int, int]:
    """Call C_GenerateKeyPair; return the handles of the public and of the private key."""
    ours, theirs = function_list.template(public), function_list.template(private)
    made = ctypes.c_ulong(), ctypes.c_ulong()
    functions.call(
        "C_GenerateKeyPair",
        session,
        ctypes.byref(mechanism),
        *(ours, len(ours), theirs, len(theirs)),
        *map(ctypes.byref, made),
    )
    return made[0].value, made[1].value


def _extractable(functions: function_list.Functions, session: int, handle: int) -> bool:
    answer = function_list.template({Attribute.EXTRACTABLE: _FALSE})
    functions.call("C_GetAttributeValue", session, handle, answer, 1)
    return any((function_list.values(answer) or {}).get(Attribute.EXTRACTABLE, _TRUE))


def write_certificate(
    functions: function_list.Functions,
    session: int,
    der: bytes,
    key_id: bytes,
    label: str,
    names: tuple[bytes, bytes, bytes],
) -> int:
    """Write a certificate object; return its handle. ``names``: DER of subject, issuer and serial number."""
    subject, issuer, serial = names
    wanted = function_list.template(
        {
            Attribute.CLASS: _number(numbers.CERTIFICATE),
            Attribute.CERTIFICATE_TYPE: _number(numbers.X_509),
            Attribute.TOKEN: _TRUE,
            Attribute.PRIVATE: _FALSE,
            Attribute.ID: key_id,
            Attribute.LABEL: label.encode(),
            Attribute.SUBJECT: subject,
            Attribute.ISSUER: issuer,
            Attribute.SERIAL_NUMBER: serial,
            Attribute.VALUE: der,
        }
    )
    made = ctypes.c_ulong()
    functions.call("C_CreateObject", session, wanted, len(wanted), ctypes.byref(made))
    return made.value


def relabel(functions: function_list.Functions, session: int, handle: int, label: str) -> None:
    """Change the label of an object."""
    wanted = function_list.template({Attribute.LABEL: label.encode()})
    functions.call("C_SetAttributeValue", session, handle, wanted, 1)


@cache
def mechanism(name: str, digest: str | None) -> function_list.Mechanism:
    """Return the CK_MECHANISM for a name (without CKM_), with the PSS parameters for ``digest``."""
    number = numbers.mechanism_number(name)
    if number is None:
        raise CkrError("C_SignInit", NUMBERS["MECHANISM_INVALID"])
    if "PSS" not in name:
        return function_list.Mechanism(number, None, 0)
    parameters = function_list.PssParams(*_PSS[digest or "sha256"])
    made = function_list.Mechanism(
        number, ctypes.cast(ctypes.pointer(parameters), ctypes.c_void_p), ctypes.sizeof(parameters)
    )
    made.parameters = parameters  # the mechanism holds only the address
    return made


def _key(reader: Reader, of: ObjectClass, handle: int) -> KeyRecord:
    private = of is ObjectClass.PRIVATE_KEY
    said = reader.read(of, handle, _OF_KEYS + (_OF_PRIVATE_KEYS if private else ()))
    key_type = int.from_bytes(said[Attribute.KEY_TYPE], sys.byteorder) if Attribute.KEY_TYPE in said else None
    said |= reader.read(of, handle, _OF_TYPE[key_type]) if key_type in _OF_TYPE else {}
    kind, public = _shown_half(said, key_type)
    if private and public is None and kind is not None:
        said |= reader.read_if_shown(of, handle, (Attribute.PUBLIC_KEY_INFO,))
        public = comparable(said.get(Attribute.PUBLIC_KEY_INFO, b""), kind)
    return KeyRecord(
        handle,
        private,
        said.get(Attribute.ID, b""),
        _label(said),
        kind,
        public,
        _flag(said.get(Attribute.SIGN)) if private else False,
        private and bool(_flag(said.get(Attribute.ALWAYS_AUTHENTICATE))),
        key_type is not None and (key_type != numbers.EC or Attribute.EC_PARAMS in said),
    )


def _shown_half(said: Mapping[int, bytes], key_type: int | None) -> tuple[KeyKind | None, bytes | None]:
    """Return the type of a key object, and the public key if the object's own attributes contain it."""
    if key_type == numbers.RSA:
        return KeyKind.RSA, said.get(Attribute.MODULUS, b"").lstrip(b"\0") or None
    kind = _curve(said.get(Attribute.EC_PARAMS, b"")) if key_type == numbers.EC else None
    return kind, _point(said.get(Attribute.EC_POINT, b""), kind) if kind else None


def _flag(value: bytes | None) -> bool | None:
    """Return a CK_BBOOL; None: the token did not return one."""
    return any(value) if value else None


def _label(said: Mapping[int, bytes]) -> str:
    return text.label(said.get(Attribute.LABEL, b""))


def _number(value: int) -> bytes:
    return bytes(ctypes.c_ulong(value))


def _curve(parameters: bytes) -> KeyKind | None:
    return _CURVES.get(parameters) or _SPELT_OUT.get(hashlib.sha256(parameters).hexdigest())


def _point(value: bytes, kind: KeyKind) -> bytes | None:
    """Return the uncompressed point in a CKA_EC_POINT.

    The standard requires a DER OCTET STRING. Some tokens store the bare point; others wrap it in a BIT STRING or a
    longer structure, where an uncompressed point is read from the end.
    """
    wrapped = value[:1] == b"\x04" and value[1:2] == bytes((len(value) - 2 & 0xFF,))
    forms = (value, value[2:] if wrapped else b"", value[-CURVES[kind].point_octets :])
    return next((point for form in forms if (point := ec_point(form, kind)) is not None), None)
