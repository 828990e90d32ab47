"""Algorithms, private keys on tokens, and parsing with the cryptography package."""
