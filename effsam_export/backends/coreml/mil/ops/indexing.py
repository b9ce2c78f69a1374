"""Ops that gather, scatter, sort or accumulate values along an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from effsam_export.backends.coreml.mil.rounding import in_fp32

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments

INDEX_DTYPES = {"int32": torch.int32, "uint16": torch.uint16}


def _indices(args: Arguments, size: int) -> Tensor:
    """Return the operand `indices`; all must be from 0 to `size` - 1.

    From iOS 17 on, negative indices are out of bounds and the result is undefined.
    """
    args.flag("validate_indices", False)
    indices = args.tensor("indices").long()
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < size:
        raise args.refuse(f"has indices outside an axis of {size}")
    return indices


def _gather(args: Arguments) -> Tensor:
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim, 0)
    if args.integer("batch_dims", 0) != 0:
        raise args.refuse("has `batch_dims`, which is not supported")
    indices = _indices(args, x.shape[axis])
    picked = x.index_select(axis, indices.flatten())
    return picked.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def _gather_along_axis(args: Arguments) -> Tensor:
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim, 0)
    indices = _indices(args, x.shape[axis])
    sizes = list(x.shape)
    sizes[axis] = indices.shape[axis] if indices.ndim == x.ndim else -1
    if list(indices.shape) != sizes:
        raise args.refuse(f"has indices {list(indices.shape)} for {list(x.shape)}")
    return x.gather(axis, indices)


def _gather_nd(args: Arguments) -> Tensor:
    x = args.tensor("x")
    if args.integer("batch_dims", 0) != 0:
        raise args.refuse("has `batch_dims`, which is not supported")
    depth = args.tensor("indices").shape[-1]
    if depth > x.ndim:
        raise args.refuse(f"has indices of {depth} axes for {list(x.shape)}")
    indices = _indices(args, max(x.shape[:depth]))
    return x[tuple(indices.unbind(-1))]


def _one_hot(args: Arguments) -> Tensor:
    size = args.integer("one_hot_vector_size")
    indices = _indices(args, size)
    axis = args.axis("axis", indices.ndim + 1, -1)
    on = args.tensor("on_value") if args.has("on_value") else torch.tensor(1, dtype=torch.int32)
    off = args.tensor("off_value", on) if args.has("off_value") else torch.zeros_like(on)
    positions = torch.arange(size).reshape([-1] + [1] * (indices.ndim - axis))
    return torch.where(indices.unsqueeze(axis) == positions, on, off)


def _topk(args: Arguments) -> Sequence[Tensor]:
    """Return the first k values in order; of equal values, the first in the operand."""
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim, -1)
    k = args.integer("k", 1)
    k = x.shape[axis] if k == -1 else k
    if not 0 < k <= x.shape[axis]:
        raise args.refuse(f"has `k` {k} for an axis of {x.shape[axis]}")
    ascending = args.flag("ascending", False)
    if not args.flag("sort", True):
        raise args.refuse("has an undefined order of values (`sort` is false)")
    dtype = INDEX_DTYPES[args.choice("output_indices_dtype", tuple(INDEX_DTYPES), "int32")]
    values, indices = x.sort(dim=axis, descending=not ascending, stable=True)
    values, indices = values.narrow(axis, 0, k), indices.narrow(axis, 0, k)
    return (values, indices.to(dtype)) if args.flag("return_indices", True) else (values,)


def _argsort(args: Arguments) -> Tensor:
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim, -1)
    ascending = args.flag("ascending", False)
    dtype = INDEX_DTYPES[args.choice("output_dtype", tuple(INDEX_DTYPES), "int32")]
    return x.sort(dim=axis, descending=not ascending, stable=True).indices.to(dtype)


def _cumsum(args: Arguments) -> Tensor:
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim, 0)
    if args.flag("exclusive", False) or args.flag("reverse", False):
        raise args.refuse("is exclusive or reversed, which is not supported")
    return in_fp32(lambda wide: wide.cumsum(axis, dtype=wide.dtype), x)


def _scatter_along_axis(args: Arguments) -> Tensor:
    data = args.tensor("data")
    axis = args.axis("axis", data.ndim, 0)
    args.choice("mode", ("update",), "update")
    indices = _indices(args, data.shape[axis])
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
