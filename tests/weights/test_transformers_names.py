"""SAM ViT-B as transformers saves it is the authors' SAM ViT-B."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from safetensors.torch import save_file

from effsam_export import models
from effsam_export.errors import CheckpointError
from effsam_export.models.sam.components import as_sam
from effsam_export.weights import checkpoint as loading
from effsam_export.weights.own_file import checkpoint_from_file
from tests import golden_weights
from tests.models.test_sam_family import check_in_full

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.backend, pytest.mark.shared, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `save_pretrained` with the deterministic weights."""
    text = (shared / "golden" / "slimsam_77_uniform" / "hf_names.json").read_text("utf-8")
    names = json.loads(text)["upstream_to_hf"]
    state = golden_weights.load("vit_b").state
    found = tmp_path_factory.mktemp("pretrained")
    tensors = {names[n]: torch.from_numpy(v).contiguous() for n, v in state.items()}
    save_file(tensors, str(found / "model.safetensors"))
    (found / "config.json").write_text('{"model_type": "sam"}')
    return found


def test_it_gives_the_golden_masks(folder: Path, shared: Path) -> None:
    """The weights to the bit, and with them the authors' figures for the photograph."""
    loaded = loading.load_with_facts(models.get("sam-vit-b"), checkpoint_from_file(folder, None))
    assert loaded.facts.origin.naming == "transformers"
    found = loaded.module.state_dict()
    golden = golden_weights.load("vit_b").state
    assert all(np.array_equal(found[n].numpy(), v) for n, v in golden.items())
    check_in_full("vit_b", as_sam(loaded.module), shared)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("slim-sam-77", "is a SAM ViT-B checkpoint: not one of `slim-sam-77`"),
        ("sam-vit-l", "is a SAM ViT-B checkpoint: another variant than `sam-vit-l`"),
    ],
)
def test_it_is_refused_as_another_model(folder: Path, model: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        loading.load(models.get(model), checkpoint_from_file(folder, None))
    assert message in caught.value.message
    assert caught.value.hint == "export it as `sam-vit-b` or `expedit-sam-vit-b`"
