"""The questions of the doctor, one module a layer."""
