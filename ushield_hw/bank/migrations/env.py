"""Run by Alembic: it migrates within the transaction that :meth:`Database.migrate` has opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
