"""Token families: the catalogue of descriptors, matching tokens to families, and the installed modules."""
