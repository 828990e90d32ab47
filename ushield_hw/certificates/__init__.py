"""Certificates on a token: list, request, install, export and renew."""
