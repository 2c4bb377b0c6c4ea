"""Circuits of several models, tasks or seeds set side by side: what they share, how they are built.

`compare(circuits)` gives the report. Holds numpy, networkx and scipy only, except `batch` (torch-geometric) and `heads`
(which gathers attention patterns and direct effects from models).
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
