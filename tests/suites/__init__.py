"""Public test suites, run against the verifier. Their data lies beside the checkout, in ``../shared/vectors``."""
