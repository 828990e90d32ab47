"""Schema revisions, numbered consecutively; ``SCHEMA`` in ``bank/database.py`` is the newest."""
