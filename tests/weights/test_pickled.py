"""Pickled modules: their tensors come out, and nothing that they name is run."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")
import torch
from torch import nn

from effsam_export.errors import CheckpointError
from effsam_export.models import get
from effsam_export.models.vit import ImageEncoderViT
from effsam_export.models.yolov8_seg import YoloV8Seg, size_of
from effsam_export.weights import checkpoint
from tests import golden_weights
from tests.sampled import MAX_DIFFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.backend


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("dropped", torch.zeros(2), persistent=False)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.SiLU())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_module_gives_its_state_dict(tmp_path: Path, zipped: bool, protocol: int) -> None:
    module = Outer()
    path = tmp_path / "module.pt"
    torch.save(module, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found, wanted = checkpoint.read_state_dict(path), module.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_training_checkpoint_gives_its_average_first(tmp_path: Path) -> None:
    model, ema = Inner(), Inner()
    ema.weight.data += 1
    path = tmp_path / "last.pt"
    torch.save({"model": model, "ema": ema, "epoch": 3}, path)
    assert torch.equal(checkpoint.read_state_dict(path)["weight"], ema.weight)
    torch.save({"model": model, "ema": None}, path)
    assert torch.equal(checkpoint.read_state_dict(path)["weight"], model.weight)


def test_tensors_saved_on_cuda_come_to_the_cpu(tmp_path: Path) -> None:
    path, moved = tmp_path / "module.pt", tmp_path / "cuda.pt"
    torch.save(Inner(), path, _use_new_zipfile_serialization=False)
    # The place of a storage is a string of the pickle: length and text, in protocol 2.
    content = path.read_bytes().replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    moved.write_bytes(content)
    assert b"cuda:0" in content
    assert checkpoint.read_state_dict(moved)["weight"].device.type == "cpu"


# ------------------------------------------------------------------ hostile files


class Runs:
    """Pickles as a call of `function`."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    "attack",
    [
        lambda mark: Runs(os.system, f"touch {mark}"),
        lambda mark: Runs(eval, f"open({str(mark)!r}, 'w').close()"),
        lambda mark: Runs(getattr, os, "system"),
        lambda mark: Runs(exec, f"open({str(mark)!r}, 'w').close()"),
        lambda mark: Runs(__import__, "antigravity"),
    ],
    ids=["system", "eval", "getattr", "exec", "import"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_nothing_is_run(tmp_path: Path, attack: Callable[[Path], object], zipped: bool) -> None:
    mark, path = tmp_path / "owned", tmp_path / "evil.pt"
    content = {"model": attack(mark)}
    try:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    except (TypeError, pickle.PicklingError):
        # A module object cannot be pickled; its name can.
        torch.save({"model": Runs(getattr, "os", "system")}, path)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_state_dict(path)
    assert not mark.exists()
    assert caught.value.hint is not None


def test_an_attack_beside_tensors_leaves_only_the_tensors(tmp_path: Path) -> None:
    mark, path = tmp_path / "owned", tmp_path / "evil.pt"
    module = Inner()
    module.extra = Runs(os.system, f"touch {mark}")  # type: ignore[assignment]
    torch.save({"model": module}, path)
    assert sorted(checkpoint.read_state_dict(path)) == ["kept", "weight"]
    assert not mark.exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "module.pt"
    torch.save(Outer(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError):
        checkpoint.read_state_dict(path)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    module: nn.Module = Inner()
    for _ in range(80):
        module = nn.Sequential(module)
    path = tmp_path / "deep.pt"
    torch.save(module, path)
    with pytest.raises(CheckpointError):
        checkpoint.read_state_dict(path)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.pt"
    torch.save({"model": nn.ReLU()}, path)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read_state_dict(path)
    assert "no module with tensors" in caught.value.message


# ------------------------------------------------------------------ the authors' containers


@pytest.mark.shared
def test_a_globally_pruned_slim_sam(shared: Path) -> None:
    """Its encoder, with widths of its own in each block and q, k and v apart, gives the figures."""
    folder = shared / "golden" / "slimsam_global_tiny"
    state = checkpoint.read_state_dict(folder / "pickled_module.pth")
    own = {
        name.removeprefix("image_encoder."): value
        for name, value in state.items()
        if name.startswith("image_encoder.")
    }
    depth = len({n.split(".")[1] for n in own if n.startswith("blocks.")})
    encoder = ImageEncoderViT(
        dim=own["patch_embed.proj.weight"].shape[0],
        depth=depth,
        num_heads=12,
        global_blocks=[i for i in range(depth) if len(own[f"blocks.{i}.attn.rel_pos_h"]) != 27],
        attn_dims=[own[f"blocks.{i}.attn.qkv.weight"].shape[0] // 3 for i in range(depth)],
        mlp_dims=[own[f"blocks.{i}.mlp.lin1.weight"].shape[0] for i in range(depth)],
        image_size=256,
        out_dim=64,
    ).eval()
    encoder.load_state_dict(own, strict=True)
    noise = golden_weights.generator(7).standard_normal((1, 3, 256, 256)).astype("float32")
    with torch.inference_mode():
        found = encoder(torch.from_numpy(noise)).numpy()
    figures = golden_weights.load("slimsam_global_tiny", shared / "golden").figures
    step = max(1, found.size // 4096)
    assert abs(found.reshape(-1)[::step] - figures["noise.embedding"]).max() <= MAX_DIFFERENCE


@pytest.mark.shared
def test_a_fast_sam_checkpoint(shared: Path) -> None:
    state = checkpoint.read_state_dict(shared / "golden" / "fastsam_tiny" / "checkpoint.pt")
    size = size_of(state)
    assert size is not None
    model = YoloV8Seg(size).eval()
    model.load_state_dict(dict(state), strict=True)
    golden = golden_weights.load("fastsam_tiny", shared / "golden")
    side = golden.manifest["image_size"]
    noise = golden_weights.generator(7).random((1, 3, side, side), dtype="float32")
    with torch.inference_mode():
        prototypes = model(torch.from_numpy(noise))[3].numpy()
    step = max(1, prototypes.size // 4096)
    found = prototypes.reshape(-1)[::step]
    # In units of their deviation: these prototypes reach 20. The weights went through half
    # precision, as in the authors' file.
    largest, rms = golden_weights.compare(found, golden.figures["noise.proto"])
    assert largest <= golden_weights.MAX_ERROR, (largest, rms)
    assert rms <= golden_weights.RMS_ERROR, (largest, rms)


def test_slim_sam_of_other_widths_is_built_like_its_file() -> None:
    spec = get("slim-sam-50")
    assert spec.build_like is not None
    with torch.device("meta"):
        state = spec.build().state_dict()
        narrow = dict(state)
        narrow["image_encoder.blocks.3.mlp.lin1.weight"] = torch.zeros(100, 384)
        built = spec.build_like(narrow)
    assert built.state_dict()["image_encoder.blocks.3.mlp.lin2.weight"].shape == (384, 100)
