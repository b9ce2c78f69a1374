"""Read the weights of one model from a file, whatever the model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.errors import CheckpointError, shown
from effsam_export.weights import adapters, candidates, choice, identify, names, source
from effsam_export.weights.inert import Record, parts
from effsam_export.weights.pickled import DICTIONARIES
from effsam_export.weights.tensors import is_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from effsam_export.weights.adapters import Adapters
    from effsam_export.weights.identify import Identity


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where in a file the weights of a model are, and in which form.

    Attributes:
        container: The file's format in words.
        key: Keys of the dictionaries around the tensors, joined by dots; empty for the top.
        prefix: What stood before each name, with its dot at the end.
        averaged: They were chosen as averages of the trained weights.
        naming: Whose names the tensors had, if not the authors'; else empty.
        left_out: Names of other tensors in the same dictionary, which belong to no part of the
            model, such as those of a loss.
        dtype: Type of the floating-point tensors in the file; `mixed` for several.
    """

    container: str
    key: str
    prefix: str
    averaged: bool
    naming: str
    left_out: tuple[str, ...]
    dtype: str

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "container": self.container,
            "key": self.key,
            "prefix": self.prefix,
            "averaged": self.averaged,
            "naming": self.naming or "authors",
            "left_out": [shown(name) for name in self.left_out],
            "dtype": self.dtype,
        }


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one model in a file.

    Attributes:
        state: Tensors on the CPU under the authors' names; half precision as float32.
        origin: Where in the file they are.
        identity: The model by names and shapes; None if unknown.
        adapters: Adapters among the tensors; None if there are none.
    """

    state: Mapping[str, Tensor]
    origin: Origin
    identity: Identity | None
    adapters: Adapters | None


def read(path: Path, key: str | None = None) -> Weights:
    """Read the weights of one model from a weight file. Nothing that it names is run.

    Args:
        path: A file of any format that `source` opens.
        key: Which weights of a file with several; None takes averaged ones, or the only ones.

    Raises:
        CheckpointError: The file cannot be read, holds no weights, or holds several sets.
    """
    name = f"`{path}`"
    with source.opened(path) as opened:
        found = candidates.find(opened.content)
        if not found:
            raise CheckpointError(_without_tensors(opened.content, name), hint=source.HINT)
        chosen = choice.choose(found, key, name)
        tensors = {
            own: opened.make(own, value)
            for own, value in chosen.tensors.items()
            if names.is_weight(own)
        }
        state, naming = names.author_names(tensors)
    beside = tuple(n for n in chosen.beside if names.is_weight(n))
    return Weights(
        state=in_full_precision(state),
        origin=Origin(
            container=opened.container,
            key=chosen.key,
            prefix=chosen.prefix,
            averaged=chosen.averaged,
            naming=naming,
            left_out=beside,
            dtype=_dtype(tensors),
        ),
        # The names before the conversion, too: other models of transformers have some of them.
        identity=identify.identify(state, frozenset({*tensors, *beside})),
        adapters=adapters.find([*state, *beside]),
    )


def in_full_precision(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the state dict with half-precision tensors as float32."""
    import torch

    halves = (torch.float16, torch.bfloat16)
    return {k: v.float() if v.dtype in halves else v for k, v in state.items()}


def _dtype(state: Mapping[str, Tensor]) -> str:
    found = {str(v.dtype).removeprefix("torch.") for v in state.values() if v.is_floating_point()}
    return found.pop() if len(found) == 1 else "mixed" if found else "none"


def _without_tensors(content: Any, name: str) -> str:  # noqa: ANN401 - any content
    """Return the message for a file without tensors, which says if it has code."""
    known = {*DICTIONARIES, "torch.Size", "builtins.set"}
    for part in parts(content):
        if isinstance(part, Record) and not is_tensor(part) and part.kind not in known:
            return (
                f"{name} cannot be read as a checkpoint: it contains code, which is never run, and "
                "no module with tensors"
            )
    return f"{name} holds no state dict (names and tensors)"
