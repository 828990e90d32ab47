"""Constants of PKCS#11 v2.40 that the library needs, without the prefixes CKA_, CKO_, CKK_, CKC_ and CKM_.

python-pkcs11 has all of them, but importing it takes longer than a short command needs to run. It is imported only for
mechanisms that are not in this list.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final


class Attribute(IntEnum):
    """Attribute types (CKA_*)."""

    CLASS = 0x0
    TOKEN = 0x1
    PRIVATE = 0x2
    LABEL = 0x3
    VALUE = 0x11
    CERTIFICATE_TYPE = 0x80
    ISSUER = 0x81
    SERIAL_NUMBER = 0x82
    KEY_TYPE = 0x100
    SUBJECT = 0x101
    ID = 0x102
    SENSITIVE = 0x103
    ENCRYPT = 0x104
    DECRYPT = 0x105
    WRAP = 0x106
    UNWRAP = 0x107
    SIGN = 0x108
    VERIFY = 0x10A
    DERIVE = 0x10C
    MODULUS = 0x120
    MODULUS_BITS = 0x121
    PUBLIC_EXPONENT = 0x122
    PUBLIC_KEY_INFO = 0x129
    EXTRACTABLE = 0x162
    EC_PARAMS = 0x180
    EC_POINT = 0x181
    ALWAYS_AUTHENTICATE = 0x202


CERTIFICATE: Final = 1  # CKO_*
PUBLIC_KEY: Final = 2
PRIVATE_KEY: Final = 3

RSA: Final = 0  # CKK_*
EC: Final = 3

X_509: Final = 0  # CKC_*

MECHANISMS: Final = {
    "RSA_PKCS_KEY_PAIR_GEN": 0x0,
    "RSA_PKCS": 0x1,
    "RSA_9796": 0x2,
    "RSA_X_509": 0x3,
    "MD5_RSA_PKCS": 0x5,
    "SHA1_RSA_PKCS": 0x6,
    "_RIPEMD160_RSA_PKCS": 0x8,
    "RSA_PKCS_OAEP": 0x9,
    "RSA_X9_31_KEY_PAIR_GEN": 0xA,
    "RSA_X9_31": 0xB,
    "SHA1_RSA_X9_31": 0xC,
    "RSA_PKCS_PSS": 0xD,
    "SHA1_RSA_PKCS_PSS": 0xE,
    "DSA_KEY_PAIR_GEN": 0x10,
    "DSA": 0x11,
    "DSA_SHA1": 0x12,
    "DSA_SHA224": 0x13,
    "DSA_SHA256": 0x14,
    "DSA_SHA384": 0x15,
    "DSA_SHA512": 0x16,
    "DH_PKCS_KEY_PAIR_GEN": 0x20,
    "DH_PKCS_DERIVE": 0x21,
    "SHA256_RSA_PKCS": 0x40,
    "SHA384_RSA_PKCS": 0x41,
    "SHA512_RSA_PKCS": 0x42,
    "SHA256_RSA_PKCS_PSS": 0x43,
    "SHA384_RSA_PKCS_PSS": 0x44,
    "SHA512_RSA_PKCS_PSS": 0x45,
    "SHA224_RSA_PKCS": 0x46,
    "SHA224_RSA_PKCS_PSS": 0x47,
    "_DES_KEY_GEN": 0x120,
    "_DES_ECB": 0x121,
    "_DES_CBC": 0x122,
    "_DES_CBC_PAD": 0x125,
    "DES2_KEY_GEN": 0x130,
    "DES3_KEY_GEN": 0x131,
    "DES3_ECB": 0x132,
    "DES3_CBC": 0x133,
    "DES3_CBC_PAD": 0x136,
    "DES3_CMAC": 0x138,
    "_MD5": 0x210,
    "_MD5_HMAC": 0x211,
    "SHA_1": 0x220,
    "SHA_1_HMAC": 0x221,
    "_RIPEMD160": 0x240,
    "SHA256": 0x250,
    "SHA256_HMAC": 0x251,
    "SHA224": 0x255,
    "SHA224_HMAC": 0x256,
    "SHA384": 0x260,
    "SHA384_HMAC": 0x261,
    "SHA512": 0x270,
    "SHA512_HMAC": 0x271,
    "SHA3_256": 0x2B0,
    "SHA3_224": 0x2B5,
    "SHA3_384": 0x2C0,
    "SHA3_512": 0x2D0,
    "GENERIC_SECRET_KEY_GEN": 0x350,
    "EC_KEY_PAIR_GEN": 0x1040,
    "ECDSA": 0x1041,
    "ECDSA_SHA1": 0x1042,
    "ECDSA_SHA224": 0x1043,
    "ECDSA_SHA256": 0x1044,
    "ECDSA_SHA384": 0x1045,
    "ECDSA_SHA512": 0x1046,
    "ECDH1_DERIVE": 0x1050,
    "ECDH1_COFACTOR_DERIVE": 0x1051,
    "EC_EDWARDS_KEY_PAIR_GEN": 0x1055,
    "EDDSA": 0x1057,
    "AES_KEY_GEN": 0x1080,
    "AES_ECB": 0x1081,
    "AES_CBC": 0x1082,
    "AES_CBC_PAD": 0x1085,
    "AES_CTR": 0x1086,
    "AES_GCM": 0x1087,
    "AES_CCM": 0x1088,
    "AES_CMAC": 0x108A,
    "AES_GMAC": 0x108E,
    "DES_ECB_ENCRYPT_DATA": 0x1100,
    "DES_CBC_ENCRYPT_DATA": 0x1101,
    "DES3_ECB_ENCRYPT_DATA": 0x1102,
    "DES3_CBC_ENCRYPT_DATA": 0x1103,
    "AES_ECB_ENCRYPT_DATA": 0x1104,
    "AES_CBC_ENCRYPT_DATA": 0x1105,
    "DSA_PARAMETER_GEN": 0x2000,
    "DH_PKCS_PARAMETER_GEN": 0x2001,
    "AES_OFB": 0x2104,
    "AES_KEY_WRAP": 0x2109,
    "AES_KEY_WRAP_PAD": 0x210A,
}
"""The common mechanisms of soft tokens, cards and bank tokens, named as in python-pkcs11: ``_`` marks outdated ones."""

_NAMES: Final = {number: name for name, number in MECHANISMS.items()}


def mechanism_names(numbers: Iterable[int]) -> tuple[str, ...]:
    """Return the names of mechanisms, sorted; unknown ones as hexadecimal numbers."""
    return tuple(sorted({_NAMES.get(number) or _rare(number) for number in numbers}))


def mechanism_number(name: str) -> int | None:
    """Return the number of a mechanism, or None."""
    if name in MECHANISMS:
        return MECHANISMS[name]
    from pkcs11 import Mechanism

    return int(Mechanism[name]) if name in Mechanism.__members__ else None


def _rare(number: int) -> str:
    from pkcs11 import Mechanism

    try:
        return Mechanism(number).name
    except ValueError:
        return hex(number)
