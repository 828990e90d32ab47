"""Tests over whole stacks of real parts: modules, SoftHSM2, pcscd, virtual cards."""
