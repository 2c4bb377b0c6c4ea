"""The graph over an opened ViT, and what a circuit is: run, judged, drawn and exported."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
