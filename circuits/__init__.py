"""The graph over an opened ViT, and what a circuit is: run, judged, drawn and exported."""
