"""Make tensors from a pickle's inert values, after each was checked against the file.

A tensor is a storage, an offset, a shape and strides, all in elements. Source of the functions'
arguments: `torch/_utils.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from effsam_export.errors import shown
from effsam_export.weights.inert import Global, Record, StorageRef, Unreadable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from effsam_export.weights.torch_file import TorchFile

DTYPES = {
    # Name of a storage's type -> name of torch's.
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
PLAIN = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
PARAMETERS = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
}
TYPED = "torch._tensor._rebuild_from_type_v2"
"""A tensor with attributes of its own: function, class, arguments, attributes."""
OTHERS = {
    "torch._utils._rebuild_tensor_v3": "of a type that no model here has",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "on the `meta` device, without values",
    "torch._utils._rebuild_device_tensor_from_numpy": "of another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "of another device",
    "torch._utils._rebuild_wrapper_subclass": "of a class of its own",
    TYPED: "of a class of its own",
}
"""Functions that make tensors which are not read, with what these are."""

MAX_NUMBER = 1 << 48
MAX_DIMS = 16
MAX_GROWTH = 4
"""How many times the file's size all tensors may have: weights are shared, seldom expanded."""


def is_tensor(value: object) -> bool:
    """Return whether a value stands for a tensor of any kind."""
    return isinstance(value, Record) and (value.kind in PLAIN | PARAMETERS or value.kind in OTHERS)


class Maker:
    """Makes the tensors of one file, which must stay open. Shared storages are read once."""

    def __init__(self, file: TorchFile) -> None:
        self._file = file
        self._storages: dict[tuple[str, torch.dtype], Tensor] = {}
        self._left = MAX_GROWTH * file.length

    def tensor(self, name: str, value: Record) -> Tensor:
        """Return the tensor that a value stands for, on the CPU.

        Args:
            name: Its name, for messages.
            value: A value for which `is_tensor` is true.

        Raises:
            Unreadable: It is not a plain tensor, does not fit into its storage, or the storage
                cannot be read.
        """
        import torch

        storage, offset, sizes, strides = self._checked(name, _plain(name, value).args)
        dtype: torch.dtype = getattr(torch, DTYPES[storage.kind])
        numbers = math.prod(sizes)
        if not numbers:
            return torch.empty(0, dtype=dtype).reshape(sizes)
        last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        if last >= self._file.storages.size(storage.key) // dtype.itemsize:
            raise Unreadable(f"its tensor `{shown(name)}` is larger than its data")
        self._left -= numbers * dtype.itemsize
        if self._left < 0:
            raise Unreadable(f"its tensors are over {MAX_GROWTH} times as large as the file")
        return self._storage(storage.key, dtype).as_strided(sizes, strides, offset)

    def _checked(
        self, name: str, args: tuple[Any, ...]
    ) -> tuple[StorageRef, int, tuple[int, ...], tuple[int, ...]]:
        """Return storage, offset, shape and strides; each has the right type and sign."""
        if len(args) < 4 or not isinstance(args[0], StorageRef):
            raise Unreadable(f"its tensor `{shown(name)}` has no storage")
        storage, sizes, strides = args[0], _numbers(args[2]), _numbers(args[3])
        if storage.kind not in DTYPES:
            kind = shown(storage.kind.removesuffix("Storage"))
            raise Unreadable(f"its tensor `{shown(name)}` has the type {kind}")
        offset = _numbers((args[1],))
        if sizes is None or strides is None or offset is None or len(sizes) != len(strides):
            raise Unreadable(f"its tensor `{shown(name)}` has no valid shape")
        if len(args) > 6 and args[6]:
            # Flags of views that are computed when they are read, as a negated one.
            raise Unreadable(f"its tensor `{shown(name)}` is a conjugated or negated view")
        return storage, offset[0], sizes, strides

    def _storage(self, key: str, dtype: torch.dtype) -> Tensor:
        import torch

        if (key, dtype) not in self._storages:
            content = self._file.storages.read(key)
            if self._file.big_endian:
                content = _swapped(content, dtype.itemsize)
            count = len(content) // dtype.itemsize
            self._storages[key, dtype] = torch.frombuffer(content, dtype=dtype, count=count)
        return self._storages[key, dtype]


def _plain(name: str, value: Record) -> Record:
    """Return the record of the plain tensor inside a parameter or a tensor with attributes."""
    if value.kind in PARAMETERS and value.args and isinstance(value.args[0], Record):
        value = value.args[0]
    if value.kind == TYPED and len(value.args) == 4:
        function, of, args, _ = value.args
        classes = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")
        if isinstance(function, Global) and isinstance(of, Global) and isinstance(args, tuple):
            if of.name in classes:
                value = Record(kind=function.name, args=args)
            if value.kind in PARAMETERS and value.args and isinstance(value.args[0], Record):
                value = value.args[0]
    if value.kind not in PLAIN:
        what = OTHERS.get(value.kind, "of an unknown kind")
        raise Unreadable(f"its tensor `{shown(name)}` is {what}")
    return value


def _numbers(value: object) -> tuple[int, ...] | None:
    """Return a shape, strides or an offset; None if it is none. `torch.Size` has one argument."""
    if isinstance(value, Record) and value.kind == "torch.Size" and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, (tuple, list)) or len(value) > MAX_DIMS:
        return None
    if any(type(n) is not int or n < 0 for n in value):
        return None
    # The product is that of the others where one is 0, so that no library's numbers overflow.
    return tuple(value) if math.prod(max(n, 1) for n in value) < MAX_NUMBER else None


def _swapped(content: bytearray, width: int) -> bytearray:
    """Return numbers of `width` bytes in the other byte order."""
    swapped = bytearray(len(content))
    for byte in range(width):
        swapped[byte::width] = content[width - 1 - byte :: width]
    return swapped
