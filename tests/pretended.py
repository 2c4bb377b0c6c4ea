"""A device that is not there: its tensors hold their numbers on the CPU, and refuse to meet the CPU's own.

Inside `PretendedDevice()`, whatever asks for the device `meta` gets a tensor that calls itself so. Products, sums and
copies work as they do on the CPU, but where a GPU would raise, because two tensors are on different devices or numpy is
handed one of its own, this device raises too. So a test on any machine sees what would fail on a GPU.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

NAME = "meta"
_COPIES = ("aten._to_copy.default", "aten.copy_.default")
_INDEXED = ("aten.index.", "aten.index_put", "aten._index_put_impl_", "aten._unsafe_index")  # by tensors of the CPU


class Elsewhere(torch.Tensor):
    """A tensor of the pretended device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Elsewhere":
        found = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=NAME
        )
        found.held = held
        return found

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What does not come to `__torch_dispatch__`: tensors made of Python's numbers and lists, and lists of tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if func is torch.Tensor.tolist:
            return func(args[0].cpu())
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):  # a list would become an index on the device
            args = (args[0], _indices(args[1]), *args[2:])
        return func(*args, **kwargs)


class PretendedDevice(TorchDispatchMode):
    """Has the device `meta` hold numbers."""

    def __enter__(self) -> "PretendedDevice":
        self._calls = _Calls()
        self._calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation, where its tensors are."""
    name, tensors = str(func), [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    away = [one for one in tensors if isinstance(one, Elsewhere)]
    asked = kwargs.get("device")
    if name.startswith(_INDEXED) and not isinstance(tensors[0], Elsewhere) and away:
        raise RuntimeError(f"{name}: a tensor of the CPU is looked up by one of another device")
    if away and name not in _COPIES:
        met = tensors[:1] if name.startswith(_INDEXED) else tensors
        if any(not isinstance(one, Elsewhere) and one.ndim for one in met):
            raise RuntimeError(f"{name}: tensors of the CPU and of another device meet")
    to = torch.device(asked).type if asked is not None else (NAME if away else "cpu")
    if name == "aten.copy_.default":
        to = NAME if isinstance(args[0], Elsewhere) else "cpu"
    inner_args, inner = tree_map(_held, args), tree_map(_held, kwargs)
    if asked is not None:
        inner["device"] = torch.device("cpu")
    found = func(*inner_args, **inner)
    if to != NAME:
        return args[0] if name == "aten.copy_.default" else found
    found = tree_map(lambda one: Elsewhere(one) if isinstance(one, torch.Tensor) else one, found)
    if not away:
        return found
    return return_and_correct_aliasing(func, args, kwargs, found)


def _indices(index: Any) -> Any:
    """What a tensor is looked up by, lists of numbers as tensors of the CPU."""
    if isinstance(index, tuple):
        return tuple(map(_indices, index))
    return torch.tensor(index, dtype=None if index else torch.long, device="cpu") if isinstance(index, list) else index


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value
