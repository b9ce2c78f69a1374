"""What `loading` takes for a checkpoint, and what it says of everything else."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch")
import torch

from effsam_export import models
from effsam_export.errors import CheckpointError
from effsam_export.spec.stages import Checkpoint
from effsam_export.weights import checkpoint as loading
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

pytestmark = pytest.mark.backend

FETCH = "use the authors' file as it was downloaded; `effsam fetch MODEL` downloads it"
TENSOR_NAMES = 139
"""Tensors of the tiny model."""


class Code:
    """Pickled, it makes a file when it is loaded by anything that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.path,)


def checkpoint(path: Path) -> Checkpoint:
    return Checkpoint(path=path, sha256="0" * 64, official=False)


@pytest.fixture
def state(tiny_checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tiny model's weights."""
    return dict(loading.read_state_dict(tiny_checkpoint.path))


def refusal(path: Path) -> CheckpointError:
    """What reading a file is refused with."""
    with pytest.raises(CheckpointError) as caught:
        loading.read_state_dict(path)
    return caught.value


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


# ------------------------------------------------------------------ files that are no checkpoint


def a_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def half_a_checkpoint(path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("this is a text file\n"),
        lambda path: path.write_text("hello\n"),
        lambda path: path.write_bytes(bytes(range(256)) * 8),
        lambda path: path.write_bytes(pickle.dumps({"epoch": 3})),
        a_zip,
        half_a_checkpoint,
    ],
    ids=["empty", "text", "other text", "bytes", "plain pickle", "zip", "half"],
)
def test_not_a_weight_file(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "weights.pt"
    write(path)
    error = refusal(path)
    assert (
        error.message == f"`{path}` cannot be read as a checkpoint: it is not a PyTorch weight file"
    )
    assert error.hint == FETCH


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": x}], ids=["bare", "wrapped"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, wrap: Callable[[object], object]) -> None:
    proof = tmp_path / "proof"
    path = save(tmp_path / "weights.pt", wrap({"weight": Code(proof)}))
    error = refusal(path)
    assert not proof.exists()
    assert error.message == (
        f"`{path}` cannot be read as a checkpoint: it contains code, which is never run, and "
        "no module with tensors"
    )
    assert error.hint == FETCH


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_plain_pickle_is_not_run(tmp_path: Path, protocol: int) -> None:
    proof, path = tmp_path / "proof", tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps(Code(proof), protocol=protocol))
    refusal(path)
    assert not proof.exists()


def test_a_pickled_module_gives_its_tensors(tmp_path: Path) -> None:
    path = save(tmp_path / "module.pt", torch.nn.Linear(2, 2))
    assert sorted(loading.read_state_dict(path)) == ["bias", "weight"]


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(2),
        [torch.zeros(2)],
        {1: torch.zeros(2)},
        {"weight": torch.zeros(2), "epoch": 3},
        {"model": {"weight": torch.zeros(2), "epoch": 3}},
        {"model": [torch.zeros(2)]},
    ],
    ids=["tensor", "list", "numbered", "mixed", "mixed inside", "list inside"],
)
def test_no_state_dict_in_it(tmp_path: Path, content: object) -> None:
    path = save(tmp_path / "weights.pt", content)
    error = refusal(path)
    assert error.message == f"`{path}` holds no state dict (names and tensors)"
    assert error.hint == FETCH


# ------------------------------------------------------------------ checkpoints that are right


@pytest.mark.parametrize("key", loading.CONTAINERS)
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


def test_tensors_of_another_device_are_read_onto_the_cpu(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = torch.load

    def load(path: Path, *, map_location: str, weights_only: bool) -> object:
        asked.append((map_location, weights_only))
        return real(path, map_location=map_location, weights_only=weights_only)

    monkeypatch.setattr(torch, "load", load)
    loading.read_state_dict(tiny_checkpoint.path)
    assert asked == [("cpu", True)]


# ------------------------------------------------------------------ checkpoints of something else


def refused(tmp_path: Path, state: dict[str, Tensor], model: str = "tiny-sam") -> CheckpointError:
    """What loading a state dict as a model is refused with."""
    path = save(tmp_path / "weights.pt", state)
    spec = TINY_SAM if model == "tiny-sam" else models.get(model)
    with pytest.raises(CheckpointError) as caught:
        loading.load(spec, checkpoint(path))
    return caught.value


def test_every_kind_of_difference_is_in_one_message(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    del state["image_encoder.bias"], state["prompt_encoder.no_mask_embed.weight"]
    state["epoch"] = torch.zeros(1)
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 128)
    error = refused(tmp_path, state)
    assert error.message == "`weights.pt` is not a checkpoint of `tiny-sam`"
    assert error.hint == (
        f"missing tensors: 2 of {TENSOR_NAMES}, as `image_encoder.bias`; "
        "unknown tensors: 1, as `epoch`; "
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
            lambda state: state.update(more=torch.zeros(1)),
            "unknown tensors: 1, as `more`",
        ),
        (
            lambda state: state.update({"image_encoder.bias": torch.zeros(255)}),
            "tensors of another shape: 1, as `image_encoder.bias`: [255], want [256]",
        ),
        (
            lambda state: state.clear(),
            f"missing tensors: {TENSOR_NAMES} of {TENSOR_NAMES}, as `image_encoder.weight`",
        ),
    ],
    ids=["missing", "unknown", "another shape", "nothing in it"],
)
def test_one_difference(
    tmp_path: Path,
    state: dict[str, Tensor],
    change: Callable[[dict[str, Tensor]], object],
    hint: str,
) -> None:
    change(state)
    assert refused(tmp_path, state).hint == hint


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ({"image_encoder.layers.0.blocks.0.conv1.c.weight": (1,)}, "a MobileSAM (TinyViT)"),
        ({"image_encoder.features.0.0.c.weight": (1,)}, "a RepViT-SAM"),
        (
            {"image_encoder.features.0.0.c.weight": (1,), "image_encoder.fuse_stage2.weight": (1,)},
            "an EdgeSAM",
        ),
        ({"image_encoder.module.patch_embed.proj.weight": (1,)}, "a globally pruned SlimSAM"),
        (
            {"vision_encoder.patch_embed.projection.weight": (1,)},
            "a SAM in the transformers naming",
        ),
        ({"model.0.conv.weight": (1,)}, "a YOLO"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_another_model_is_named(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], what: str
) -> None:
    error = refused(tmp_path, {name: torch.zeros(shape) for name, shape in shapes.items()})
    assert (
        error.message == f"`weights.pt` is not a checkpoint of `tiny-sam`: "
        f"it looks like {what} checkpoint"
    )


def test_an_edge_sam_is_not_a_mobile_sam(tmp_path: Path) -> None:
    names = ("image_encoder.features.0.0.c.weight", "image_encoder.fuse_stage2.weight")
    error = refused(tmp_path, dict.fromkeys(names, torch.zeros(1)), "mobile-sam")
    assert error.message == (
        "`weights.pt` is not a checkpoint of `mobile-sam`: it looks like an EdgeSAM checkpoint"
    )
    assert error.hint == (
        "missing tensors: 439 of 439, as `image_encoder.patch_embed.seq.0.c.weight`; "
        "unknown tensors: 2, as `image_encoder.features.0.0.c.weight`"
    )


@pytest.mark.parametrize("name", ["sam-vit-b", "sam-vit-l", "slim-sam-50", "slim-sam-77"])
@pytest.mark.parametrize("kind", ["efficientvit-sam-l2", "efficientvit-sam-xl0", "fast-sam-s"])
def test_each_model_is_identified_by_its_tensors(name: str, kind: str) -> None:
    from effsam_export import models
    from effsam_export.weights.identify import describe

    words = {
        "sam-vit-b": "a SAM ViT-B (also Expedit-SAM's)",
        "sam-vit-l": "a SAM ViT-L (also Expedit-SAM's)",
        "slim-sam-50": "a SlimSAM-50",
        "slim-sam-77": "a SlimSAM-77",
        "efficientvit-sam-l2": "an EfficientViT-SAM L2",
        "efficientvit-sam-xl0": "an EfficientViT-SAM XL0",
        "fast-sam-s": "a FastSAM-s",
    }
    for model in (name, kind):
        with torch.device("meta"):
            state = models.get(model).build().state_dict()
        assert describe(state) == words[model]


# ------------------------------------------------------------------ containers


def tiny_state() -> dict[str, Tensor]:
    return {name: torch.randn(v.shape) for name, v in TINY_SAM.build().state_dict().items()}


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = tiny_state()
    save_file(state, tmp_path / "weights.safetensors")
    found = loading.read_state_dict(tmp_path / "weights.safetensors")
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_broken_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{" + b"x" * 100)
    with pytest.raises(CheckpointError) as caught:
        loading.read_state_dict(path)
    assert "broken safetensors file" in caught.value.message


def test_a_zip_of_one_weight_file(tmp_path: Path) -> None:
    import zipfile

    state = tiny_state()
    torch.save({"model": state}, tmp_path / "inner.pt")
    with zipfile.ZipFile(tmp_path / "weights.pt.zip", "w") as archive:
        archive.write(tmp_path / "inner.pt", "../somewhere/weights.pt")
        archive.writestr("__MACOSX/weights.pt", b"junk")
    found = loading.read_state_dict(tmp_path / "weights.pt.zip")
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert not (tmp_path.parent / "somewhere").exists()


def test_half_precision_becomes_full(tmp_path: Path) -> None:
    state = {"a": torch.ones(2).half(), "b": torch.ones(2).bfloat16(), "n": torch.tensor(3)}
    torch.save(state, tmp_path / "weights.pt")
    found = loading.read_state_dict(tmp_path / "weights.pt")
    assert [found[k].dtype for k in "abn"] == [torch.float32, torch.float32, torch.int64]


def test_a_refused_hash_is_refused_before_it_is_read(tmp_path: Path) -> None:
    from effsam_export import models
    from effsam_export.spec.stages import Checkpoint

    spec = models.get("efficientvit-sam-l0")
    digest = next(iter(spec.refused))
    absent = Checkpoint(path=tmp_path / "l0.pt", sha256=digest, official=False)
    with pytest.raises(CheckpointError) as caught:
        loading.load(spec, absent)
    assert "distilled but not fine-tuned" in caught.value.message
