"""The bank's certification authority."""
