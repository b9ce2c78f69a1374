"""Ops that move, join, split or repeat values without rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments


def _reshape(args: Arguments) -> Tensor:
    x, shape = args.tensor("x"), args.integers("shape")
    if 0 in shape and len(shape) != x.ndim:
        # Opsets differ in which size a zero copies if the rank changes.
        raise args.refuse(f"copies sizes of {list(x.shape)} to a shape of another rank: {shape}")
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])


def _transpose(args: Arguments) -> Tensor:
    x = args.tensor("x")
    perm = args.axes("perm", x.ndim)
    return x.permute(perm)


def _expand_dims(args: Arguments) -> Tensor:
    x = args.tensor("x")
    axes = args.axes("axes", x.ndim + len(args.integers("axes")))
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(args: Arguments) -> Tensor:
    x = args.tensor("x")
    every = [axis for axis, size in enumerate(x.shape) if size == 1]
    axes = args.axes("axes", x.ndim, every)
    shape = [size for axis, size in enumerate(x.shape) if axis not in axes]
    return x.reshape(shape)


def _concat(args: Arguments) -> Tensor:
    values = args.tensors("values")
    axis = args.axis("axis", values[0].ndim)
    if not args.flag("interleave", False):
        return torch.cat(values, axis)
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


def _stack(args: Arguments) -> Tensor:
    values = args.tensors("values")
    return torch.stack(values, args.axis("axis", values[0].ndim + 1))


def _split(args: Arguments) -> Sequence[Tensor]:
    x = args.tensor("x")
    axis = args.axis("axis", x.ndim)
    count = args.integer("num_splits") if args.has("num_splits") else None
    if not args.has("split_sizes"):
        if not count or x.shape[axis] % count:
            raise args.refuse(f"splits an axis of {x.shape[axis]} into {count} equal parts")
        return torch.split(x, x.shape[axis] // count, axis)
    sizes = args.integers("split_sizes")
    if count not in (None, len(sizes)):
        raise args.refuse(f"has {len(sizes)} sizes for {count} parts")
    return torch.split(x, sizes, axis)


def _slice_by_index(args: Arguments) -> Tensor:
    x = args.tensor("x")
    begin, end = args.integers("begin"), args.integers("end")
    stride = args.integers("stride", [1] * x.ndim)
    if not len(begin) == len(end) == len(stride) == x.ndim:
        raise args.refuse(f"has a slice whose rank is not {x.ndim}")
    begin_mask = args.flags("begin_mask", x.ndim)
    end_mask = args.flags("end_mask", x.ndim)
    squeeze_mask = args.flags("squeeze_mask", x.ndim)
    flipped = [axis for axis in range(x.ndim) if stride[axis] < 0 and not squeeze_mask[axis]]
    index: list[int | slice] = []
    for axis, size in enumerate(x.shape):
        if squeeze_mask[axis]:
            if not -size <= begin[axis] < size:
                raise args.refuse(f"has the index {begin[axis]} for an axis of {size}")
            index.append(begin[axis])
            continue
        first = None if begin_mask[axis] else begin[axis]
        last = None if end_mask[axis] else end[axis]
        taken = range(size)[slice(first, last, stride[axis])]
        if axis in flipped:
            # torch has no negative steps: take the same elements forwards, and flip them later.
            taken = taken[::-1]
        index.append(slice(taken.start, taken.stop, taken.step))
    remaining = [axis for axis in range(x.ndim) if not squeeze_mask[axis]]
    return x[tuple(index)].flip([remaining.index(axis) for axis in flipped])


def _slice_by_size(args: Arguments) -> Tensor:
    x = args.tensor("x")
    begin, size = args.integers("begin"), args.integers("size")
    if not len(begin) == len(size) == x.ndim:
        raise args.refuse(f"has a slice whose rank is not {x.ndim}")
    for axis in range(x.ndim):
        start = begin[axis] % x.shape[axis]
        length = x.shape[axis] - start if size[axis] == -1 else size[axis]
        x = x.narrow(axis, start, length)
    return x


def _tile(args: Arguments) -> Tensor:
    x, reps = args.tensor("x"), args.integers("reps")
    if len(reps) != x.ndim:
        raise args.refuse(f"has {len(reps)} repetitions for {x.ndim} axes")
    return x.repeat(reps)


def _pad(args: Arguments) -> Tensor:
    x, pad = args.tensor("x"), args.integers("pad")
    mode = args.choice("mode", ("constant", "reflect", "replicate"), "constant")
    value = args.number("constant_val", 0.0)
    if len(pad) % 2 or len(pad) > 2 * x.ndim or min(pad, default=0) < 0:
        raise args.refuse(f"has the padding {pad} for {x.ndim} axes")
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    # torch counts from the last axis.
    backwards = [size for pair in reversed(pairs) for size in pair]
    if mode == "constant":
        return functional.pad(x, backwards, value=value)
    for offset, (before, after) in enumerate(reversed(pairs), start=1):
        x = _extend(args, x, x.ndim - offset, (before, after), mode)
    return x


def _extend(args: Arguments, x: Tensor, axis: int, pad: tuple[int, int], mode: str) -> Tensor:
    size = x.shape[axis]
    positions = torch.arange(-pad[0], size + pad[1])
    if mode == "reflect":
        if max(pad) >= size:
            raise args.refuse(f"reflects {max(pad)} elements of an axis of {size}")
        positions = (size - 1) - (positions.abs() - (size - 1)).abs()
    return x.index_select(axis, positions.clamp(0, size - 1))


def _reverse(args: Arguments) -> Tensor:
    x = args.tensor("x")
    return x.flip(args.axes("axes", x.ndim, range(x.ndim)))


def _identity(args: Arguments) -> Tensor:
    return args.tensor("x")


def _shape(args: Arguments) -> Tensor:
    return torch.tensor(args.tensor("x").shape, dtype=torch.int32)


def _fill(args: Arguments) -> Tensor:
    shape = args.integers("shape")
    if not args.has("value"):
        return torch.zeros(shape)
    return args.tensor("value").reshape(()).expand(shape)


def _range(args: Arguments) -> Tensor:
    start = args.tensor("start")
    end, step = args.tensor("end", start), args.tensor("step", start)
    wide = [bound.item() for bound in (start, end, step)]
    return torch.arange(*wide, dtype=torch.float64).to(start.dtype)


def _flatten2d(args: Arguments) -> Tensor:
    x = args.tensor("x")
    axis = args.integer("axis", 1)
    rows = x.shape[: axis if axis >= 0 else x.ndim + axis].numel()
    return x.reshape(rows, -1)


def _pixel_shuffle(args: Arguments) -> Tensor:
    return functional.pixel_shuffle(args.tensor("x"), args.integer("upscale_factor"))


def _depth_to_space(args: Arguments) -> Tensor:
    """Rearrange channels in TensorFlow's order: the position in the block before the channel."""
    x, block = args.tensor("x"), args.integer("block_size")
    n, c, h, w = x.shape
    cells = x.reshape(n, block, block, c // block**2, h, w)
    return cells.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(args: Arguments) -> Tensor:
    x, block = args.tensor("x"), args.integer("block_size")
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // block, block, w // block, block)
    return cells.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


OPS: dict[str, Callable[[Arguments], Tensor | Sequence[Tensor]]] = {
    "concat": _concat,
    "depth_to_space": _depth_to_space,
    "expand_dims": _expand_dims,
    "fill": _fill,
    "flatten2d": _flatten2d,
    "identity": _identity,
    "pad": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "range_1d": _range,
    "reshape": _reshape,
    "reverse": _reverse,
    "shape": _shape,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "space_to_depth": _space_to_depth,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
