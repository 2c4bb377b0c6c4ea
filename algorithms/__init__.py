"""How circuits are found: one file per algorithm, one shape of call."""
