"""A bank's folder: settings (``bank.json``), the CA's certificate and the database.

===================  ==========================================================================
``bank.json``         the settings below; contains no secrets
``ca.pem``            the CA's certificate, for those who trust it
``bank.sqlite3``      the database with its ``-wal`` and ``-shm`` files, unless PostgreSQL is used
``softhsm/``          the CA's soft token with its PIN file, if it has one: for tests only
===================  ==========================================================================
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy.engine import URL

from ushield_hw.bank.ca.certificates import listed
from ushield_hw.bank.database import Database
from ushield_hw.crypto.parsing import Unreadable, reading
from ushield_hw.errors import InputError, StorageError
from ushield_hw.schema import Table
from ushield_hw.system import trust
from ushield_hw.system.storage import write_atomically

_VERSION: Final = 1
_MOST_OCTETS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class BankSettings:
    """The settings chosen at ``ushield bank init``.

    Attributes:
        bank_id: its short name, as used in orders.
        origin: its web origin; None: the address it is served at.
        allow_same_key: whether a certificate may be renewed for the same key.
        token: URI of the token with the CA key.
        key_id: CKA_ID of the key, hex.
        database: URL of a PostgreSQL database; None: a file in the folder.
        pin_source: the file with the token's PIN; None: prompt for it.
        test_only: whether the key is on a soft token in this folder.
    """

    bank_id: str
    origin: str | None
    allow_same_key: bool
    token: str
    key_id: str
    database: str | None
    pin_source: str | None
    test_only: bool


class BankFolder:
    """The folder of a bank.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def softhsm(self) -> Path:
        """The folder of the CA's soft token, if it has one."""
        return self.path / "softhsm"

    @property
    def ca(self) -> Path:
        """The file with the CA's certificate, PEM."""
        return self.path / "ca.pem"

    @property
    def _file(self) -> Path:
        return self.path / "bank.json"

    def prepare(self) -> None:
        """Create the folder, accessible to this user only.

        Raises:
            InputError: ``BANK_EXISTS``: it contains a bank.
            StorageError: ``BANK_FOLDER_UNUSABLE``; ``STATE_UNSAFE``: other users could change it.
        """
        if self._file.exists():
            raise InputError("BANK_EXISTS", path=str(self.path))
        with self._trusting():
            trust.make_folder(self.path)

    def found(self, settings: BankSettings, certificate: bytes) -> None:
        """Create a bank in the folder.

        ``bank.json`` is written last: a folder without it contains no bank.

        Args:
            settings: the settings.
            certificate: the CA's certificate, DER.

        Raises:
            StorageError: ``BANK_FOLDER_UNUSABLE``, or an error of the database.
            InputError: ``BANK_DATABASE_USED``: the database contains certificates.
        """
        pem = x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)
        given = {name: value for name, value in asdict(settings).items() if value is not None}
        content = json.dumps({"version": _VERSION, **given}, ensure_ascii=False, indent=2) + "\n"
        try:
            if settings.database is None:
                self._database_file.touch(mode=0o600)
                self._database_file.chmod(0o600)  # independent of the umask
            with self.database(settings, migrate=True) as database, database.reading() as connection:
                if listed(connection):
                    raise InputError("BANK_DATABASE_USED")
            write_atomically(self.ca, pem, 0o644)
            write_atomically(self._file, content.encode())
        except OSError as error:
            raise StorageError("BANK_FOLDER_UNUSABLE", path=str(self.path), reason=error.strerror) from error

    def settings(self) -> BankSettings:
        """Return the settings.

        Raises:
            InputError: ``BANK_NOT_FOUND``: the folder contains no bank; ``CONFIG_UNREADABLE``, ``CONFIG_INVALID``.
            StorageError: ``STATE_UNSAFE``: other users could change the folder or one of its files.
        """
        for place in (self._file, self.ca, self._database_file):
            if place.exists():
                with self._trusting():
                    trust.checked(place)

        def refuse(*, key: str, problem: str, **values: object) -> InputError:
            return InputError("CONFIG_INVALID", file=str(self._file), key=key, problem=problem, **values)

        try:
            table = Table(json.loads(self._file.read_bytes()[:_MOST_OCTETS]), refuse)
        except FileNotFoundError as error:
            raise InputError("BANK_NOT_FOUND", path=str(self.path)) from error
        except (OSError, ValueError) as error:
            raise InputError("CONFIG_UNREADABLE", file=str(self._file), reason=str(error)) from error
        return _read(table)

    @contextmanager
    def _trusting(self) -> Iterator[None]:
        try:
            yield
        except trust.Unsafe as error:
            raise StorageError("STATE_UNSAFE", path=str(self.path), **error.details) from error
        except OSError as error:
            raise StorageError("BANK_FOLDER_UNUSABLE", path=str(self.path), reason=error.strerror) from error

    def certificate(self) -> bytes:
        """Return the CA's certificate, DER.

        Raises:
            InputError: ``CA_FILE_INVALID``.
        """
        try:
            with reading():
                return x509.load_pem_x509_certificate(self.ca.read_bytes()).public_bytes(Encoding.DER)
        except Unreadable as error:
            raise InputError("CA_FILE_INVALID", file=str(self.ca), problem="trust_no_certificate") from error

    def database(self, settings: BankSettings, *, migrate: bool = False) -> Database:
        """Open the database.

        Args:
            settings: the bank's settings.
            migrate: migrate an older schema.

        Returns:
            The open database; the caller closes it.

        Raises:
            StorageError: it cannot be used: ``BANK_SCHEMA_NEWER``, ``BANK_SCHEMA_OLDER``, ``BANK_DATABASE_FAILED``…
        """
        opened = Database(settings.database or self._sqlite())
        try:
            if migrate:
                opened.migrate()
            else:
                opened.check()
        except BaseException:
            opened.close()
            raise
        return opened

    def _sqlite(self) -> URL:
        if not os.access(self._database_file, os.R_OK | os.W_OK):  # SQLite would create an empty one
            reason = os.strerror(errno.EACCES if self._database_file.exists() else errno.ENOENT)
            raise StorageError("BANK_FOLDER_UNUSABLE", path=str(self._database_file), reason=reason)
        return URL.create("sqlite", database=str(self._database_file))

    @property
    def _database_file(self) -> Path:
        return self.path / "bank.sqlite3"


def _read(table: Table) -> BankSettings:
    table.integer("version", least=_VERSION, most=_VERSION)
    found = BankSettings(
        bank_id=table.text("bank_id"),
        origin=table.text("origin", None),
        allow_same_key=table.boolean("allow_same_key"),
        token=table.text("token"),
        key_id=table.text("key_id", pattern="([0-9a-f]{2}){1,255}"),
        database=table.text("database", None),
        pin_source=table.text("pin_source", None),
        test_only=table.boolean("test_only"),
    )
    table.close()
    return found
