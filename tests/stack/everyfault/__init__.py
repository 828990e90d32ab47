"""Fault injection: every PKCS#11 call of each job with every fault."""
