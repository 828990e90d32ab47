"""Tests of the faulty PKCS#11 module, which wraps SoftHSM2."""
