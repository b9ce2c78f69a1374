"""Merge a LoRA adapter into the weights it was trained on: `W + scale * B @ A`.

Sources: peft 5d602fdb, `tuners/lora/layer.py` and `utils/save_and_load.py`; SAMed e351840,
`sam_lora_image_encoder.py`, and 7972803, `sam_lora_image_encoder_mask_decoder.py`; Sam_LoRA
788decc, `src/lora.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.errors import CheckpointError, shown
from effsam_export.weights import source
from effsam_export.weights.candidates import PARTS, WRAPPERS, leaves
from effsam_export.weights.hub_names import author_name, is_hub
from effsam_export.weights.lora_config import LoraConfig, config_beside
from effsam_export.weights.read import in_full_precision

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from torch import Tensor

    from effsam_export.spec.stages import LoraFile

MATRIX = re.compile(r"(.+)\.lora_([AB])(?:\.default)?(?:\.weight)?")
"""Names of PEFT: A is [rank, in], B is [out, rank]."""
QKV = re.compile(r"(?:.+\.)?w_([ab])_(\d{3})")
"""Names of Sam_LoRA and SAMed: number 2i is the query of block i, 2i + 1 its value."""
DECODER = re.compile(r"(?:.+\.)?(sa|cti|cit)_([ab])_(\d{3})")
"""Names of SAMed in the mask decoder: number 2i is the query of layer i, 2i + 1 its value."""
LAST = re.compile(r"(?:.+\.)?fati_([qv])([ab])")
"""Those of its last attention."""
ATTENTIONS = {
    "sa": "self_attn",
    "cti": "cross_attn_token_to_image",
    "cit": "cross_attn_image_to_token",
}
REFUSED = {
    # Pattern of a name -> what it is.
    r"lora_magnitude_vector": "DoRA, which also scales the columns of the weights",
    r"lora_embedding_[AB]": "LoRA of an embedding, which is no layer of these models",
    r"lora_B(\.default)?\.bias": "LoRA with a bias",
    r"(^|\.)fc_\d+in_\d+out": "LoRA with a head of its own (Sam_LoRA)",
}
MAX_LISTED = 3
"""Faults that a message lists."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The two matrices of one adapted layer.

    Attributes:
        name: The adapted tensor, as `image_encoder.blocks.0.attn.qkv.weight`.
        down: A, [rank, in], or [rank, in, height, width] of a convolution.
        up: B, [out, rank], or [out, rank, 1, 1].
        scale: Factor of their product.
        third: Which third of the rows of a `qkv` tensor is adapted; None for all rows.
        transposed: The product is added transposed (PEFT's `fan_in_fan_out`).
    """

    name: str
    down: Tensor
    up: Tensor
    scale: float
    third: int | None = None
    transposed: bool = False


def merge(
    state: Mapping[str, Tensor],
    lora: LoraFile,
    tensors: Mapping[str, Tensor],
    expected: Collection[str],
) -> Mapping[str, Tensor]:
    """Return a model's tensors with an adapter merged into them, in float32.

    Modules that were trained whole beside the adapter replace the model's.

    Args:
        state: All tensors of the model, under the authors' names.
        lora: The adapter.
        tensors: Its tensors, from `adapter_tensors`.
        expected: Names of the model with the adapter: a decoder beside it may have another number
            of masks.

    Raises:
        CheckpointError: It is no LoRA adapter, of another kind, without a scale, or for other
            layers than the model's.
    """
    name = f"`{lora.path.name}`"
    for pattern, what in REFUSED.items():
        if found := [n for n in tensors if re.search(pattern, n)]:
            raise CheckpointError(
                f"{name} is {what}, as `{shown(found[0])}`",
                hint="merge it in the training code, and export the whole checkpoint",
            )
    patterns = (MATRIX, QKV, DECODER, LAST)
    matrices = {n for n in tensors if any(pattern.fullmatch(n) for pattern in patterns)}
    if not matrices:
        raise CheckpointError(
            f"{name} is not a LoRA adapter: none of its {len(tensors)} tensors is one of LoRA",
            hint="a part of a model comes with --checkpoint FILE --base FILE",
        )
    problems: list[str] = []
    pairs = [
        *_of_peft(tensors, config_beside(lora.path), lora, problems),
        *_of_blocks(tensors, lora, state, problems),
        *_of_decoder(tensors, lora, problems),
    ]
    trained = {n: v for n, v in tensors.items() if n not in matrices}
    problems += [f"`{shown(n)}` is not in the model" for n in trained if n not in expected]
    merged = dict(state)
    for pair in pairs:
        problem = _problem(pair, state)
        if problem is None:
            merged[pair.name] = _sum(merged[pair.name], pair)
        else:
            problems.append(problem)
    if problems:
        more = len(problems) - MAX_LISTED
        listed = "; ".join(problems[:MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")
        raise CheckpointError(
            f"{name} does not fit the checkpoint: {listed}",
            hint="give the checkpoint that the adapter was trained on",
        )
    return {n: value for n, value in {**merged, **trained}.items() if n in expected}


def adapter_tensors(path: Path) -> dict[str, Tensor]:
    """Return an adapter's tensors by their names from the part of the model on.

    Raises:
        CheckpointError: The file cannot be read, or holds no tensors.
    """
    with source.opened(path) as opened:
        content = {
            ".".join(map(str, (*key, name))): value for key, name, value in leaves(opened.content)
        }
        hub = is_hub(content)
        tensors = {own_name(n, hub=hub): opened.make(n, v) for n, v in content.items()}
    if not tensors:
        raise CheckpointError(f"`{path}` holds no tensors", hint="name the adapter's weight file")
    return dict(in_full_precision(tensors))


def own_name(name: str, *, hub: bool) -> str:
    """Return a tensor's name from the part of the model on, in the authors' naming."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    start = next((i for i, part in enumerate(parts) if part in PARTS), 0)
    own = ".".join(parts[start:])
    return author_name(own) if hub else own


def _of_peft(
    tensors: Mapping[str, Tensor], config: LoraConfig | None, lora: LoraFile, problems: list[str]
) -> list[Pair]:
    """Return the pairs under PEFT's names; faults are added to `problems`."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if match := MATRIX.fullmatch(name):
            found.setdefault(match[1], {})[match[2]] = value
    pairs = []
    for layer, sides in found.items():
        if len(sides) != 2:
            problems.append(f"`{shown(layer)}` has one matrix of two")
            continue
        rank = sides["A"].shape[0]
        if lora.alpha is not None:
            scale = lora.alpha / rank
        elif config is not None:
            scale = config.scale(layer, rank)
        else:
            raise CheckpointError(
                f"`{lora.path.name}` has no `adapter_config.json` beside it, which holds its alpha",
                hint="copy that file there, or give --lora-alpha NUMBER",
            )
        pairs.append(
            Pair(
                name=f"{layer}.weight",
                down=sides["A"],
                up=sides["B"],
                scale=scale,
                transposed=config is not None and config.fan_in_fan_out,
            )
        )
    return pairs


def _of_blocks(
    tensors: Mapping[str, Tensor],
    lora: LoraFile,
    state: Mapping[str, Tensor],
    problems: list[str],
) -> list[Pair]:
    """Return the pairs under Sam_LoRA's names: query and value of every block of the encoder."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if match := QKV.fullmatch(name):
            found.setdefault(int(match[2]), {})[match[1]] = value
    depth = 0
    while f"image_encoder.blocks.{depth}.attn.qkv.weight" in state:
        depth += 1
    if not found:
        return []
    if sorted(found) != list(range(2 * depth)) or any(len(s) != 2 for s in found.values()):
        # Which blocks are adapted is not in the file, unless it is all of them.
        problems.append(
            f"it has {len(found)} pairs of matrices, the {depth} blocks of the model want "
            f"{2 * depth}"
        )
        return []
    return [
        Pair(
            name=f"image_encoder.blocks.{number // 2}.attn.qkv.weight",
            down=sides["a"],
            up=sides["b"],
            scale=_own_scale(lora, sides["a"]),
            third=0 if number % 2 == 0 else 2,
        )
        for number, sides in found.items()
    ]


def _of_decoder(tensors: Mapping[str, Tensor], lora: LoraFile, problems: list[str]) -> list[Pair]:
    """Return the pairs under SAMed's names: query and value of the decoder's attentions."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if match := DECODER.fullmatch(name):
            layer, kind = divmod(int(match[3]), 2)
            place = f"layers.{layer}.{ATTENTIONS[match[1]]}.{'qv'[kind]}_proj"
            found.setdefault(place, {})[match[2]] = value
        elif match := LAST.fullmatch(name):
            place = f"final_attn_token_to_image.{match[1]}_proj"
            found.setdefault(place, {})[match[2]] = value
    pairs = []
    for place, sides in found.items():
        name = f"mask_decoder.transformer.{place}.weight"
        if len(sides) != 2:
            problems.append(f"`{name}` has one matrix of two")
            continue
        scale = _own_scale(lora, sides["a"])
        pairs.append(Pair(name=name, down=sides["a"], up=sides["b"], scale=scale))
    return pairs


def _own_scale(lora: LoraFile, down: Tensor) -> float:
    """Return the scale of a pair under the names of Sam_LoRA and SAMed, which have no alpha."""
    return 1.0 if lora.alpha is None else lora.alpha / down.shape[0]


def _problem(pair: Pair, state: Mapping[str, Tensor]) -> str | None:
    """Return why a pair does not fit a model, as a sentence; None if it does."""
    weight = state.get(pair.name)
    if weight is None:
        return f"`{shown(pair.name)}` is not in the model"
    down, up = pair.down, pair.up
    want = tuple(weight.shape)
    if pair.third is not None:
        want = (want[0] // 3, *want[1:])
    product = (
        (up.shape[0], *down.shape[1:])
        if down.ndim == up.ndim == weight.ndim and up.shape[1:2] == down.shape[:1]
        else None
    )
    if product is not None and pair.transposed:
        product = product[::-1]
    if product != want:
        shapes = f"{list(up.shape)} and {list(down.shape)}"
        return f"`{shown(pair.name)}` {list(weight.shape)} cannot take {shapes}"
    return None


def _sum(weight: Tensor, pair: Pair) -> Tensor:
    """Return the weight with the scaled product of a pair added, in float32."""
    delta = pair.scale * (pair.up.flatten(1).float() @ pair.down.flatten(1).float())
    delta = delta.T if pair.transposed else delta.reshape(-1, *pair.down.shape[1:])
    summed = weight.float().clone()
    rows = summed.shape[0] // 3
    if pair.third is None:
        summed += delta
    else:
        summed[pair.third * rows : (pair.third + 1) * rows] += delta
    return summed
