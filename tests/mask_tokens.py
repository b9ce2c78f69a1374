"""State dicts whose decoder has another number of masks than SAM's four."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

D = "mask_decoder."
NETWORKS = f"{D}output_hypernetworks_mlps."
ROWS = (
    f"{D}mask_tokens.weight",
    *(f"{D}iou_prediction_head.layers.2.{x}" for x in ("weight", "bias")),
)


def with_masks(state: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The weights of the first masks, again for those past the fourth."""
    rest = {n: v for n, v in state.items() if not n.startswith(NETWORKS) and n not in ROWS}
    for i in range(count):
        own = f"{NETWORKS}{i % 4}."
        rest |= {
            f"{NETWORKS}{i}.{n.removeprefix(own)}": v for n, v in state.items() if n.startswith(own)
        }
    chosen = [i % 4 for i in range(count)]
    return {**rest, **{n: state[n][chosen] for n in ROWS}}
