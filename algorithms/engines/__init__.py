"""How circuits are run fast: exact changes around a mask (`pruned_run`, `flips`), and derivatives at gates."""
