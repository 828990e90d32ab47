"""The CA key on a token as a ``Signer`` for the bank, which does not access tokens itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ushield_hw.backend.model import KeyRecord
from ushield_hw.bank.ca.authority import Signer, root
from ushield_hw.bank.folder import BankFolder, BankSettings
from ushield_hw.certificates.certificate import make_key, new_key_id, remove_quietly
from ushield_hw.cli import options
from ushield_hw.crypto.algorithms import KeySpec, Suite
from ushield_hw.crypto.names import parse_subject
from ushield_hw.crypto.private_key import CertifiedKey
from ushield_hw.crypto.public_key import key_of, public_of
from ushield_hw.errors import KeyMismatch, OutcomeUnknown, PinError, TokenError, UShieldError
from ushield_hw.interaction import PinKind
from ushield_hw.testing.softhsm import CONF_VARIABLE, provision
from ushield_hw.token.choice import find_token
from ushield_hw.token.key_pairs import private_key_of
from ushield_hw.token.session import Session
from ushield_hw.token.signature import Plan, plan, signature

_LABEL: Final = "ushield bank CA"
_PURPOSE: Final = "ca"


@dataclass(frozen=True)
class _Held:
    """A key on an open token."""

    session: Session
    key: KeyRecord
    how: Plan


class TokenKey:
    """A key on a token that signs for the CA. Thread-safe.

    After the token was removed or its module has died, the next signature opens it again. A PIN that was rejected is
    not used a second time.

    Args:
        opening: opens the token.
        key_id: the key's CKA_ID.
        public: its public key.

    Raises:
        KeyMismatch: ``BANK_KEY_GONE``, ``BANK_KEY_MISMATCH``.
        PinError, TokenError: from the token.
    """

    def __init__(self, opening: Callable[[], Session], key_id: bytes, public: CertifiedKey) -> None:
        self._opening, self._key_id = opening, key_id
        self._spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._lock = threading.Lock()
        self._refused: PinError | None = None
        self._held: _Held | None = self._open()
        self.public = public
        self.suite: Suite = self._held.how.suite

    def sign(self, message: bytes) -> bytes:
        """Return the token's signature over a message.

        Raises:
            UShieldError: the token failed or was removed.
        """
        held = self._take()
        try:
            return signature(held.session, held.key, held.how, message, spki=self._spki, purpose=_PURPOSE)
        except (TokenError, OutcomeUnknown):
            self._drop(held)
            raise

    @property
    def wants_pin_each_time(self) -> bool:
        """Whether the token requires the PIN for every signature."""
        return self._held is not None and self._held.key.always_authenticate

    def close(self) -> None:
        """Log out and close the session."""
        if self._held is not None:
            self._held.session.close()

    def _take(self) -> _Held:
        with self._lock:
            if self._held is None:
                if self._refused is not None:
                    raise self._refused
                try:
                    self._held = self._open()
                except PinError as error:
                    self._refused = error
                    raise
            return self._held

    def _drop(self, held: _Held) -> None:
        with self._lock, suppress(UShieldError):
            if self._held is held:
                self._held = None
                held.session.close()

    def _open(self) -> _Held:
        session = self._opening()
        try:
            kind = public_of(self._spki).kind
            key = private_key_of(session, kind, self._spki, self._key_id)
            if key is None:
                there = any(one.private and one.key_id == self._key_id for one in session.keys(self._key_id))
                code = "BANK_KEY_MISMATCH" if there else "BANK_KEY_GONE"
                raise KeyMismatch(code, serial=session.serial, key_id=self._key_id.hex())
            return _Held(session, key, plan(session, kind))
        except BaseException:
            session.close()
            raise


def ca_name(subject: str | None, *, test_only: bool) -> x509.Name:
    """Return the name of the CA.

    Args:
        subject: RFC 4514. None: a default name.
        test_only: whether the default name says that the CA is for tests.

    Raises:
        InputError: ``SUBJECT_INVALID``.
    """
    return parse_subject(
        subject or ("CN=Demo Bank CA (test only),O=Demo Bank" if test_only else "CN=Demo Bank CA,O=Demo Bank")
    )


def soft_token(where: BankFolder) -> tuple[str, str]:
    """Return URI and PIN file of the soft token of a bank's CA, creating it if needed.

    Raises:
        DriverNotFound, StorageError: as for ``ushield softhsm init``.
    """
    made = provision(where.softhsm, options.settings(), tokens="bank.toml")
    os.environ[CONF_VARIABLE] = str(made.conf)
    (token,) = made.tokens
    return token.uri, str(token.pin_file)


@contextmanager
def new_key(selector: str, pin_source: str | None, spec: str) -> Iterator[tuple[Signer, str, bytes]]:
    """Generate a CA key; yield its signer, the token's URI and the key id.

    The key is deleted if the block raises.

    Raises:
        PinError, TokenError, KeyGenerationUnavailable: from the token.
    """
    kind, key_id = KeySpec(spec), new_key_id()
    person = options.person({PinKind.USER: pin_source})
    token = options.find(selector)
    with token.open(person, purpose=_PURPOSE) as session:
        made = make_key(session, kind.kind, kind.bits, key_id, _LABEL, each=False)
        try:
            joined = TokenKey(lambda: token.open(person, purpose=_PURPOSE), key_id, key_of(made))
            with closing(joined):
                yield joined, token.uri, key_id
        except BaseException:
            remove_quietly(session, key_id)
            raise


@contextmanager
def ca_key(where: BankFolder, settings: BankSettings, pin_source: str | None) -> Iterator[Signer]:
    """Open a bank's token and yield the signer for the CA key.

    Raises:
        KeyMismatch: ``BANK_KEY_GONE``, ``BANK_KEY_MISMATCH``.
        PinError, TokenError: from the token.
    """
    if settings.test_only:
        os.environ[CONF_VARIABLE] = str(where.softhsm / "softhsm2.conf")
    person, our = options.person({PinKind.USER: pin_source or settings.pin_source}), options.settings()
    public: Any = x509.load_der_x509_certificate(where.certificate()).public_key()

    def opening() -> Session:
        return find_token(settings.token, settings=our).open(person, purpose=_PURPOSE)

    with closing(TokenKey(opening, bytes.fromhex(settings.key_id), public)) as key:
        if not key.wants_pin_each_time:
            person.forget()  # after a removal the token is opened again with the PIN file or a new prompt
        yield key


def root_of(signer: Signer, name: x509.Name, life: timedelta) -> bytes:
    """Return the certificate of a new CA, DER."""
    return root(signer, name, datetime.now(UTC), life)
