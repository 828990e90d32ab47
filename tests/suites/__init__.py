"""Public test suites for the verifier. Their data is next to the checkout, in ``../shared/vectors``."""
