"""The revisions, numbered in order; the number of the newest is ``SCHEMA`` in ``bank/database.py``."""
