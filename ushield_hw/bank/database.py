"""The bank's database: SQLite in a file, or PostgreSQL; the same statements on both.

SQLite runs in WAL with every commit on the disk (synchronous FULL), and a transaction that writes begins with BEGIN
IMMEDIATE: it never finds out half-way that another process was faster. On PostgreSQL rows are locked by name (``FOR
UPDATE``, which SQLite does not need). Every wait has a deadline.

The schema is made by the Alembic migrations in ``migrations/``; a database that a newer program made is refused.
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
"""The revision of the schema that this program works with: the newest of ``migrations/versions``."""

CONNECTIONS: Final = 8
"""How many transactions a process runs at once."""

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
_MIGRATING: Final = 0x75736869  # any number: the lock that PostgreSQL holds for one migration at a time


class Moment(TypeDecorator[datetime]):
    """An aware datetime in UTC. SQLite has no time zones; what it gives back is UTC because only that was stored."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what is stored."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return what was stored."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def checked_url(text: str) -> str:
    """Return the address of a database on a PostgreSQL server, as it may be written down.

    Raises:
        InputError: ``BANK_DATABASE_URL``: it is none, or it has a password in it.
    """
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise InputError("BANK_DATABASE_URL") from error
    if url.get_backend_name() != "postgresql" or url.password is not None or "password" in url.query:
        raise InputError("BANK_DATABASE_URL")
    return url.set(drivername="postgresql+psycopg").render_as_string()


class Database:
    """One database. Safe for threads; several processes may use the same.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql+psycopg://…``.

    Raises:
        StorageError: from every method: ``BANK_DATABASE_BUSY``: others held it too long, nothing was done;
            ``BANK_DATABASE_FAILED``; ``BANK_SCHEMA_NEWER``, ``BANK_SCHEMA_OLDER``.
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
        """Open a transaction that only reads."""
        with self._telling(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that writes: committed at the end of the block, undone if anything is raised in it.

        Raises:
            IntegrityError: SQLAlchemy's: a unique key is taken; another process was faster.
        """
        with self._telling(), self._engine.connect() as connection:
            connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    def migrate(self) -> None:
        """Bring the schema to the form that this program works with."""
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
            if _revision(connection) != SCHEMA:  # nobody else has done it meanwhile
                config.attributes["connection"] = connection
                command.upgrade(config, SCHEMA)

    def check(self) -> None:
        """Refuse a database whose schema is not the one that this program works with."""
        if not self._is_current():
            raise StorageError("BANK_SCHEMA_OLDER", path=self._shown, wanted=SCHEMA)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def _is_current(self) -> bool:
        with self.reading() as connection:
            found = _revision(connection)
        if found is not None and found > SCHEMA:  # revisions are numbered, and of one length
            raise StorageError("BANK_SCHEMA_NEWER", path=self._shown, found=found, wanted=SCHEMA)
        return found == SCHEMA

    @property
    def _shown(self) -> str:
        return self._url.database or "" if self._sqlite else self._url.render_as_string(hide_password=True)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn what the database says of itself into our errors."""
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
    """Tell whether waiting might have helped: SQLITE_BUSY, and PostgreSQL's lock time-out, deadlock and statement's."""
    state = getattr(error.orig, "sqlstate", None)
    return state in {"55P03", "40P01", "57014"} or (isinstance(error, OperationalError) and "locked" in str(error.orig))


def _configure_sqlite(connection: Any, entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # sqlite3 would begin transactions by itself, and too late
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
