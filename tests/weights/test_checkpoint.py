"""Which tensors a model loads, and which values and shapes are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
import torch

from effsam_export.errors import CheckpointError
from effsam_export.spec.stages import Checkpoint
from effsam_export.weights import checkpoint as loading
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.backend

TENSOR_NAMES = 139
"""Tensors of the tiny model."""


def checkpoint(path: Path) -> Checkpoint:
    return Checkpoint(path=path, sha256="0" * 64, official=False)


@pytest.fixture
def state(tiny_checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tiny model's weights."""
    return dict(loading.read_state_dict(tiny_checkpoint.path))


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


# ------------------------------------------------------------------ checkpoints that are right


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_wrapped_state_dict_is_unwrapped(
    tmp_path: Path, state: dict[str, Tensor], key: str
) -> None:
    path = save(tmp_path / "weights.pt", {key: state, "epoch": 3})
    found = loading.load(TINY_SAM, checkpoint(path)).state_dict()
    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_file_of_an_old_torch_is_read(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "weights.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert list(loading.read_state_dict(path)) == list(state)


def test_loaded_model_is_in_eval_mode_on_the_cpu(tiny_checkpoint: Checkpoint) -> None:
    module = loading.load(TINY_SAM, tiny_checkpoint)
    assert not any(m.training for m in module.modules())
    assert {p.device.type for p in module.parameters()} == {"cpu"}


# ------------------------------------------------------------------ checkpoints of something else


def refused(tmp_path: Path, state: dict[str, Tensor]) -> CheckpointError:
    """What loading a state dict as the tiny model is refused with."""
    path = save(tmp_path / "weights.pt", state)
    with pytest.raises(CheckpointError) as caught:
        loading.load(TINY_SAM, checkpoint(path))
    return caught.value


def test_every_kind_of_difference_is_in_one_message(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    del state["image_encoder.bias"], state["prompt_encoder.no_mask_embed.weight"]
    state["image_encoder.epoch"] = torch.zeros(1)
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 128)
    error = refused(tmp_path, state)
    assert error.message == "`weights.pt` is not a checkpoint of `tiny-sam`"
    assert error.hint == (
        f"missing tensors: 2 of {TENSOR_NAMES}, as `image_encoder.bias`; "
        "unknown tensors: 1, as `image_encoder.epoch`; "
        "tensors of another shape: 1, as `mask_decoder.iou_token.weight`: "
        "[1, 128], want [1, 256]"
    )


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (
            lambda state: state.pop("image_encoder.bias"),
            f"missing tensors: 1 of {TENSOR_NAMES}, as `image_encoder.bias`",
        ),
        (
            lambda state: state.update({"mask_decoder.more": torch.zeros(1)}),
            "unknown tensors: 1, as `mask_decoder.more`",
        ),
        (
            lambda state: state.update({"image_encoder.bias": torch.zeros(255)}),
            "tensors of another shape: 1, as `image_encoder.bias`: [255], want [256]",
        ),
    ],
    ids=["missing", "unknown", "another shape"],
)
def test_one_difference(
    tmp_path: Path,
    state: dict[str, Tensor],
    change: Callable[[dict[str, Tensor]], object],
    hint: str,
) -> None:
    change(state)
    assert refused(tmp_path, state).hint == hint


NAME = "image_encoder.bias"


@pytest.mark.parametrize(
    ("dtype", "shown"),
    [
        (torch.int8, "int8"),
        (torch.uint8, "uint8"),
        (torch.bool, "bool"),
        (torch.int64, "int64"),
    ],
    ids=str,
)
def test_another_type_is_refused(
    tmp_path: Path, state: dict[str, Tensor], dtype: torch.dtype, shown: str
) -> None:
    """Of one tensor and of all, which a quantized checkpoint may have."""
    for names in ([NAME], list(state)):
        typed = {n: v.to(dtype) if n in names else v for n, v in state.items()}
        hint = refused(tmp_path, typed).hint
        assert hint == (
            f"tensors of another type: {len(names)}, as `{names[0]}`: {shown}, want float32"
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_values_that_are_not_finite_are_refused(
    tmp_path: Path, state: dict[str, Tensor], value: float
) -> None:
    """1e39 is finite in FP64 only."""
    changed = state[NAME].double()
    changed[3] = value
    error = refused(tmp_path, {**state, NAME: changed})
    assert error.message == (
        f"`weights.pt` has weights that are NaN or infinite in FP32: 1 of {TENSOR_NAMES} tensors, "
        f"as `{NAME}`"
    )


def test_a_refused_hash_is_refused_before_it_is_read(tmp_path: Path) -> None:
    from effsam_export import models
    from effsam_export.spec.stages import Checkpoint

    spec = models.get("efficientvit-sam-l0")
    digest = next(iter(spec.refused))
    absent = Checkpoint(path=tmp_path / "l0.pt", sha256=digest, official=False)
    with pytest.raises(CheckpointError) as caught:
        loading.load(spec, absent)
    assert "distilled but not fine-tuned" in caught.value.message
