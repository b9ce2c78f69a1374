"""Read `adapter_config.json`, which PEFT writes beside an adapter."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from effsam_export.errors import CheckpointError, shown
from effsam_export.util.files import reading
from effsam_export.weights.hub_names import author_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_NAME = "adapter_config.json"
MAX_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """What the scale of an adapter depends on.

    Attributes:
        alpha: `lora_alpha`.
        alphas: `alpha_pattern`: pattern of a module's path -> its alpha.
        rank_stabilised: `use_rslora`: the scale is alpha / sqrt(rank), not alpha / rank.
        fan_in_fan_out: The weights are stored transposed.
    """

    alpha: float
    alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False
    fan_in_fan_out: bool = False

    def scale(self, layer: str, rank: int) -> float:
        """Return the factor of B @ A of one layer. The rank is that of its matrices."""
        # A pattern is the end of a module's path. Source: peft, `get_pattern_key`.
        patterns = {author_name(f"{p}.").rstrip("."): a for p, a in self.alphas.items()}
        own = [a for p, a in patterns.items() if layer == p or layer.endswith(f".{p}")]
        return (own[0] if own else self.alpha) / (math.sqrt(rank) if self.rank_stabilised else rank)


def config_beside(path: Path) -> LoraConfig | None:
    """Return the configuration in the folder of an adapter's weight file; None if there is none.

    Raises:
        CheckpointError: It is not PEFT's, or of another kind of adapter than LoRA.
    """
    file = path.with_name(FILE_NAME)
    if not file.is_file():
        return None
    with reading(file):
        text = file.read_bytes() if file.stat().st_size <= MAX_BYTES else b""
    try:
        content = json.loads(text)
        alpha = content["lora_alpha"]
        alphas = content.get("alpha_pattern") or {}
        numbers = [alpha, *alphas.values()]
        if not all(_is_number(n) for n in numbers):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"`{file}` is not a configuration of a LoRA adapter", hint="give --lora-alpha NUMBER"
        ) from error
    kind = content.get("peft_type", "LORA")
    if kind != "LORA" or content.get("use_dora"):
        raise CheckpointError(
            f"`{file}` is of {shown(kind) if kind != 'LORA' else 'DoRA'}, not of LoRA",
            hint="merge it in the training code (in PEFT: `merge_and_unload()`)",
        )
    return LoraConfig(
        alpha=float(alpha),
        alphas={str(k): float(v) for k, v in alphas.items()},
        rank_stabilised=bool(content.get("use_rslora")),
        fan_in_fan_out=bool(content.get("fan_in_fan_out")),
    )


def _is_number(value: Any) -> bool:  # noqa: ANN401 - any content
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
