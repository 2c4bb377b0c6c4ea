"""How interpretable a model's parts are, in numbers: heads against known factors and texts, and the lens by layer."""
