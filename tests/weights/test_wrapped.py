"""The same weights in every container and under every prefix load to the same values."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch")
import torch
from safetensors.torch import save_file

from effsam_export.errors import CheckpointError
from effsam_export.weights import checkpoint as loading
from effsam_export.weights.own_file import checkpoint_from_file
from tests.tiny import TINY_SAM
from tests.weights import wrapped_checkpoints as wrapped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from effsam_export.spec.stages import Checkpoint
    from effsam_export.weights.facts import WeightFacts

pytestmark = pytest.mark.backend

State = dict[str, "Tensor"]


@pytest.fixture(scope="module")
def state(tiny_checkpoint: Checkpoint) -> State:
    """The tiny model's weights, with a batch norm's counter."""
    return dict(loading.read_state_dict(tiny_checkpoint.path))


@pytest.fixture(scope="module")
def digest(tiny_checkpoint: Checkpoint) -> str:
    return loading.load_with_facts(TINY_SAM, tiny_checkpoint).facts.weights_sha256


def load(path: Path, **options: Any) -> WeightFacts:  # noqa: ANN401 - key and base
    return loading.load_with_facts(TINY_SAM, checkpoint_from_file(path, None, **options)).facts


def refused(path: Path, **options: Any) -> CheckpointError:  # noqa: ANN401 - key and base
    with pytest.raises(CheckpointError) as caught:
        load(path, **options)
    return caught.value


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_there_are_at_least_sixty_variations() -> None:
    assert len(wrapped.WRAPPED) >= 60


@pytest.mark.parametrize("name", wrapped.WRAPPED)
def test_wrapped_weights_are_the_same(tmp_path: Path, state: State, digest: str, name: str) -> None:
    path = save(tmp_path / "weights.pt", wrapped.WRAPPED[name](state))
    assert load(path).weights_sha256 == digest


@pytest.mark.parametrize("name", ["prefix module.", "module in image_encoder", "a detection head"])
def test_safetensors_are_the_same(tmp_path: Path, state: State, digest: str, name: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({n: v.contiguous() for n, v in wrapped.WRAPPED[name](state).items()}, str(path))
    found = load(path)
    assert found.weights_sha256 == digest
    assert found.origin.container == "safetensors"


@pytest.mark.parametrize("name", ["training file", "pickled module under model"])
def test_the_format_before_1_6_is_the_same(
    tmp_path: Path, state: State, digest: str, name: str
) -> None:
    path = tmp_path / "weights.pt"
    torch.save(wrapped.WRAPPED[name](state), path, _use_new_zipfile_serialization=False)
    assert load(path).weights_sha256 == digest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_named(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    path = save(tmp_path / "weights.pt", {n: v.to(dtype) for n, v in state.items()})
    assert load(path).origin.dtype == str(dtype).removeprefix("torch.")


# ------------------------------------------------------------------ folders and shards


def test_a_folder_of_save_pretrained(tmp_path: Path, state: State, digest: str) -> None:
    save_file(state, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "training_args.bin").write_bytes(b"not weights")
    assert load(tmp_path).weights_sha256 == digest


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_with_an_index(tmp_path: Path, state: State, digest: str, suffix: str) -> None:
    names = sorted(state)
    shards = [names[::2], names[1::2]]
    index: dict[str, str] = {}
    for i, own in enumerate(shards):
        path = tmp_path / f"model-{i}.{suffix}"
        part = {n: state[n] for n in own}
        save_file(part, str(path)) if suffix == "safetensors" else torch.save(part, path)
        index |= dict.fromkeys(own, path.name)
    stem = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
    whole = tmp_path / f"{stem}.index.json"
    whole.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    for given in (tmp_path, whole):
        found = load(given)
        assert found.weights_sha256 == digest
        assert found.origin.container.endswith("in shards")
    before = checkpoint_from_file(tmp_path, None).sha256
    (tmp_path / f"model-0.{suffix}").rename(tmp_path / "model-2")
    error = refused(tmp_path)
    assert "names 1 of 2 shards that are not beside it" in error.message
    (tmp_path / "model-2").rename(tmp_path / f"model-0.{suffix}")
    with (tmp_path / f"model-1.{suffix}").open("ab") as file:
        file.write(b" ")
    assert checkpoint_from_file(tmp_path, None).sha256 != before


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": "../x"}}', '{"weight_map": {}}'],
)
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text or " ")
    assert refused(path).hint


def test_a_folder_with_several_files(tmp_path: Path, state: State) -> None:
    assert "is a directory, not a checkpoint" in refused(tmp_path).message
    save(tmp_path / "last.pt", state)
    assert load(tmp_path).origin.container == "PyTorch"
    save(tmp_path / "best.pt", state)
    error = refused(tmp_path)
    assert "is a directory with 2 weight files" in error.message
    assert error.hint == "name one of them, as `best.pt`"


def test_a_zip_of_one_file(tmp_path: Path, state: State, digest: str) -> None:
    inner = save(tmp_path / "weights.pth", wrapped.WRAPPED["training file"](state))
    with zipfile.ZipFile(tmp_path / "weights.zip", "w") as archive:
        archive.write(inner, "folder/weights.pth")
    found = load(tmp_path / "weights.zip")
    assert found.weights_sha256 == digest
    assert found.origin.container == "PyTorch in a zip archive"


# ------------------------------------------------------------------ several sets of weights


def other(state: State) -> State:
    return {n: v + 1 if v.is_floating_point() else v for n, v in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda raw, mean: {"model": raw, "model_ema": mean},
        lambda raw, mean: {"model": raw, "ema": mean, "updates": 3},
        lambda raw, mean: {"state_dict": raw, "state_dict_ema": mean},
        lambda raw, mean: {"model": raw, "ema": wrapped.as_module(mean)},
        lambda raw, mean: {"ema_model": mean, "model": raw},
        lambda raw, mean: {
            **wrapped.prefixed("model.")(raw),
            **wrapped.prefixed("model_ema.module.")(mean),
        },
        # mmengine and Lightning store the averages as the state dict.
        lambda raw, mean: {"state_dict": mean, "ema_state_dict": raw, "message_hub": {}},
        lambda raw, mean: {"state_dict": mean, "current_model_state": raw, "averaging_state": {}},
    ],
)
def test_averaged_weights_come_first(
    tmp_path: Path, state: State, digest: str, wrap: Callable[[State, State], object]
) -> None:
    found = load(save(tmp_path / "weights.pt", wrap(other(state), state)))
    assert found.weights_sha256 == digest
    assert found.origin.averaged
    assert "averaged weights" in found.note


def test_averages_that_lack_buffers_are_passed_over(
    tmp_path: Path, state: State, digest: str
) -> None:
    short = {n: v for n, v in other(state).items() if n != next(iter(state))}
    found = load(save(tmp_path / "weights.pt", {"model": state, "ema": short}))
    assert found.weights_sha256 == digest


def test_averages_by_their_decay_are_taken_on_request(
    tmp_path: Path, state: State, digest: str
) -> None:
    path = save(tmp_path / "w.pt", {"state_dict": state, "ema": {0.99: other(state)}})
    assert load(path).weights_sha256 == digest
    assert load(path, key="ema.0.99").weights_sha256 != digest


@pytest.mark.parametrize(
    ("wrap", "keys"),
    [
        (lambda a, b: {"teacher": a, "student": b}, "`teacher`, `student`"),
        (
            lambda a, b: {
                **wrapped.prefixed("teacher.")(a),
                **wrapped.prefixed("student.")(b),
            },
            "`teacher`, `student`",
        ),
        (
            lambda a, b: {"nets": {"teacher": a, "student": wrapped.prefixed("module.")(b)}},
            "`nets.teacher`, `nets.student.module`",
        ),
    ],
)
def test_two_sets_are_never_guessed_between(
    tmp_path: Path,
    state: State,
    digest: str,
    wrap: Callable[[State, State], object],
    keys: str,
) -> None:
    path = save(tmp_path / "weights.pt", wrap(other(state), state))
    error = refused(path)
    assert error.message == f"`{path}` holds 2 sets of weights: {keys}"
    first, second = (k.strip("`") for k in keys.split(", "))
    assert error.hint == f"choose one: --checkpoint-key {first}"
    assert load(path, key=first).weights_sha256 != digest
    assert load(path, key=second).weights_sha256 == digest
    error = refused(path, key="pupil")
    assert error.message == f"`{path}` has no weights under the key `pupil`"
    assert error.hint == f"it has {keys}"


# ------------------------------------------------------------------ what is said


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("training file", '139 tensors under "model"'),
        ("prefix module.", '139 tensors, prefix "module." taken off'),
        ("Lightning", '139 tensors under "state_dict", prefix "model." taken off'),
        ("a buffer of the loss", "139 tensors, 1 entry left out (criterion.*)"),
        ("a detection head", "139 tensors, 2 entries left out (rpn_head.*, fpn.*)"),
        ("another order", ""),
        ("SAM's constants", ""),
        ("parameters", ""),
    ],
)
def test_the_note_says_what_was_done(tmp_path: Path, state: State, name: str, note: str) -> None:
    assert load(save(tmp_path / "w.pt", wrapped.WRAPPED[name](state))).note == note


def test_the_name_of_a_medsam_file_is_a_warning(tmp_path: Path, state: State) -> None:
    (note,) = load(save(tmp_path / "medsam_vit_b.pth", state)).notes
    assert note.startswith("MedSAM prepares an image in another way than SAM")


# ------------------------------------------------------------------ parts


def part(state: State, name: str, prefix: str = "") -> State:
    return {
        prefix + n.removeprefix(f"{name}."): v for n, v in state.items() if n.startswith(f"{name}.")
    }


@pytest.mark.parametrize("name", ["image_encoder", "prompt_encoder", "mask_decoder"])
@pytest.mark.parametrize("prefix", ["", "module.", "NAME.", "model.NAME."])
def test_a_part_over_a_base(
    tmp_path: Path, state: State, digest: str, name: str, prefix: str
) -> None:
    prefix = prefix.replace("NAME", name)
    path = save(tmp_path / "part.pt", {"model": part(state, name, prefix)})
    base = {n: v if n.startswith(name) else state[n] for n, v in other(state).items()}
    found = load(path, base=save(tmp_path / "base.pt", {"state_dict": base}))
    assert found.weights_sha256 == digest
    assert found.note.endswith("the other parts from --base")
    error = refused(path)
    words = {"image_encoder": "the prompt encoder and the mask decoder"}
    assert error.message.startswith("`part.pt` lacks ")
    assert words.get(name, "the image encoder") in error.message
    assert error.hint == "give a whole checkpoint for the rest: --base FILE"


def test_a_base_that_adds_nothing_or_is_no_model(tmp_path: Path, state: State) -> None:
    whole = save(tmp_path / "whole.pt", state)
    decoder = save(tmp_path / "decoder.pt", part(state, "mask_decoder"))
    foreign = save(tmp_path / "foreign.pt", {"a": torch.ones(1)})
    assert "has all parts of `tiny-sam`" in refused(whole, base=whole).message
    assert "`decoder.pt` lacks" in refused(decoder, base=decoder).message
    assert "`foreign.pt` is not a checkpoint" in refused(decoder, base=foreign).message
    assert "`foreign.pt` has no tensor of" in refused(foreign, base=whole).message


def test_an_unknown_tensor_inside_a_part_is_refused(tmp_path: Path, state: State) -> None:
    path = save(tmp_path / "w.pt", {**state, "mask_decoder.extra.weight": torch.ones(2)})
    assert refused(path).hint == "unknown tensors: 1, as `mask_decoder.extra.weight`"
