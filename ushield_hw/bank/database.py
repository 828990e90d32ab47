"""The bank's database: SQLite in a file or PostgreSQL, with the same statements.

SQLite runs in WAL mode with synchronous FULL. A writing transaction begins with BEGIN IMMEDIATE, so that it never fails
halfway because of another process. On PostgreSQL rows are locked with ``FOR UPDATE``, which SQLite does not need. Every
wait has a timeout.

The schema is created by the Alembic migrations in ``migrations/``. A database with a newer schema is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import Connection, DateTime, Dialect, MetaData, TypeDecorator, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.pool import ConnectionPoolEntry

from ushield_hw.errors import InputError, StorageError

SCHEMA: Final = "0001"
"""The schema revision of this version: the newest in ``migrations/versions``."""

CONNECTIONS: Final = 8
"""Maximum number of concurrent transactions per process."""

METADATA: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

_WAIT_S: Final = 5
_WRITES: Final = "ushield_writes"
_MIGRATING: Final = 0x75736869  # arbitrary number of PostgreSQL's advisory lock for migrations


class Moment(TypeDecorator[datetime]):
    """An aware datetime in UTC. SQLite stores no time zone; values read from it are UTC because only UTC is stored."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the value to store."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the stored value."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def checked_url(text: str) -> str:
    """Return a normalized PostgreSQL URL without a password.

    Args:
        text: the URL.

    Raises:
        InputError: ``BANK_DATABASE_URL``: not a PostgreSQL URL, or it contains a password.
    """
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise InputError("BANK_DATABASE_URL") from error
    if url.get_backend_name() != "postgresql" or url.password is not None or "password" in url.query:
        raise InputError("BANK_DATABASE_URL")
    return url.set(drivername="postgresql+psycopg").render_as_string()


class Database:
    """A database. Thread-safe; several processes may use the same one.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql+psycopg://…``.

    Raises:
        StorageError: from every method: ``BANK_DATABASE_BUSY``: a lock was not released in time and nothing was
            changed; ``BANK_DATABASE_FAILED``; ``BANK_SCHEMA_NEWER``, ``BANK_SCHEMA_OLDER``.
    """

    def __init__(self, url: str | URL) -> None:
        self._url = make_url(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"timeout": _WAIT_S, "check_same_thread": False}
        if not self._sqlite:
            limits = f"-c lock_timeout={_WAIT_S}s -c statement_timeout={2 * _WAIT_S}s"
            options = {"connect_timeout": _WAIT_S, "options": limits}
        self._engine = create_engine(
            self._url,
            connect_args=options,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=2 * _WAIT_S,
            pool_pre_ping=not self._sqlite,
        )
        if self._sqlite:
            event.listen(self._engine, "connect", _configure_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a read-only transaction."""
        with self._telling(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a writing transaction: committed at the end of the block, rolled back on an exception.

        Raises:
            IntegrityError: SQLAlchemy's: a unique constraint is violated, because another process was faster.
        """
        with self._telling(), self._engine.connect() as connection:
            connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    def migrate(self) -> None:
        """Migrate the schema to the revision of this version."""
        if self._is_current():
            return
        from alembic import command
        from alembic.config import Config

        config = Config()
        folder = str(Path(__file__).with_name("migrations"))
        config.set_main_option("script_location", folder.replace("%", "%%"))
        with self.writing() as connection:
            if not self._sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATING})
            if _revision(connection) != SCHEMA:  # another process may have migrated it meanwhile
                config.attributes["connection"] = connection
                command.upgrade(config, SCHEMA)

    def check(self) -> None:
        """Refuse a database whose schema is not that of this version."""
        if not self._is_current():
            raise StorageError("BANK_SCHEMA_OLDER", path=self._shown, wanted=SCHEMA)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def _is_current(self) -> bool:
        with self.reading() as connection:
            found = _revision(connection)
        if found is not None and found > SCHEMA:  # revision numbers have a fixed length, so that they compare as text
            raise StorageError("BANK_SCHEMA_NEWER", path=self._shown, found=found, wanted=SCHEMA)
        return found == SCHEMA

    @property
    def _shown(self) -> str:
        return self._url.database or "" if self._sqlite else self._url.render_as_string(hide_password=True)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Convert database exceptions to ``StorageError``."""
        try:
            yield
        except IntegrityError:
            raise
        except NoConnectionFree as error:
            raise StorageError("BANK_DATABASE_BUSY", path=self._shown) from error
        except DBAPIError as error:
            if _is_busy(error):
                raise StorageError("BANK_DATABASE_BUSY", path=self._shown) from error
            reason = str(error.orig).splitlines()[0] if str(error.orig) else type(error).__name__
            raise StorageError("BANK_DATABASE_FAILED", path=self._shown, reason=reason) from error


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return str(found) if found is not None else None


def _is_busy(error: DBAPIError) -> bool:
    """Return whether a lock caused the error.

    SQLITE_BUSY, or PostgreSQL's lock timeout, deadlock or statement timeout.
    """
    state = getattr(error.orig, "sqlstate", None)
    return state in {"55P03", "40P01", "57014"} or (isinstance(error, OperationalError) and "locked" in str(error.orig))


def _configure_sqlite(connection: Any, entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # otherwise sqlite3 begins transactions implicitly, and too late
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
