"""What the libraries of cryptography are used for, behind errors of our own."""
