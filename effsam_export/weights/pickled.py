"""Read tensors from pickled modules without importing or running anything that the pickle names.

FastSAM and the globally pruned SlimSAM are distributed as pickled modules. A pickle can call any
function. This reader rebuilds only tensors and standard containers. Every other class becomes an
inert `Record`, which stores its attributes. The tensors are collected from the records in the
order of `state_dict`.
"""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path

MAX_DEPTH = 64
"""Largest depth of nested modules; the deepest known file has nine."""

TENSOR_BUILDERS = {"_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter"}
TORCH_TYPES = {"Size", "device"}


class Record:
    """Replaces an object whose class is not imported; never calls anything."""

    # Torch's legacy reader reads this attribute of every class.
    dump_patches = False

    def __init__(self, *args: object, **kwargs: object) -> None:
        del args, kwargs

    def __call__(self, *args: object, **kwargs: object) -> Record:
        del args, kwargs
        return Record()

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 2:  # (dict, slots)
            state = state[0]
        if isinstance(state, dict):
            self.__dict__.update({k: v for k, v in state.items() if isinstance(k, str)})

    def __setitem__(self, key: object, value: object) -> None:
        del key, value

    def append(self, value: object) -> None:
        """Ignore an element of a list-like object."""
        del value

    def extend(self, values: object) -> None:
        """Ignore elements of a list-like object."""
        del values

    def add(self, value: object) -> None:
        """Ignore an element of a set-like object."""
        del value


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that resolves only torch's tensor builders, storages and dtypes."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - any class
        if module == "torch._utils" and name in TENSOR_BUILDERS:
            return getattr(torch._utils, name)
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        if module == "torch" and (name in TORCH_TYPES or name.endswith("Storage")):
            return getattr(torch, name, Record)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module in ("builtins", "__builtin__") and name == "set":
            return set
        return Record


def read_module(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a pickled module by their `state_dict` names.

    Of a training checkpoint, the averaged weights (`ema`) are returned if present, else `model`.

    Raises:
        ValueError: The file has no module.
        Exception: Any other exception, for an invalid pickle.
    """
    restricted = SimpleNamespace(
        Unpickler=RestrictedUnpickler,
        load=_load_restricted,
        loads=_load_restricted,
        __name__="restricted",
    )
    with warnings.catch_warnings():
        # Warnings about typed storages, which torch's old files have.
        warnings.simplefilter("ignore")
        content: Any = torch.load(
            path, map_location="cpu", pickle_module=restricted, weights_only=False
        )
    if isinstance(content, Mapping):
        content = content.get("ema") or content.get("model")
    tensors: dict[str, Tensor] = {}
    if isinstance(content, Record):
        _walk(content, "", tensors, 0)
    if not tensors:
        raise ValueError("no module with tensors in it")
    return tensors


def _load_restricted(*args: object, **kwargs: object) -> object:
    """Load with the restricted unpickler; torch's legacy reader calls this for its header."""
    file = args[0]
    return RestrictedUnpickler(file, **kwargs).load()  # type: ignore[arg-type]


def _walk(module: Record, prefix: str, tensors: dict[str, Tensor], depth: int) -> None:
    """Collect parameters, then persistent buffers, then those of the children, as torch does."""
    if depth > MAX_DEPTH:
        raise ValueError("modules are nested too deeply")
    fields = vars(module)
    transient = fields.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, value in _items(fields.get(kind)):
            if isinstance(value, (Tensor, nn.Parameter)) and name not in transient:
                tensors[f"{prefix}{name}"] = value.detach()
    for name, child in _items(fields.get("_modules")):
        if isinstance(child, Record):
            _walk(child, f"{prefix}{name}.", tensors, depth + 1)


def _items(table: object) -> list[tuple[str, Any]]:
    return list(table.items()) if isinstance(table, Mapping) else []
