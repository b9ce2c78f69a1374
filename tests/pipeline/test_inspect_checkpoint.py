"""What `effsam info --checkpoint` says of a file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
import torch

from effsam_export import models
from effsam_export.pipeline.inspect_checkpoint import inspect_checkpoint
from effsam_export.weights import checkpoint as loading
from effsam_export.weights.own_file import checkpoint_from_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.backend

E = "image_encoder."


def outline(model: str) -> dict[str, Tensor]:
    """Return a registered model's tensors, without memory for their values."""
    with torch.device("meta"):
        return models.get(model).build().state_dict()


def test_the_contents_of_a_file(tmp_path: Path) -> None:
    state = {n: torch.zeros(v.shape, dtype=v.dtype) for n, v in outline("mobile-sam").items()}
    path = tmp_path / "weights.pt"
    torch.save(
        {"model": {**{f"module.{n}": v for n, v in state.items()}, "loss.w": torch.ones(1)}}, path
    )
    checkpoint = checkpoint_from_file(path, None)
    found = inspect_checkpoint(checkpoint, None)
    document = found.document()
    digest = loading.load_with_facts(models.get("mobile-sam"), checkpoint).facts.weights_sha256
    assert document == {
        "family": "MobileSAM",
        "variant": None,
        "models": ["mobile-sam"],
        "model": "mobile-sam",
        "image_size": 1024,
        "part": None,
        "container": "PyTorch",
        "key": "model",
        "prefix": "module.",
        "averaged": False,
        "naming": "authors",
        "tensors": 439,
        "left_out": ["loss.w"],
        "missing": [],
        "dtype": "float32",
        "sha256": checkpoint.sha256,
        "official": False,
        "weights_sha256": digest,
        "problem": None,
        "hint": None,
    }


def test_the_contents_of_an_encoder_alone(tmp_path: Path) -> None:
    state = {
        n.removeprefix(E): torch.zeros(v.shape, dtype=v.dtype)
        for n, v in outline("mobile-sam").items()
        if n.startswith(E)
    }
    torch.save(state, tmp_path / "encoder.pt")
    found = inspect_checkpoint(checkpoint_from_file(tmp_path / "encoder.pt", None), None)
    assert (found.part, found.model) == ("image_encoder", "mobile-sam")
    assert found.weights_sha256 is None
    assert {n.partition(".")[0] for n in found.missing} == {"prompt_encoder", "mask_decoder"}
    assert found.problem is not None
    assert found.problem.hint == "give a whole checkpoint for the rest: --base FILE"


def test_counters_do_not_matter(tmp_path: Path) -> None:
    state = {n: torch.zeros(v.shape, dtype=v.dtype) for n, v in outline("mobile-sam").items()}
    bare = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    assert len(bare) < len(state)
    digests = set()
    for i, content in enumerate((state, bare)):
        torch.save(content, tmp_path / f"{i}.pt")
        found = inspect_checkpoint(checkpoint_from_file(tmp_path / f"{i}.pt", None), None)
        assert found.missing == ()
        digests.add(found.weights_sha256)
    assert len(digests) == 1


def test_the_official_file_is_official(tmp_path: Path) -> None:
    state = {n: torch.zeros(v.shape, dtype=v.dtype) for n, v in outline("mobile-sam").items()}
    torch.save(state, tmp_path / "w.pt")
    checkpoint = checkpoint_from_file(tmp_path / "w.pt", None)
    model = models.get("mobile-sam")
    assert model.weights is not None
    pinned = replace(model, weights=replace(model.weights, sha256=checkpoint.sha256))
    assert inspect_checkpoint(checkpoint, pinned).official
    assert not inspect_checkpoint(checkpoint, model).official
