"""How a circuit is judged: figures over the crossed cells, intervals, curves and controls."""
