"""Every PKCS#11 call of the jobs, times every fault."""
