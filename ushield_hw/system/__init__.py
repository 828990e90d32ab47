"""What differs by operating system: USB, PC/SC, files, locks, trust of files, limits, process hardening."""
