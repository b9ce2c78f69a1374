"""LoRA adapters are merged as the libraries that trained them compute them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch")
import torch
from safetensors.torch import save_file
from torch import nn

from effsam_export.errors import CheckpointError
from effsam_export.spec.stages import LoraFile
from effsam_export.weights import checkpoint as loading
from effsam_export.weights.lora import adapter_tensors, merge
from effsam_export.weights.own_file import checkpoint_from_file, lora_from_file
from tests.mask_tokens import with_masks
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from effsam_export.spec.stages import Checkpoint

pytestmark = pytest.mark.backend

DIM, DEPTH, RANK = 8, 2, 3
LINEAR = "mask_decoder.transformer.layers.0.self_attn.q_proj"
CONV = "image_encoder.patch_embed.proj"


def blocks() -> dict[str, Tensor]:
    """A state dict with the layers that adapters change."""
    generator = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {
        f"image_encoder.blocks.{i}.attn.qkv.weight": (3 * DIM, DIM) for i in range(DEPTH)
    }
    shapes |= {f"{LINEAR}.weight": (DIM, 2 * DIM), f"{CONV}.weight": (DIM, 3, 4, 4)}
    shapes |= {f"{LINEAR}.bias": (DIM,)}
    return {n: torch.randn(s, generator=generator) for n, s in shapes.items()}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def adapter(folder: Path, tensors: Mapping[str, Tensor], config: object = None) -> LoraFile:
    path = folder / "adapter_model.safetensors"
    save_file({n: v.contiguous() for n, v in tensors.items()}, str(path))
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return lora_from_file(path, None)


def with_adapter(state: dict[str, Tensor], lora: LoraFile) -> Mapping[str, Tensor]:
    return merge(state, lora, adapter_tensors(lora.path), state)


def peft(layer: str, weight: Tensor, prefix: str = "base_model.model.") -> dict[str, Tensor]:
    out, *rest = weight.shape
    return {
        f"{prefix}{layer}.lora_A.weight": random(RANK, *rest),
        f"{prefix}{layer}.lora_B.weight": random(out, RANK, *[1] * (len(rest) - 1)),
    }


CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6}


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (CONFIG, 2.0),
        ({**CONFIG, "use_rslora": True}, 6 / math.sqrt(RANK)),
        ({**CONFIG, "alpha_pattern": {"q_proj": 9}}, 3.0),
        ({**CONFIG, "alpha_pattern": {"k_proj": 9}}, 2.0),
    ],
)
@pytest.mark.parametrize("prefix", ["base_model.model.", "base_model.model.sam.", "module."])
def test_a_linear_layer_of_peft(
    tmp_path: Path, config: dict[str, Any], scale: float, prefix: str
) -> None:
    """The merged layer gives what the layer and the scaled branch give together."""
    state = blocks()
    weight = state[f"{LINEAR}.weight"]
    tensors = peft(LINEAR, weight, prefix)
    merged = with_adapter(state, adapter(tmp_path, tensors, config))
    x = random(5, 2 * DIM)
    down, up = tensors.values()
    want = nn.functional.linear(x, weight) + scale * (x @ down.T @ up.T)
    found = nn.functional.linear(x, merged[f"{LINEAR}.weight"])
    assert torch.allclose(found, want, atol=1e-5)
    others = [n for n in state if n != f"{LINEAR}.weight"]
    assert all(merged[n] is state[n] for n in others)


def test_a_convolution_of_peft(tmp_path: Path) -> None:
    state = blocks()
    weight = state[f"{CONV}.weight"]
    tensors = peft(CONV, weight)
    merged = with_adapter(state, adapter(tmp_path, tensors, CONFIG))
    x = random(1, 3, 12, 12)
    down, up = tensors.values()
    branch = nn.functional.conv2d(nn.functional.conv2d(x, down), up)
    want = nn.functional.conv2d(x, weight) + 2 * branch
    assert torch.allclose(nn.functional.conv2d(x, merged[f"{CONV}.weight"]), want, atol=1e-4)


def test_transformers_names_and_trained_modules(tmp_path: Path) -> None:
    state = blocks()
    layer = "vision_encoder.layers.1.attn.qkv"
    own = "image_encoder.blocks.1.attn.qkv.weight"
    bias = random(DIM)
    tensors = {**peft(layer, state[own]), f"base_model.model.{LINEAR}.bias": bias}
    merged = with_adapter(state, adapter(tmp_path, tensors, CONFIG))
    down, up = list(tensors.values())[:2]
    assert torch.allclose(merged[own], state[own] + 2 * (up @ down))
    assert torch.equal(merged[f"{LINEAR}.bias"], bias)


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6.0, 2.0)])
def test_query_and_value_of_every_block(tmp_path: Path, alpha: float | None, scale: float) -> None:
    """Sam_LoRA: the query's rows are the first third, the value's the last; keys stay."""
    state = blocks()
    tensors = {}
    for i in range(2 * DEPTH):
        tensors[f"w_a_{i:03d}"] = random(RANK, DIM) + i
        tensors[f"w_b_{i:03d}"] = random(DIM, RANK) - i
    path = tmp_path / "lora.safetensors"
    save_file(tensors, str(path))
    merged = with_adapter(state, lora_from_file(path, alpha))
    for block in range(DEPTH):
        name = f"image_encoder.blocks.{block}.attn.qkv.weight"
        delta = torch.zeros(3, DIM, DIM)
        for third, i in ((0, 2 * block), (2, 2 * block + 1)):
            delta[third] = scale * (tensors[f"w_b_{i:03d}"] @ tensors[f"w_a_{i:03d}"])
        assert torch.allclose(merged[name], state[name] + delta.flatten(0, 1))


def test_query_and_value_of_the_decoders_attentions(tmp_path: Path) -> None:
    """SAMed with LoRA in the decoder: the rest of the decoder comes with the adapter."""
    t = "mask_decoder.transformer."
    names = {
        "sa_{}_000": f"{t}layers.0.self_attn.q_proj",
        "sa_{}_003": f"{t}layers.1.self_attn.v_proj",
        "cti_{}_002": f"{t}layers.1.cross_attn_token_to_image.q_proj",
        "cit_{}_001": f"{t}layers.0.cross_attn_image_to_token.v_proj",
        "fati_q{}": f"{t}final_attn_token_to_image.q_proj",
        "fati_v{}": f"{t}final_attn_token_to_image.v_proj",
    }
    state = {f"{layer}.weight": random(DIM, 2 * DIM) for layer in names.values()}
    tensors = {}
    for i, name in enumerate(names):
        tensors[name.format("a")] = random(RANK, 2 * DIM) + i
        tensors[name.format("b")] = random(DIM, RANK) - i
    merged = with_adapter(state, adapter(tmp_path, tensors))
    for name, layer in names.items():
        delta = tensors[name.format("b")] @ tensors[name.format("a")]
        assert torch.allclose(merged[f"{layer}.weight"], state[f"{layer}.weight"] + delta)


# ------------------------------------------------------------------ what is refused


def refused(state: dict[str, Tensor], lora: LoraFile) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        with_adapter(state, lora)
    return caught.value


def test_an_adapter_without_its_alpha(tmp_path: Path) -> None:
    state = blocks()
    lora = adapter(tmp_path, peft(LINEAR, state[f"{LINEAR}.weight"]))
    error = refused(state, lora)
    assert "has no `adapter_config.json` beside it" in error.message
    assert error.hint == "copy that file there, or give --lora-alpha NUMBER"
    given = LoraFile(path=lora.path, sha256=lora.sha256, alpha=6.0)
    assert not torch.equal(
        with_adapter(state, given)[f"{LINEAR}.weight"], state[f"{LINEAR}.weight"]
    )


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"lora_alpha": "6"},
        {"lora_alpha": None},
        {"lora_alpha": float("nan")},
        {"lora_alpha": True},
        {"lora_alpha": 6, "alpha_pattern": [1]},
        {"lora_alpha": 6, "peft_type": "IA3"},
        {"lora_alpha": 6, "use_dora": True},
    ],
)
def test_a_configuration_of_something_else(tmp_path: Path, config: object) -> None:
    state = blocks()
    error = refused(state, adapter(tmp_path, peft(LINEAR, state[f"{LINEAR}.weight"]), config))
    assert "adapter_config.json` is" in error.message


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (f"{LINEAR}.lora_magnitude_vector.weight", "is DoRA"),
        ("fc_8in_8out", "is LoRA with a head of its own"),
        (f"{LINEAR}.lora_B.bias", "is LoRA with a bias"),
        ("some.weight", "is not a LoRA adapter"),
    ],
)
def test_other_adapters_are_named(tmp_path: Path, name: str, what: str) -> None:
    assert what in refused(blocks(), adapter(tmp_path, {name: random(2, 2)}, CONFIG)).message


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        (peft("mask_decoder.other", random(DIM, DIM)), "`mask_decoder.other.weight` is not in"),
        (peft(LINEAR, random(DIM, DIM)), "cannot take [8, 3] and [3, 8]"),
        ({f"{LINEAR}.lora_A.weight": random(RANK, 16)}, "has one matrix of two"),
        ({"fati_qa": random(RANK, 16)}, "has one matrix of two"),
        (
            {"sa_a_000": random(RANK, 16), "sa_b_000": random(2, RANK)},
            "cannot take [2, 3] and [3, 16]",
        ),
        (
            {"w_a_000": random(RANK, DIM), "w_b_000": random(DIM, RANK)},
            "it has 1 pairs of matrices",
        ),
        (
            {**peft(CONV, random(DIM, 3, 4, 4)), "mask_decoder.new.weight": random(2)},
            "`mask_decoder.new.weight` is not in the model",
        ),
    ],
)
def test_an_adapter_of_another_model(
    tmp_path: Path, tensors: dict[str, Tensor], fault: str
) -> None:
    error = refused(blocks(), adapter(tmp_path, tensors, CONFIG))
    assert "does not fit the checkpoint" in error.message
    assert fault in error.message


# ------------------------------------------------------------------ as part of a checkpoint


def test_a_model_is_loaded_with_its_adapter(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    layer = "mask_decoder.iou_prediction_head.layers.0"
    weight = loading.read_state_dict(tiny_checkpoint.path)[f"{layer}.weight"]
    adapter(tmp_path, peft(layer, weight), CONFIG)
    given = checkpoint_from_file(tiny_checkpoint.path, None, lora=tmp_path)
    loaded = loading.load_with_facts(TINY_SAM, given)
    plain = loading.load_with_facts(TINY_SAM, tiny_checkpoint)
    assert loaded.facts.note == "139 tensors, --lora merged"
    assert loaded.facts.document()["lora"] == {
        "sha256": given.lora and given.lora.sha256,
        "alpha": None,
    }
    assert loaded.facts.weights_sha256 != plain.facts.weights_sha256
    changed = [
        n
        for n, v in loaded.module.state_dict().items()
        if not torch.equal(v, plain.module.state_dict()[n])
    ]
    assert changed == [f"{layer}.weight"]


def test_a_decoder_with_other_masks_beside_the_adapter(
    tmp_path: Path, tiny_checkpoint: Checkpoint
) -> None:
    """SAMed: the decoder of the file has a mask for each class, the checkpoint SAM's four."""
    state = dict(loading.read_state_dict(tiny_checkpoint.path))
    decoder = {n: v for n, v in with_masks(state, 9).items() if n.startswith("mask_decoder.")}
    tensors = {**decoder, "fati_qa": random(RANK, 256), "fati_qb": random(128, RANK)}
    torch.save(tensors, tmp_path / "samed.pth")
    given = checkpoint_from_file(tiny_checkpoint.path, None, lora=tmp_path / "samed.pth")
    loaded = loading.load_with_facts(TINY_SAM, given)
    assert loaded.facts.masks == 9
    assert loaded.model.masks.multimask == tuple(range(1, 9))
    tokens = loaded.module.get_parameter("mask_decoder.mask_tokens.weight")
    assert torch.equal(tokens, decoder["mask_decoder.mask_tokens.weight"])


def test_the_configuration_is_part_of_the_hash(tmp_path: Path) -> None:
    tensors = peft(LINEAR, random(DIM, DIM))
    first = adapter(tmp_path, tensors, CONFIG)
    second = adapter(tmp_path, tensors, {**CONFIG, "lora_alpha": 7})
    assert first.sha256 != second.sha256


def test_a_folder_without_an_adapter(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(CheckpointError):
            lora_from_file(path, None)
