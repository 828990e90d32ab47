"""The same assertions for every kind of token. A kind is a row of ``subjects.ROWS``."""
