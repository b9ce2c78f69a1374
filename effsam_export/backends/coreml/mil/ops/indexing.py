"""Ops that pick values by computed places, sort them, or count along an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from effsam_export.backends.coreml.mil.rounding import lift

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments

INDEX_DTYPES = {"int32": torch.int32, "uint16": torch.uint16}


def _places(args: Arguments, size: int) -> Tensor:
    """The operand `indices`, every one within an axis of `size`.

    From iOS 17 on negative places are out of bounds, and what then happens is undefined.
    """
    args.flag("validate_indices", False)
    indices = args.tensor("indices").long()
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < size:
        raise args.refuse(f"takes places outside an axis of {size}")
    return indices


def _gather(args: Arguments) -> Tensor:
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim, 0)
    if args.integer("batch_dims", 0) != 0:
        raise args.refuse("has `batch_dims`, which is not evaluated")
    indices = _places(args, x.shape[axis])
    picked = x.index_select(axis, indices.flatten())
    return picked.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def _gather_along_axis(args: Arguments) -> Tensor:
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim, 0)
    indices = _places(args, x.shape[axis])
    sizes = list(x.shape)
    sizes[axis] = indices.shape[axis] if indices.ndim == x.ndim else -1
    if list(indices.shape) != sizes:
        raise args.refuse(f"takes places {list(indices.shape)} of {list(x.shape)}")
    return x.gather(axis, indices)


def _gather_nd(args: Arguments) -> Tensor:
    x = args.tensor("x")
    if args.integer("batch_dims", 0) != 0:
        raise args.refuse("has `batch_dims`, which is not evaluated")
    depth = args.tensor("indices").shape[-1]
    if depth > x.ndim:
        raise args.refuse(f"takes places of {depth} axes in {list(x.shape)}")
    indices = _places(args, max(x.shape[:depth]))
    return x[tuple(indices.unbind(-1))]


def _one_hot(args: Arguments) -> Tensor:
    size = args.integer("one_hot_vector_size")
    indices = _places(args, size)
    axis = args.axis("axis", indices.ndim + 1, -1)
    on = args.tensor("on_value") if args.has("on_value") else torch.tensor(1, dtype=torch.int32)
    off = args.tensor("off_value", on) if args.has("off_value") else torch.zeros_like(on)
    places = torch.arange(size).reshape([-1] + [1] * (indices.ndim - axis))
    return torch.where(indices.unsqueeze(axis) == places, on, off)


def _topk(args: Arguments) -> Sequence[Tensor]:
    """The first k in order; among equals, the first in the operand."""
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim, -1)
    k = args.integer("k", 1)
    k = x.shape[axis] if k == -1 else k
    if not 0 < k <= x.shape[axis]:
        raise args.refuse(f"takes {k} of an axis of {x.shape[axis]}")
    ascending = args.flag("ascending", False)
    if not args.flag("sort", True):
        raise args.refuse("leaves the order of its values undefined (`sort` is false)")
    dtype = INDEX_DTYPES[args.word("output_indices_dtype", tuple(INDEX_DTYPES), "int32")]
    values, indices = x.sort(dim=axis, descending=not ascending, stable=True)
    values, indices = values.narrow(axis, 0, k), indices.narrow(axis, 0, k)
    return (values, indices.to(dtype)) if args.flag("return_indices", True) else (values,)


def _argsort(args: Arguments) -> Tensor:
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim, -1)
    ascending = args.flag("ascending", False)
    dtype = INDEX_DTYPES[args.word("output_dtype", tuple(INDEX_DTYPES), "int32")]
    return x.sort(dim=axis, descending=not ascending, stable=True).indices.to(dtype)


def _cumsum(args: Arguments) -> Tensor:
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim, 0)
    if args.flag("exclusive", False) or args.flag("reverse", False):
        raise args.refuse("is exclusive or reversed, which is not evaluated")
    return lift(lambda wide: wide.cumsum(axis, dtype=wide.dtype), x)


def _scatter_along_axis(args: Arguments) -> Tensor:
    data = args.tensor("data")
    axis = args.axis("axis", data.ndim, 0)
    args.word("mode", ("update",), "update")
    indices = _places(args, data.shape[axis])
    return data.scatter(axis, indices, args.tensor("updates", data))


OPS: dict[str, Callable[[Arguments], Tensor | Sequence[Tensor]]] = {
    "argsort": _argsort,
    "cumsum": _cumsum,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "one_hot": _one_hot,
    "scatter_along_axis": _scatter_along_axis,
    "topk": _topk,
}
