"""The same assertions over every kind of token. A kind is a row of ``subjects.ROWS``."""
