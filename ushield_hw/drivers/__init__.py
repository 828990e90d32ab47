"""Token families: the catalogue of descriptors, how a token is matched to one, and which modules are installed."""
