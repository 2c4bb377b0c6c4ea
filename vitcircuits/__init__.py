"""Which parts of a Vision Transformer produce a behaviour: open a model, score its edges, judge the circuit."""

from pathlib import Path

from lazy_loader import attach_stub

if not (Path(__file__).parent / "models").is_dir():  # a checkout, where the packages stand beside this folder
    __path__.append(str(Path(__file__).parents[1]))

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
