"""Recognise adapters (LoRA and its relatives) among the tensors of a checkpoint.

Sources of the names: peft 5d602fdb, LoRA (loralib), SAMed e351840, Sam_LoRA 788decc, finetune-SAM
e41f732, micro-sam 3acdcd72.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

KINDS: tuple[tuple[str, str], ...] = (
    # Pattern of a name -> what it belongs to; the first that is found.
    (r"(^|\.)lora_magnitude_vector", "DoRA"),
    (r"(^|\.)lora_(A|B|embedding_A)(\.|$)", "LoRA"),
    (r"(^|\.)base_layer\.", "LoRA of PEFT"),
    (r"\.attn\.qkv\.linear_[ab]_[qv]\.", "LoRA of finetune-SAM"),
    (r"\.w_[ab]_linear_[qkv12]\.", "LoRA of micro-sam"),
    (r"(^|\.)(w|sa|cti|cit)_[ab]_\d{3}$|^fati_[qv][ab]$", "LoRA of Sam_LoRA or SAMed"),
    (r"\.FacT[uv](\.|$)", "FacT of micro-sam"),
    (r"\.(qkv|proj|lin1|lin2|norm1|norm2)\.layer\.weight$", "SSF of micro-sam"),
    (r"\.mlp\.(down_proj|up_proj)\.", "AdaptFormer of micro-sam"),
)

MERGEABLE = ("LoRA", "LoRA of Sam_LoRA or SAMed")
"""Kinds that `lora.merge` takes as files of their own."""


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """The adapters among some tensors.

    Attributes:
        kind: What they are, such as `LoRA`.
        names: Their tensors' names.
    """

    kind: str
    names: tuple[str, ...]


def find(names: Collection[str]) -> Adapters | None:
    """Return the adapters among tensor names; None if there are none."""
    for pattern, kind in KINDS:
        found = tuple(n for n in names if re.search(pattern, n))
        if found:
            return Adapters(kind=kind, names=found)
    return None
