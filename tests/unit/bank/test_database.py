"""The database: migrations, transactions, and errors when it is unusable. With SQLite and PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from ushield_hw import bank
from ushield_hw.bank.ca.tables import CUSTOMERS, REGISTER
from ushield_hw.bank.database import METADATA, SCHEMA, Database
from ushield_hw.errors import StorageError

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 24, 2, 0, 0, 123456, tzinfo=UTC)


def names(database: Database) -> list[str]:
    with database.reading() as connection:
        return list(connection.execute(select(CUSTOMERS.c.id).order_by(CUSTOMERS.c.id)).scalars())


def add(database: Database, name: str) -> None:
    with database.writing() as connection:
        connection.execute(insert(CUSTOMERS).values(id=name, created=NOW))


def test_the_migrations_make_what_the_program_works_with(database: Database) -> None:
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA) == []
        assert connection.execute(select(REGISTER.c.crl_number, REGISTER.c.revocations)).one() == (0, 0)


def test_the_newest_revision_is_the_one_that_the_program_knows() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(bank.__file__).with_name("migrations")))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA]


def test_migrating_again_changes_nothing(database: Database, opened: Callable[[], Database]) -> None:
    add(database, "C1")
    opened().migrate()
    assert names(database) == ["C1"]


def test_many_migrate_at_once(empty: Callable[[], Database]) -> None:
    many = [empty() for _ in range(4)]
    threads = [threading.Thread(target=one.migrate) for one in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for one in many:
        one.check()


def test_a_newer_schema_is_refused(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for work in (database.check, database.migrate):
        with pytest.raises(StorageError) as caught:
            work()
        assert caught.value.code == "BANK_SCHEMA_NEWER"
        assert caught.value.details["found"] == "9999"


def test_an_empty_database_is_no_bank(empty: Callable[[], Database]) -> None:
    with pytest.raises(StorageError) as caught:
        empty().check()
    assert caught.value.code == "BANK_SCHEMA_OLDER"


def test_what_raises_is_undone(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        connection.execute(insert(CUSTOMERS).values(id="C1", created=NOW))
        _ = 1 / 0
    assert names(database) == []


def test_a_taken_key_is_told(database: Database) -> None:
    add(database, "C1")
    with pytest.raises(IntegrityError):
        add(database, "C1")
    add(database, "C2")
    assert names(database) == ["C1", "C2"]


def test_moments_come_back_as_they_went_in(database: Database) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=8)))
    with database.writing() as connection:
        connection.execute(insert(CUSTOMERS).values(id="C1", created=elsewhere))
    with database.reading() as connection:
        found = connection.execute(select(CUSTOMERS.c.created).where(CUSTOMERS.c.created <= NOW)).scalar_one()
    assert (found, found.tzinfo) == (NOW, UTC)


def test_references_must_lead_somewhere(database: Database) -> None:
    with pytest.raises(IntegrityError), database.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO renewal_documents (tx_id, serial, canonical, expires) VALUES ('t', 'none', :c, :now)"
            ).bindparams(c=b"", now=NOW)
        )


# --- SQLite only ------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    database = Database(f"sqlite:///{tmp_path}/bank.sqlite3")
    database.migrate()
    database.close()
    return tmp_path / "bank.sqlite3"


def test_commits_are_on_the_disk(file: Path) -> None:
    with Database(f"sqlite:///{file}") as database, database.reading() as connection:
        found = {name: connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in PRAGMAS}
    assert found == PRAGMAS


PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_database_that_somebody_holds_is_busy_and_then_free(file: Path) -> None:
    with Database(f"sqlite:///{file}") as database:
        holder = sqlite3.connect(file, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError) as caught:
            add(database, "C1")
        assert caught.value.code == "BANK_DATABASE_BUSY"
        assert names(database) == []  # readers continue
        holder.execute("ROLLBACK")
        holder.close()
        add(database, "C1")


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "bank.sqlite3").write_bytes(b"not a database " * 100)
    with Database(f"sqlite:///{tmp_path}/bank.sqlite3") as database, pytest.raises(StorageError) as caught:
        database.migrate()
    assert caught.value.code == "BANK_DATABASE_FAILED"
    assert "not a database" in str(caught.value)


def test_a_committed_row_outlives_a_killed_process(file: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from tests.unit.bank.test_database import *\n"
        "database = Database('sqlite:///' + sys.argv[1])\n"
        "add(database, 'C1')\n"
        "with database.writing() as connection:\n"
        "    connection.execute(insert(CUSTOMERS).values(id='C2', created=NOW))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run([sys.executable, "-c", script, str(file)], env=environment, timeout=60, check=False)
    assert ended.returncode == -9
    with Database(f"sqlite:///{file}") as database:
        assert names(database) == ["C1"]


def test_a_password_is_not_shown() -> None:
    with Database(URL.create("postgresql+psycopg", "u", "s3cret", "127.0.0.1", 1, "bank")) as database:
        with pytest.raises(StorageError) as caught:
            database.check()
        assert "s3cret" not in f"{caught.value} {caught.value.to_json()}"
