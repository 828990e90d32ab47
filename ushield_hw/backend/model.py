"""The data that a backend returns and accepts. No types of python-pkcs11.

Every class can be sent to and from a worker process (see ``protocol``), so fields are integers, strings, bytes,
booleans, ``None``, tuples of those, and other classes of this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntFlag
from typing import Final, NamedTuple

from ushield_hw.crypto.algorithms import KeyKind

BUSY: Final = "TOKEN_BUSY"
"""Problem of a slot that was skipped because another program holds its card exclusively."""

LEFT_OUT: Final = "LEFT_OUT"
"""Problem reported when a module has more slots or objects than the library reads; the count is given with it."""


class User(Enum):
    """The role that logs in (CK_USER_TYPE)."""

    USER = "user"
    SO = "so"


class TokenFlag(IntFlag):
    """The bits of CK_TOKEN_INFO.flags that this library reads (PKCS#11 v2.40, section 3.2)."""

    RNG = 0x1
    WRITE_PROTECTED = 0x2
    LOGIN_REQUIRED = 0x4
    USER_PIN_INITIALIZED = 0x8
    PROTECTED_AUTHENTICATION_PATH = 0x100
    TOKEN_INITIALIZED = 0x400
    USER_PIN_COUNT_LOW = 0x10000
    USER_PIN_FINAL_TRY = 0x20000
    USER_PIN_LOCKED = 0x40000
    USER_PIN_TO_BE_CHANGED = 0x80000
    SO_PIN_COUNT_LOW = 0x100000
    SO_PIN_FINAL_TRY = 0x200000
    SO_PIN_LOCKED = 0x400000


@dataclass(frozen=True, slots=True)
class ModuleOptions:
    """How a module must be handled; from its descriptor.

    Attributes:
        relist: the module sees tokens and PINs changed by other processes only after C_Finalize and C_Initialize
            (SoftHSM2).
        init_reserved: a string for CK_C_INITIALIZE_ARGS.pReserved, for modules that need one (NSS).
        one_at_a_time: the library serialises the calls, and initialises the module without locking.
        renew_when_refused: after a failed login the module holds the token exclusively until C_Finalize (OpenSC).
        no_false_usage: the template of a new key must not contain usage attributes with the value false (tpm2-pkcs11).
    """

    relist: bool = False
    init_reserved: str | None = None
    one_at_a_time: bool = False
    renew_when_refused: bool = False
    no_false_usage: bool = False


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """CK_INFO. Versions are (major, minor)."""

    path: str
    manufacturer: str
    description: str
    cryptoki_version: tuple[int, ...]
    library_version: tuple[int, ...]


class Identity(NamedTuple):
    """The token information that identifies a token. No field is unique alone: every openCryptoki serial is 123."""

    serial: str
    label: str
    model: str
    manufacturer: str


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """CK_TOKEN_INFO of the token in a slot. Strings are decoded by ``pkcs11.text``, and are not trusted.

    Attributes:
        slot_id: the slot.
        label: the token's label.
        manufacturer: its manufacturer.
        model: its model.
        serial: its serial number.
        flags: CKF_* bits, see :class:`TokenFlag`.
        min_pin: shortest PIN in bytes.
        max_pin: longest PIN in bytes.
        firmware_version: (major, minor).
    """

    slot_id: int
    label: str
    manufacturer: str
    model: str
    serial: str
    flags: int
    min_pin: int
    max_pin: int
    firmware_version: tuple[int, ...]

    @property
    def identity(self) -> Identity:
        """What identifies the token, together with its slot."""
        return Identity(self.serial, self.label, self.model, self.manufacturer)

    def has(self, flag: TokenFlag) -> bool:
        """Return whether a flag is set.

        Args:
            flag: the flag.
        """
        return bool(self.flags & flag)


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """CK_SLOT_INFO.

    Attributes:
        slot_id: the slot.
        description: its description; for a reader, the reader's name.
        removable: whether the token can be removed.
        token: the token in it; None: no token is present, or it cannot be read.
        problem: name of the return code if the slot or its token could not be read; or ``TOKEN_BUSY``, ``LEFT_OUT``.
        manufacturer: manufacturer of the slot or reader.
        absent: the problem means that no token is present.
    """

    slot_id: int
    description: str
    removable: bool
    token: TokenInfo | None
    problem: str | None = None
    manufacturer: str = ""
    absent: bool = False


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A private or public key object.

    Attributes:
        handle: the object handle.
        private: whether it is the private key.
        key_id: its CKA_ID, as read from the token.
        label: its label.
        kind: type of the key; None: not allowed for signed orders, or not reported by the token.
        public: the uncompressed EC point or the RSA modulus, if this object has it.
        can_sign: a private key's CKA_SIGN; None: not reported by the token, so the key may be able to sign.
        always_authenticate: the token needs the PIN for every signature.
        kind_known: whether the token reports the key type; False: it may be any type.
    """

    handle: int
    private: bool
    key_id: bytes
    label: str
    kind: KeyKind | None
    public: bytes | None
    can_sign: bool | None
    always_authenticate: bool
    kind_known: bool = True


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A certificate object; ``der`` as stored, not validated."""

    handle: int
    key_id: bytes
    label: str
    der: bytes


class ObjectClass(Enum):
    """The object classes that are read."""

    CERTIFICATE = "certificate"
    PRIVATE_KEY = "private-key"
    PUBLIC_KEY = "public-key"


@dataclass(frozen=True, slots=True)
class ObjectProblem:
    """An object, or part of one, that could not be read.

    Attributes:
        kind: its class.
        handle: the object handle; 0 if the problem covers several objects.
        label: its label, if it could be read.
        function: the function that failed.
        rv: its return value; 0: no error, but the result cannot be used.
        code: name of the return value; empty for 0.
        left_out: the object is omitted from the result; False: only some attributes could not be read.
        count: number of objects affected.
    """

    kind: ObjectClass
    handle: int
    label: str
    function: str
    rv: int
    code: str
    left_out: bool = True
    count: int = 1


@dataclass(frozen=True, slots=True)
class Contents:
    """The readable objects on a token, and the problems with the others."""

    certificates: tuple[CertificateRecord, ...] = ()
    keys: tuple[KeyRecord, ...] = ()
    problems: tuple[ObjectProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class SignCall:
    """The arguments of one signature.

    Attributes:
        handle: handle of the private key.
        mechanism: name of the mechanism, without CKM_.
        data: the input of C_Sign.
        digest: hashlib name of the digest, for PSS.
        context: make a context-specific login for this signature (CKA_ALWAYS_AUTHENTICATE).
        pin: PIN of that login; None: it is entered on the token or reader. Not shown by repr.
    """

    handle: int
    mechanism: str
    data: bytes
    digest: str | None = None
    context: bool = False
    pin: str | None = field(default=None, repr=False)
