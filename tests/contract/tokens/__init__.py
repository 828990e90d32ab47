"""Makers for each kind of token, one file per kind, each with the abilities it lacks."""
