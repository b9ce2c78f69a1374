"""Tensors out of pickled modules, without importing or running anything that the pickle names.

FastSAM and the globally pruned SlimSAM are distributed as whole pickled modules. A pickle is a
program: it can name any function and have it called. This reader knows how to rebuild tensors and
ordinary containers; everything else that a file names becomes an inert `Record`, which keeps what
it is given and does nothing. The tensors are then found by walking the records as `state_dict`
walks modules.
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
"""Of modules inside modules; the deepest known file has nine."""

TENSOR_BUILDERS = {"_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter"}
TORCH_TYPES = {"Size", "device"}


class Record:
    """Stands for an object of a class that is not imported; never calls anything."""

    # Torch's legacy reader asks every class of a file for it.
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
        """Take an element of a list-like object, and forget it."""
        del value

    def extend(self, values: object) -> None:
        """Take elements of a list-like object, and forget them."""
        del values

    def add(self, value: object) -> None:
        """Take an element of a set-like object, and forget it."""
        del value


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that finds torch's tensor builders, storages and dtypes, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - what a pickle names
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
    """The tensors of the module a file holds, by the names its `state_dict` would give them.

    A training checkpoint gives its averaged weights (`ema`) where it has them, else its `model`.

    Raises:
        ValueError: The file holds no module.
        Exception: Whatever a broken pickle trips the unpickler with.
    """
    restricted = SimpleNamespace(
        Unpickler=RestrictedUnpickler, load=_refuse, loads=_refuse, __name__="restricted"
    )
    with warnings.catch_warnings():
        # On typed storages, which torch's own old files hold.
        warnings.simplefilter("ignore")
        content: Any = torch.load(
            path, map_location="cpu", pickle_module=restricted, weights_only=False
        )
    if isinstance(content, Mapping):
        content = content.get("ema") or content.get("model")
    found: dict[str, Tensor] = {}
    if isinstance(content, Record):
        _walk(content, "", found, 0)
    if not found:
        raise ValueError("no module with tensors in it")
    return found


def _refuse(*args: object, **kwargs: object) -> object:
    """Torch's legacy reader calls `load` for its header: only through the restricted unpickler."""
    file = args[0]
    return RestrictedUnpickler(file, **kwargs).load()  # type: ignore[arg-type]


def _walk(module: Record, prefix: str, found: dict[str, Tensor], depth: int) -> None:
    """Collect parameters, then persistent buffers, then those of the children, as torch does."""
    if depth > MAX_DEPTH:
        raise ValueError("modules are nested too deeply")
    fields = vars(module)
    transient = fields.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, value in _items(fields.get(kind)):
            if isinstance(value, (Tensor, nn.Parameter)) and name not in transient:
                found[f"{prefix}{name}"] = value.detach()
    for name, child in _items(fields.get("_modules")):
        if isinstance(child, Record):
            _walk(child, f"{prefix}{name}.", found, depth + 1)


def _items(table: object) -> list[tuple[str, Any]]:
    return list(table.items()) if isinstance(table, Mapping) else []
