"""What crosses the edge of this room: plain data, nothing of python-pkcs11's.

Every class here can travel to and from a worker process (see ``wire``), so its fields are integers, strings, bytes,
booleans, ``None``, tuples of those, and each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntFlag
from typing import Final, NamedTuple

from ushield_hw.crypto.algorithms import KeyKind

BUSY: Final = "TOKEN_BUSY"
"""The problem of a slot that was left alone: another program keeps its card to itself."""

LEFT_OUT: Final = "LEFT_OUT"
"""The problem of what a module has more of than can be read; how many, is beside it."""


class User(Enum):
    """Who logs in (CK_USER_TYPE)."""

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
        relist: the module sees tokens and PINs changed by others only after C_Finalize and C_Initialize (SoftHSM2).
        init_reserved: a string for CK_C_INITIALIZE_ARGS.pReserved, for the modules that want one (NSS).
        one_at_a_time: calls are kept apart by this library, and the module is told that it needs no locks of its own.
        renew_when_refused: a login that failed leaves the token to this process alone until C_Finalize (OpenSC).
        no_false_usage: a new key's template must not say what the key is not for (tpm2-pkcs11).
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
    """What a token says of itself that tells it from others; no part does alone: openCryptoki's serials are all 123."""

    serial: str
    label: str
    model: str
    manufacturer: str


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """CK_TOKEN_INFO of the token in a slot. PIN lengths are in bytes; texts are as ``text`` reads them."""

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
        """What tells it from others, in its slot."""
        return Identity(self.serial, self.label, self.model, self.manufacturer)

    def has(self, flag: TokenFlag) -> bool:
        """Tell whether a flag is set."""
        return bool(self.flags & flag)


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """CK_SLOT_INFO.

    Attributes:
        slot_id: the slot.
        description: what it is called; of a reader, its name.
        removable: whether the token can be removed.
        token: the token in it; None: there is none, or it cannot be read.
        problem: the code, by name, when the slot or its token could not be read; ``TOKEN_BUSY``, ``LEFT_OUT``.
        manufacturer: who made the slot or reader.
        absent: the problem says that there is no token.
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
        handle: the object.
        private: whether it is the private half.
        key_id: its CKA_ID, as the token shows it.
        label: its label.
        kind: which kind of key; None: one that no signed order may use, or one that the token does not name.
        public: the uncompressed EC point or the RSA modulus, where this very object shows it.
        can_sign: a private key's CKA_SIGN; None: the token does not say, which is no "no".
        always_authenticate: the token wants the PIN for every signature.
        kind_known: the token says of which kind it is; False: it may be of any.
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
    """A certificate object; ``der`` as stored, not checked."""

    handle: int
    key_id: bytes
    label: str
    der: bytes


class ObjectClass(Enum):
    """The classes of objects that are read."""

    CERTIFICATE = "certificate"
    PRIVATE_KEY = "private-key"
    PUBLIC_KEY = "public-key"


@dataclass(frozen=True, slots=True)
class ObjectProblem:
    """An object, or part of one, that could not be read.

    Attributes:
        kind: its class.
        handle: the object; 0 where several are meant.
        label: its label, where that could be read.
        function: what failed.
        rv: what it answered; 0: there was no error, but nothing that can be used.
        code: that by name; empty for 0.
        left_out: the object is left out; False: only something of it could not be read.
        count: how many objects are meant.
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
    """The objects on a token that could be read, and what could not."""

    certificates: tuple[CertificateRecord, ...] = ()
    keys: tuple[KeyRecord, ...] = ()
    problems: tuple[ObjectProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class SignCall:
    """One signature to make.

    Attributes:
        handle: the private key object.
        mechanism: its name without CKM_.
        data: what C_Sign receives.
        digest: the hashlib name of the digest, for PSS.
        context: log in once more for this signature (CKA_ALWAYS_AUTHENTICATE).
        pin: for that login; None lets the token ask. Not shown by repr.
    """

    handle: int
    mechanism: str
    data: bytes
    digest: str | None = None
    context: bool = False
    pin: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public half of a new key. EC: ``point`` is the uncompressed point; RSA: modulus and exponent, big-endian."""

    kind: KeyKind
    point: bytes = b""
    modulus: bytes = b""
    exponent: bytes = b""
