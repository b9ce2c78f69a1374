"""Give the tensors of a checkpoint the authors' names, whichever library saved them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from effsam_export.weights.hub_names import from_hub

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

SEPARATE = re.compile(r"(.*\.attn\.)([qkv])(\.weight|\.bias)")
"""Queries, keys and values as SlimSAM's training stores them, apart."""
NOT_WEIGHTS = (
    # Constants of SAM that some versions store.
    *("pixel_mean", "pixel_std"),
    # Operation counts that the profiler `thop` adds to each module.
    *("total_ops", "total_params"),
    # The number of models in torch's AveragedModel.
    "n_averaged",
)
"""Last component of tensors that no model loads."""


def is_weight(name: str) -> bool:
    """Return whether a tensor of this name can be a weight of a model."""
    return name.rpartition(".")[2] not in NOT_WEIGHTS


def author_names(state: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
    """Return a state dict with the authors' names, and whose names it had.

    The second value is empty, `transformers` or `SlimSAM's training`.

    Raises:
        Unreadable: Two of transformers' names stand for one tensor, with different values.
    """
    if any(name.startswith("vision_encoder.") for name in state):
        return from_hub(state), "transformers"
    if any(SEPARATE.fullmatch(name) for name in state):
        return with_fused_qkv(state), "SlimSAM's training"
    return state, ""


def with_fused_qkv(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict with ``attn.q``, ``attn.k``, ``attn.v`` concatenated to ``attn.qkv``.

    Where their widths differ they are unchanged, and the loader reports missing names.
    """
    import torch

    fused: dict[str, Tensor] = {}
    for name, value in state.items():
        found = SEPARATE.fullmatch(name)
        if found is None:
            fused[name] = value
            continue
        parts = [state.get(f"{found[1]}{letter}{found[3]}") for letter in "qkv"]
        known = [p for p in parts if p is not None]
        if len(known) < 3 or len({p.shape for p in known}) > 1:
            fused[name] = value
        elif found[2] == "q":
            fused[f"{found[1]}qkv{found[3]}"] = torch.cat(known)
    return fused
