"""Alembic environment: migrates within the transaction opened by :meth:`Database.migrate`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
