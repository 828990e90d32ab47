"""The history of the bank's schema, run by Alembic. What was released never changes; the next one follows."""
