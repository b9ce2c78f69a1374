"""Ops that unpack compressed weights, and ops that quantize and dequantize activations.

They compute in FP32 and round once to the dtype of the scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from effsam_export.backends.coreml.mil.weight_file import unpack

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from effsam_export.backends.coreml.mil.arguments import Arguments


def _along(args: Arguments, name: str, data: Tensor, axis: int) -> Tensor:
    """Return a scalar or a vector along `axis` of `data`, in a shape that broadcasts."""
    found = args.tensor(name)
    if found.ndim == 0:
        return found.float()
    if found.shape != data.shape[axis : axis + 1]:
        raise args.refuse(f"has {list(found.shape)} values of `{name}` for {list(data.shape)}")
    return found.float().reshape([-1] + [1] * (data.ndim - 1 - axis))


def _affine(args: Arguments) -> Tensor:
    """Return `scale * (quantized_data - zero_point)`."""
    data = args.tensor("quantized_data")
    axis = args.axis("axis", data.ndim)
    zero = _along(args, "zero_point", data, axis)
    scale = _along(args, "scale", data, axis)
    return ((data.float() - zero) * scale).to(args.tensor("scale").dtype)


def _blockwise(args: Arguments) -> Tensor:
    """Return `scale * (data - offset)`, with a scale for each block of `data`."""
    data, scale = args.tensor("data"), args.tensor("scale")
    wide = data.float()
    if args.has("offset"):
        offset = args.tensor("offset")
        if offset.shape != scale.shape:
            raise args.refuse(f"has offsets {list(offset.shape)} for scales {list(scale.shape)}")
        wide = wide - _repeat(args, offset.float(), data.shape)
    return (wide * _repeat(args, scale.float(), data.shape)).to(scale.dtype)


def _repeat(args: Arguments, blocks: Tensor, shape: torch.Size) -> Tensor:
    """Repeat one value per block to one value per element."""
    if blocks.ndim != len(shape) or any(
        size % count for size, count in zip(shape, blocks.shape, strict=False)
    ):
        raise args.refuse(f"has blocks {list(blocks.shape)} that do not divide {list(shape)}")
    for axis, (size, count) in enumerate(zip(shape, blocks.shape, strict=True)):
        blocks = blocks.repeat_interleave(size // count, axis)
    return blocks


def _cast(args: Arguments) -> Tensor:
    args.choice("output_dtype", ("fp32",))
    return args.tensor("source_val").float()


def _look_up(args: Arguments) -> Tensor:
    """Look up indices: packed and in one table up to iOS 17, a table per block from iOS 18."""
    return _look_up_packed(args) if args.has("shape") else _look_up_blocks(args)


def _look_up_packed(args: Arguments) -> Tensor:
    table, shape = args.tensor("lut"), args.integers("shape")
    bits = int(table.shape[0]).bit_length() - 1
    count = int(np.prod(shape))
    packed = args.tensor("indices").numpy()
    if table.ndim != 1 or table.shape[0] != 1 << bits or bits not in (1, 2, 4, 6, 8):
        raise args.refuse(f"has a table of {list(table.shape)}")
    if packed.size != -(-bits * count // 8):
        raise args.refuse(f"has {packed.size} bytes of indices for {count} elements")
    indices = packed if bits == 8 else unpack(packed, f"uint{bits}", count)
    return table[torch.from_numpy(indices.astype(np.int64))].reshape(shape)


def _look_up_blocks(args: Arguments) -> Tensor:
    indices, table = args.tensor("indices").long(), args.tensor("lut")
    if table.ndim != indices.ndim + 2:
        raise args.refuse(f"has tables {list(table.shape)} for indices {list(indices.shape)}")
    *tables, entries, width = table.shape
    if int(indices.max()) >= entries:
        raise args.refuse(f"has an index outside a table of {entries} entries")
    numbers = torch.arange(int(np.prod(tables))).reshape(tables)
    which = _repeat(args, numbers, indices.shape)
    vectors = table.reshape(-1, entries, width)[which, indices]
    if width == 1:
        args.axis("vector_axis", indices.ndim, 0)
        return vectors.squeeze(-1)
    axis = args.axis("vector_axis", indices.ndim)
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _sparse(args: Arguments) -> Tensor:
    """Place values where a mask is one. Up to iOS 17 the mask is packed and has a `shape`."""
    values = args.tensor("nonzero_data")
    mask = args.tensor("mask")
    if args.has("shape"):
        shape = args.integers("shape")
        flat = unpack(mask.numpy(), "uint1", int(np.prod(shape)))
        mask = torch.from_numpy(flat).reshape(shape)
    if int(mask.sum()) != values.numel():
        raise args.refuse(f"has {values.numel()} values for {int(mask.sum())} ones in the mask")
    dense = torch.zeros(mask.shape, dtype=values.dtype)
    dense[mask.bool()] = values
    return dense


def _quantize(args: Arguments) -> Tensor:
    """Return `clip(round(input / scale) + zero_point)`."""
    x = args.tensor("input")
    axis = args.axis("axis", x.ndim, 0)
    dtype = {"int8": torch.int8, "uint8": torch.uint8}[
        args.choice("output_dtype", ("int8", "uint8"))
    ]
    integers = torch.round(x.float() / _along(args, "scale", x, axis))
    if args.has("zero_point"):
        integers = integers + _along(args, "zero_point", x, axis)
    limits = torch.iinfo(dtype)
    return integers.clamp(limits.min, limits.max).to(dtype)


def _dequantize(args: Arguments) -> Tensor:
    """Return `scale * (input - zero_point)`."""
    x = args.tensor("input")
    axis = args.axis("axis", x.ndim, 0)
    wide = x.float()
    if args.has("zero_point"):
        wide = wide - _along(args, "zero_point", x, axis)
    return (wide * _along(args, "scale", x, axis)).to(args.tensor("scale").dtype)


OPS: dict[str, Callable[[Arguments], Tensor]] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _look_up,
    "constexpr_sparse_to_dense": _sparse,
    "dequantize": _dequantize,
    "quantize": _quantize,
}
