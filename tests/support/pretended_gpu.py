"""A pretended GPU: real tensors on the CPU that say they are elsewhere, and mix with no others.

Where there is no GPU, nothing would notice a tensor that was made without its device: on a CPU all
tensors are on one. Here the values are computed by the CPU, but each tensor of a model moved to
`DEVICE`, and each made with `device=DEVICE` or from such ones, is an `Elsewhere`. An operation that
is given such a tensor and an ordinary one raises, as CUDA does, which also takes scalars (tensors
without a dimension) and index tensors from the CPU.

Limits: it knows devices, not kernels. Speed, types, synchronisation and what only CUDA's own
kernels do wrong stay unseen; a caching allocator has no counterpart.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda:0")
CPU = torch.device("cpu")
# Operations whose second argument holds places: CUDA takes these from the CPU.
_INDEXING = ("aten.index.Tensor", "aten.index_put", "aten._index_put_impl")


class WrongDevice(RuntimeError):
    """Tensors of two devices met in one operation."""


class Elsewhere(torch.Tensor):
    """A tensor that says it is on `DEVICE`; `held` has its values, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Elsewhere":
        found = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CPU,  # for torch's own code, which has no CUDA here
            requires_grad=False,
        )
        found.held = held
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl
    is_cuda, is_cpu = True, False

    @property
    def device(self) -> torch.device:
        return DEVICE

    def __repr__(self) -> str:
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), str(operation)
        if not name.startswith("aten.copy_"):  # copies go from one device to another
            _refuse_a_mixture(name, args, kwargs)
        result = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
        given = [each for each in tree_flatten((args, kwargs))[0] if _is_here(each)]
        return tree_map(lambda each: _moved(each, {id(one.held): one for one in given}), result)


def _is_here(value: Any) -> bool:
    return isinstance(value, Elsewhere)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


def _moved(value: Any, before: dict[int, Elsewhere]) -> Any:
    """A result there too; an argument that was changed in place is itself again."""
    if not isinstance(value, torch.Tensor):
        return value
    earlier = before.get(id(value))
    return Elsewhere(value) if earlier is None else earlier


def _refuse_a_mixture(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    looked_at = (args[:1], args[2:]) if name.startswith(_INDEXING) else (args, kwargs)
    ordinary = [
        each
        for each in tree_flatten(looked_at)[0]
        if isinstance(each, torch.Tensor) and not _is_here(each) and each.dim()
    ]
    if ordinary:
        shapes = ", ".join(str(tuple(each.shape)) for each in ordinary)
        raise WrongDevice(f"{name}: tensors on {DEVICE} meet others on the CPU ({shapes})")


class _Pretence(TorchFunctionMode):
    """Tensors made with `device=DEVICE`, or moved there, are `Elsewhere`, and say so."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if args and _is_here(args[0]):
            here = args[0]
            if name == "tolist":
                return here.held.tolist()
            if name == "numpy":
                raise TypeError(f"can't convert a tensor on {DEVICE} to numpy")
            if name in ("data_ptr", "untyped_storage"):
                return getattr(here.held, name)()
            if name == "detach":  # autograd has no part in this, least of all in inference mode
                return Elsewhere(here.held.detach())
            if name == "cpu":
                return here.held
            if name == "__set__" and _is_here(args[1]):  # .data
                here.held = args[1].held
                return None
        if name == "to":
            return _sent(function, args, kwargs)
        if not _is_a_device(kwargs.get("device"), DEVICE.type):
            return function(*args, **kwargs)
        kwargs["device"] = CPU
        result = function(*tree_map(_held, args), **tree_map(_held, kwargs))
        return tree_map(lambda each: _moved(each, {}), result)


def _sent(function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """`Tensor.to`: where to, or like which tensor, and of which type."""
    first, *others = args
    named = [*others, *kwargs.values()]
    stays = not any(_is_a_device(each) or isinstance(each, torch.Tensor) for each in named)
    leaves = any(
        _is_a_device(each, "cpu") or type(each) in (torch.Tensor, torch.nn.Parameter)
        for each in named
    )

    def harmless(value: Any) -> Any:
        return CPU if _is_a_device(value) else _held(value)

    result = function(
        _held(first),
        *map(harmless, others),
        **{key: harmless(value) for key, value in kwargs.items()},
    )
    goes_there = _is_here(first) if stays else not leaves
    return Elsewhere(result) if goes_there else result


def _is_a_device(value: Any, kind: str | None = None) -> bool:
    if not isinstance(value, (torch.device, str)):
        return False
    return kind is None or torch.device(value).type == kind


@contextmanager
def pretended_gpu(*models: torch.nn.Module) -> Iterator[None]:
    """Within it `DEVICE` can be named, and these models are there (and stay there)."""
    for model in models:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    moved = torch.nn.Parameter(Elsewhere(parameter.data), requires_grad=False)
                    module._parameters[name] = moved
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = Elsewhere(buffer)
    with _Pretence():
        yield
