"""Integration tests with real components: PKCS#11 modules, SoftHSM2, pcscd, virtual cards."""
