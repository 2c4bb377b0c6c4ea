"""Experiments that patch activations and paths, by token, head and layer."""
