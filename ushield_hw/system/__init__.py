"""Functions that depend on the operating system: USB, PC/SC, files, locks, file permissions, limits, hardening."""
