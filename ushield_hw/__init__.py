"""Drive a bank's U-shield (U盾) and SoftHSM2 in the same way."""
