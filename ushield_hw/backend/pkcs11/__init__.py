"""PKCS#11: one vendor module, called through python-pkcs11 and its C function list."""
