"""The probes of the doctor, one module per layer."""
