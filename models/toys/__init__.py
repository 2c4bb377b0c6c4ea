"""The toy ViTs: their recipes, how they are trained, the sprites that some are trained on, and the shipped ones."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
