"""Whether a circuit deserves its name: complete, minimal, equivalent, better than chance, and under which choices."""
