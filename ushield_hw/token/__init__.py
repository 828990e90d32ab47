"""Tokens: enumeration, sessions, PIN, key pairs, signatures, insertion and removal."""
