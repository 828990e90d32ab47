"""How each kind of token is made: one file a kind, each with what its token cannot do."""
