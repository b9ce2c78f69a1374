"""What a weight file is, by the names and shapes of its tensors, and what is said of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
import torch

from effsam_export import models
from effsam_export.errors import CheckpointError
from effsam_export.pipeline.inspect_checkpoint import inspect_checkpoint
from effsam_export.weights import checkpoint as loading
from effsam_export.weights import compare
from effsam_export.weights.adapters import MERGEABLE
from effsam_export.weights.identify import identify
from effsam_export.weights.own_file import checkpoint_from_file
from effsam_export.weights.read import Origin, Weights
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from effsam_export.spec.model import ModelSpec

pytestmark = pytest.mark.backend

Shape = tuple[int, ...]
E, D = "image_encoder.", "mask_decoder."


def outline(model: str) -> dict[str, Tensor]:
    """Return a registered model's tensors, without memory for their values."""
    with torch.device("meta"):
        return models.get(model).build().state_dict()


@pytest.mark.parametrize("model", models.names())
def test_each_registered_model_is_identified(model: str) -> None:
    found = identify(outline(model))
    assert found is not None
    assert model in found.models
    assert not found.unsupported


def test_no_two_families_share_a_model() -> None:
    """Models with the same tensors share an identity; others have none in common."""
    found = {m: identify(outline(m)) for m in models.names()}
    for one, identity in found.items():
        assert identity is not None
        for other in identity.models:
            assert found[other] == identity, (one, other)


OTHERS: dict[str, tuple[dict[str, Shape], str]] = {
    "HQ-SAM ViT-B": (
        {f"{D}hf_token.weight": (1, 256), f"{D}compress_vit_feat.0.weight": (768, 256, 2, 2)},
        "an HQ-SAM ViT-B checkpoint, whose decoder has a token of its own",
    ),
    "HQ-SAM Light": (
        {
            f"{D}hf_token.weight": (1, 256),
            f"{D}compress_vit_feat.0.weight": (160, 256, 2, 2),
            f"{E}layers.0.blocks.0.conv1.c.weight": (1,),
        },
        "an HQ-SAM Light (TinyViT) checkpoint",
    ),
    "HQ-SAM of transformers": (
        {"vision_encoder.pos_embed": (1,), f"{D}hq_token.weight": (1, 256)},
        "an HQ-SAM checkpoint",
    ),
    "SAM 2 Tiny": (
        {
            f"{E}trunk.patch_embed.proj.weight": (96, 3, 7, 7),
            f"{E}trunk.pos_embed_window": (1,),
            "sam_mask_decoder.iou_token.weight": (1, 256),
        },
        "a SAM 2 Tiny checkpoint, which segments videos",
    ),
    "SAM 2.1 Large": (
        {
            f"{E}trunk.patch_embed.proj.weight": (144, 3, 7, 7),
            "no_obj_embed_spatial": (1, 64),
            "sam_mask_decoder.iou_token.weight": (1, 256),
        },
        "a SAM 2.1 Large checkpoint",
    ),
    "SAM 2 of transformers": (
        {"vision_encoder.backbone.pos_embed_window": (1,), "no_memory_embedding": (1,)},
        "a SAM 2 checkpoint",
    ),
    "SAM 3": (
        {"detector.backbone.vision_backbone.trunk.pos_embed": (1,)},
        "a SAM 3 checkpoint",
    ),
    "EdgeTAM": ({f"{E}trunk.body.stem.weight": (1,)}, "an EdgeTAM checkpoint"),
    "EfficientTAM": (
        {f"{E}neck.convs.0.conv_1x1.weight": (1,), f"{E}trunk.pos_embed": (1, 197, 192)},
        "an EfficientTAM checkpoint",
    ),
    "SAM-Adapter": (
        {f"{E}prompt_generator.shared_mlp.weight": (1280, 40), f"{E}pos_embed": (1,)},
        "a SAM-Adapter checkpoint",
    ),
    "SAM-Med2D": (
        {f"{E}blocks.0.Adapter.channel.0.weight": (192, 768)},
        "a SAM-Med2D checkpoint",
    ),
    "finetune-SAM": (
        {f"{E}blocks.0.MLP_Adapter.D_fc1.weight": (192, 768)},
        "a SAM with adapters checkpoint",
    ),
    "MedSAM with words": (
        {"prompt_encoder.text_encoder_head.weight": (256, 512)},
        "a MedSAM with text prompts checkpoint",
    ),
    "LiteMedSAM": (
        {
            f"{E}patch_embed.seq.0.c.weight": (32, 3, 1, 1),
            f"{E}layers.0.blocks.0.conv1.c.weight": (1,),
        },
        "a LiteMedSAM checkpoint",
    ),
    "MobileSAM at 512": (
        {
            f"{E}patch_embed.seq.0.c.weight": (64, 3, 3, 3),
            f"{E}layers.0.blocks.0.conv1.c.weight": (1,),
        },
        "a MobileSAM of finetune-SAM at 512 pixels checkpoint",
    ),
    "NanoSAM": (
        {"up_1.0.weight": (1,), "proj.0.weight": (1,), "pos_embedding": (1, 256, 64, 64)},
        "a NanoSAM checkpoint",
    ),
    "YOLO": ({"model.0.conv.weight": (32, 3, 3, 3)}, "a YOLO checkpoint"),
}


def refusal(path: Path, model: ModelSpec, **state: Tensor) -> CheckpointError:
    torch.save(state, path)
    with pytest.raises(CheckpointError) as caught:
        loading.load(model, checkpoint_from_file(path, None))
    return caught.value


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_models_that_are_not_taken_are_named(tmp_path: Path, name: str, prefix: str) -> None:
    shapes, words = OTHERS[name]
    if prefix and not any(n.startswith(("image", "mask", "prompt", "model")) for n in shapes):
        return
    state = {f"{prefix}{n}": torch.zeros(shape) for n, shape in shapes.items()}
    path = tmp_path / "weights.pt"
    error = refusal(path, models.get("mobile-sam"), **state)
    assert error.message.startswith(f"`weights.pt` is {words}")
    assert error.hint
    found = inspect_checkpoint(checkpoint_from_file(path, None), None)
    assert found.problem is not None
    assert found.problem.message == error.message
    assert found.document()["models"] == []


def mismatch(model: ModelSpec, state: dict[str, Tensor]) -> CheckpointError:
    """What tensors without values are refused with, as weights of a model."""
    weights = Weights(
        state=state,
        origin=Origin(
            container="PyTorch",
            key="",
            prefix="",
            averaged=False,
            naming="",
            left_out=(),
            dtype="float32",
        ),
        identity=identify(state),
        adapters=None,
    )
    expected = loading.outline(model, state).state_dict()
    with pytest.raises(CheckpointError) as caught:
        compare.require_match(model, "weights.pt", weights, state, expected)
    return caught.value


@pytest.mark.parametrize(
    ("given", "asked", "message", "hint"),
    [
        (
            "edge-sam",
            "mobile-sam",
            "an EdgeSAM checkpoint: not one of `mobile-sam`",
            "export it as `edge-sam` or `edge-sam-3x`",
        ),
        (
            "efficientvit-sam-l1",
            "efficientvit-sam-l0",
            "an EfficientViT-SAM L1 checkpoint: another variant than `efficientvit-sam-l0`",
            "export it as `efficientvit-sam-l1`",
        ),
        (
            "slim-sam-77",
            "slim-sam-50",
            "a SlimSAM 77 checkpoint: another variant than `slim-sam-50`",
            "export it as `slim-sam-77`",
        ),
        (
            "slim-sam-50",
            "slim-sam-77",
            "a SlimSAM 50 checkpoint: another variant than `slim-sam-77`",
            "export it as `slim-sam-50`",
        ),
        (
            "fast-sam-s",
            "fast-sam-x",
            "a FastSAM s checkpoint: another variant than `fast-sam-x`",
            "export it as `fast-sam-s`",
        ),
        (
            "slim-sam-77",
            "sam-vit-b",
            "a SlimSAM 77 checkpoint: not one of `sam-vit-b`",
            "export it as `slim-sam-77`",
        ),
    ],
)
def test_another_variant_or_family(given: str, asked: str, message: str, hint: str) -> None:
    error = mismatch(models.get(asked), outline(given))
    assert error.message == f"`weights.pt` is {message}"
    assert error.hint == hint


def test_a_change_inside_the_same_model() -> None:
    state = outline("mobile-sam")
    del state[f"{D}iou_token.weight"]
    error = mismatch(models.get("mobile-sam"), state)
    assert error.message == "`weights.pt` does not fit `mobile-sam`, whose names it has"
    assert error.hint == f"missing tensors: 1 of 439, as `{D}iou_token.weight`"


ADAPTERS = {
    f"{E}layers.1.blocks.0.attn.qkv.lora_A.weight": "LoRA",
    f"{E}blocks.0.attn.qkv.linear_a_q.weight": "LoRA of finetune-SAM",
    f"{E}blocks.0.attn.qkv.w_a_linear_q.weight": "LoRA of micro-sam",
    "base_model.model.image_encoder.blocks.0.attn.qkv.lora_B.weight": "LoRA",
    "w_a_000": "LoRA of Sam_LoRA or SAMed",
    f"{E}blocks.0.attn.qkv.FacTu.weight": "FacT of micro-sam",
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_named(tmp_path: Path, name: str) -> None:
    error = refusal(tmp_path / "weights.pt", TINY_SAM, **{name: torch.zeros(4, 4)})
    assert f"has adapters ({ADAPTERS[name]}) that are not merged" in error.message
    own_file = ADAPTERS[name] in MERGEABLE
    assert ("this file with --lora" if own_file else "merge them") in str(error.hint)


def test_an_adapter_inside_a_checkpoint(tmp_path: Path) -> None:
    state = {f"{E}weight": torch.zeros(1), f"{E}lora_A.weight": torch.zeros(1)}
    assert "merge them in the training code" in str(
        refusal(tmp_path / "weights.pt", TINY_SAM, **state).hint
    )
