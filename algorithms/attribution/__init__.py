"""Scores for every edge: gradients, exact effects, direct logit attribution."""
