"""Find the models in a weight file: where their tensors are, and under which names.

Training frameworks wrap a state dict in dictionaries (`{"model": ..., "optimizer": ...}`), and the
names of its tensors in prefixes (`module.`, `_orig_mod.`). Both are paths to the same tensors. A
model starts where one of the parts of a Segment-Anything model is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from effsam_export.weights.inert import Record, Unreadable
from effsam_export.weights.pickled import as_mapping, module_tensors
from effsam_export.weights.tensors import is_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Key = tuple[Any, ...]

PARTS = (
    *("image_encoder", "prompt_encoder", "mask_decoder"),
    # transformers' names
    *("vision_encoder", "shared_image_embedding"),
)
"""First component of a tensor's name in a Segment-Anything model."""
ALIASES = {"PromtEncoder": "prompt_encoder", "MaskDecoder": "mask_decoder"}
"""Keys of MobileSAMv2's decoder file -> the part. The first one is spelled so there."""
SHORT = {"encoder": "image_encoder", "decoder": "mask_decoder"}
"""Keys of dictionaries with one part's tensors -> the part."""
OF_STATE = re.compile(r"_(state_dict|state|weights|params)$")
"""How such keys end: `mask_decoder_state_dict`."""
WRAPPERS = {
    # Components that PyTorch adds to names, at any place.
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",  # activation checkpointing
    "module",  # DataParallel around a part
}
AVERAGED = re.compile(r"(^|_)(ema|swa)(_|$)")
"""A key or prefix of averaged weights: `ema`, `model_ema`, `state_dict_ema`."""
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "step")
"""Last component of an optimizer's tensors, whose names start with those of the weights."""
MAX_DEPTH = 32
MAX_VALUES = 2_000_000
"""Bounds of the search. A dictionary that several others hold counts for each of them."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The tensors of one model in a file.

    Attributes:
        key: Keys of the dictionaries around the tensors, joined by dots; empty for the top.
        prefix: What stands before each name, with its dot at the end.
        tensors: Name without prefix and wrappers -> value in the file's content.
        beside: Names of other tensors in the same dictionary.
        averaged: The key or prefix says that the weights are averages.
        on_request: Taken only if the user gives its key.
    """

    key: str
    prefix: str
    tensors: Mapping[str, Any]
    beside: tuple[str, ...] = ()
    averaged: bool = False
    on_request: bool = False

    @property
    def label(self) -> str:
        """Key and prefix as the user gives them in `--checkpoint-key`; empty for neither."""
        return ".".join(part for part in (self.key, self.prefix.rstrip(".")) if part)


def find(content: Any) -> list[Candidate]:  # noqa: ANN401 - any content
    """Return the models of a content, in the file's order.

    Where no name has a part of a model, each dictionary or module with tensors is one: a decoder or
    an encoder alone has names of its own.

    Raises:
        Unreadable: The content is nested too deeply, or its dictionaries hold each other.
    """
    named: dict[tuple[Key, str], dict[str, Any]] = {}
    others: dict[Key, dict[str, Any]] = {}
    for key, name, value in leaves(content):
        if name.rpartition(".")[2] in MOMENTS:
            continue
        place = _split(key, name)
        if place is None:
            others.setdefault(key, {})[name] = value
        else:
            root, prefix, own = place
            named.setdefault((root, prefix), {})[own] = value
    if not named:
        return [_candidate(key, "", tensors, (), content) for key, tensors in others.items()]
    found = []
    for (root, prefix), tensors in named.items():
        beside = [
            ".".join(map(str, (*key[len(root) :], name.removeprefix(prefix))))
            for key, names in others.items()
            if key[: len(root)] == root
            for name in names
        ]
        beside += [
            f"{other}{name}"
            for (same, other), names in named.items()
            if same == root and other != prefix
            for name in names
        ]
        found.append(_candidate(root, prefix, tensors, tuple(beside), content))
    return found


def _candidate(
    key: Key,
    prefix: str,
    tensors: Mapping[str, Any],
    beside: tuple[str, ...],
    content: Any,  # noqa: ANN401 - any content
) -> Candidate:
    parts = [*map(str, key), *prefix.split(".")]
    top = as_mapping(content) or {}
    averaged = any(AVERAGED.search(part.lower()) for part in parts)
    # Two frameworks store the averages under `state_dict`, and the trained values elsewhere:
    # mmengine's EMAHook swaps them on saving, and Lightning's WeightAveraging.
    swapped = "message_hub" in top and "ema_state_dict" in top
    if swapped or "averaging_state" in top:
        averaged = key[:1] == ("state_dict",)
    return Candidate(
        key=".".join(map(str, key)),
        prefix=prefix,
        tensors=tensors,
        beside=beside,
        averaged=averaged,
        # EfficientViT stores several averages by their decay, which its own loader ignores.
        on_request=any(isinstance(k, float) for k in key),
    )


def _split(key: Key, name: str) -> tuple[Key, str, str] | None:
    """Return where a tensor's model starts: keys, prefix, and the name after them."""
    parts = [*(str(k) for k in key), *name.split(".")]
    parts = [ALIASES.get(part, part) for part in parts]
    start = next((i for i, part in enumerate(parts) if part in PARTS), None)
    if start is None:
        # Only the keys: `encoder` is the name of a module in many encoders.
        keys = [OF_STATE.sub("", str(k)) for k in key]
        keys = [SHORT.get(k, k) for k in keys]
        start = next((i for i, k in enumerate(keys) if k in PARTS), None)
        if start is not None:
            parts = [*keys, *name.split(".")]
    if start is None:
        # FastSAM numbers its layers: `model.22.proto...`.
        pairs = enumerate(pairwise(parts))
        start = next((i for i, (a, b) in pairs if a == "model" and b.isdigit()), None)
    if start is None:
        return None
    own = ".".join(part for part in parts[start:] if part not in WRAPPERS)
    if start < len(key):
        return key[:start], "", own
    prefix = ".".join(parts[len(key) : start])
    return key, f"{prefix}." if prefix else "", own


def leaves(content: Any) -> Iterator[tuple[Key, str, Any]]:  # noqa: ANN401 - any content
    """Yield the tensors of a content: keys of the dictionaries around it, name, value."""
    waiting: list[tuple[Key, Any]] = [((), content)]
    visited = 0
    while waiting:
        key, value = waiting.pop()
        if len(key) > MAX_DEPTH:
            raise Unreadable("its dictionaries are nested too deeply, or hold each other")
        below: list[tuple[Key, Any]] = []
        for name, entry in _entries(value):
            visited += 1
            if visited > MAX_VALUES:
                raise Unreadable("its dictionaries have too many values, or hold each other")
            if _is_leaf(entry):
                yield key, str(name), entry
            elif not str(name).lower().startswith("optim"):
                below.append(((*key, name), entry))
        waiting += reversed(below)


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - any content
    """Yield the entries of a dictionary, a list, a module's state dict, or an object."""
    entries = as_mapping(value)
    if entries is not None:
        yield from entries.items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif isinstance(value, Record):
        tensors = module_tensors(value)
        if tensors:
            yield from tensors.items()
        elif isinstance(value.state, dict):
            yield from value.state.items()


def _is_leaf(value: Any) -> bool:  # noqa: ANN401 - any content
    if isinstance(value, Record):
        return is_tensor(value)
    # A tensor of a safetensors file.
    return hasattr(value, "dtype") and hasattr(value, "untyped_storage")
