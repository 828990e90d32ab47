"""Tokens: discovery, sessions, PIN, key pairs, signatures, insertion and removal."""
