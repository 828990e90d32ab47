"""Certificates on a token: list, request, install, export and renew."""

from __future__ import annotations

from ushield_hw.certificates.certificate import PinPolicy, Request, expiring, export, install, matches, request
from ushield_hw.crypto.algorithms import KeySpec
from ushield_hw.token.key_pairs import session_pairs as pairs

__all__ = ["KeySpec", "PinPolicy", "Request", "expiring", "export", "install", "matches", "pairs", "request"]
