"""The faulty PKCS#11 module in front of SoftHSM2."""
