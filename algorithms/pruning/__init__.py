"""Searches that return a circuit: the graph is pruned step by step."""
