"""A Vision Transformer opened up: loading, hooks, readouts, toy models, data."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
