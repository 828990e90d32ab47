"""Alembic migrations of the bank's schema. A released revision never changes; changes need a new one."""
