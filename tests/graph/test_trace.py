"""Traced graphs: the interface of the spec to the letter, any number of prompts and points."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
import torch

from effsam_export.backends.onnx.backend import open_source
from effsam_export.graph import passes, trace
from effsam_export.models.sam.components import (
    SAM_DECODER,
    SAM_ENCODER,
    SAM_PREPROCESS,
    stack_decoder_feeds,
)
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.spec.tensors import TensorSpec
from effsam_export.weights import checkpoint
from tests import golden_weights
from tests.golden_weights import MAX_ERROR, RMS_ERROR, compare
from tests.graph.passes.tools import parse
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from effsam_export.backends import Session
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.stages import Checkpoint, Graph
    from effsam_export.spec.targets import TargetProfile

pytestmark = pytest.mark.backend

SMALL = replace(
    SAM_ENCODER,
    inputs=(TensorSpec(name="image", shape=("prompts", 3)),),
    outputs=(TensorSpec(name="image_embeddings", shape=("prompts", 3)),),
)
WANTED_INPUTS = "[('image', ('prompts', 3), 'float32')]"
WANTED_OUTPUTS = "[('image_embeddings', ('prompts', 3), 'float32')]"


def small(text: str) -> onnx.ModelProto:
    """A graph with inputs and outputs as given, and a body that does not matter."""
    names = [part.split()[-1] for part in text.replace("(", "").replace(")", "").split("=>")]
    return parse(f"small {text}\n{{\n  {names[1]} = Identity({names[0]})\n}}")


# ------------------------------------------------------------------ the check of the interface


def test_right_interface() -> None:
    model = small("(float[prompts, 3] image) => (float[prompts, 3] image_embeddings)")
    assert trace.signature_faults(model, SMALL) == []


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (
            "(float[prompts, 3] picture) => (float[prompts, 3] image_embeddings)",
            [f"inputs are [('picture', ('prompts', 3), 'float32')], want {WANTED_INPUTS}"],
        ),
        (
            "(float[prompts, 3] image) => (float[prompts, 3] out)",
            [f"outputs are [('out', ('prompts', 3), 'float32')], want {WANTED_OUTPUTS}"],
        ),
        (
            "(float[2, 3] image) => (float[2, 3] image_embeddings)",
            [
                f"inputs are [('image', (2, 3), 'float32')], want {WANTED_INPUTS}",
                f"outputs are [('image_embeddings', (2, 3), 'float32')], want {WANTED_OUTPUTS}",
            ],
        ),
        (
            "(float[s20, 3] image) => (float[prompts, 3] image_embeddings)",
            [f"inputs are [('image', ('s20', 3), 'float32')], want {WANTED_INPUTS}"],
        ),
        (
            "(double[prompts, 3] image) => (double[prompts, 3] image_embeddings)",
            [
                f"inputs are [('image', ('prompts', 3), 'float64')], want {WANTED_INPUTS}",
                f"outputs are [('image_embeddings', ('prompts', 3), 'float64')], "
                f"want {WANTED_OUTPUTS}",
            ],
        ),
    ],
    ids=["input name", "output name", "size", "dimension name", "dtype"],
)
def test_wrong_interface(text: str, faults: list[str]) -> None:
    assert trace.signature_faults(small(text), SMALL) == faults


def test_missing_output() -> None:
    more = replace(SMALL, outputs=(*SMALL.outputs, TensorSpec(name="iou", shape=(1,))))
    model = small("(float[prompts, 3] image) => (float[prompts, 3] image_embeddings)")
    (fault,) = trace.signature_faults(model, more)
    assert fault.startswith(f"outputs are {WANTED_OUTPUTS}, want [")


# ------------------------------------------------------------------ the tiny model, traced


@pytest.fixture(scope="module")
def module(tiny_checkpoint: Checkpoint) -> nn.Module:
    return checkpoint.load(TINY_SAM, tiny_checkpoint)


def traced(
    module: nn.Module, component: ComponentSpec, target: TargetProfile, folder: Path
) -> Graph:
    program = trace.trace(module, component)
    return passes.rewrite(trace.to_onnx(program, component, 18, folder), target, folder)


@pytest.fixture(scope="module")
def decoder(
    module: nn.Module, onnx_target: TargetProfile, tmp_path_factory: pytest.TempPathFactory
) -> Graph:
    return traced(module, SAM_DECODER, onnx_target, tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def session(decoder: Graph) -> Session:
    return open_source(decoder)


def test_dimensions_have_the_names_of_the_spec(decoder: Graph) -> None:
    model = onnx.load(decoder.path)
    assert trace.signature_faults(model, SAM_DECODER) == []
    dims = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    }
    assert dims == {
        "image_embeddings": [1, 256, 64, 64],
        "point_coords": ["prompts", "points", 2],
        "point_labels": ["prompts", "points"],
        "mask_input": ["prompts", 1, 256, 256],
        "has_mask_input": ["prompts"],
        "low_res_masks": ["prompts", 4, 256, 256],
        "iou_predictions": ["prompts", 4],
    }


def test_opset_is_the_requested_one(decoder: Graph) -> None:
    assert {o.domain: o.version for o in onnx.load(decoder.path).opset_import}[""] == 18


def test_no_operators_of_another_domain(decoder: Graph) -> None:
    assert {n.domain for n in onnx.load(decoder.path).graph.node} <= {"", "ai.onnx"}


def question(points: int, seed: int, *, box: bool = False, mask: bool = False) -> Sample:
    """A prompt in the model frame: so many points, and a box and a mask if asked."""
    rng = golden_weights.generator(seed)
    xy = rng.uniform(0, 1024, size=(points, 2))
    logits = rng.standard_normal((256, 256)).astype(np.float32)
    prompt = Prompt(
        points=tuple(Point(x=x, y=y, label=i % 2) for i, (x, y) in enumerate(xy.tolist())),
        box=(100.5, 120, 640, 700.25) if box else None,
        mask_input=logits if mask else None,
    )
    return Sample(
        image=np.zeros((1024, 1024, 3), dtype=np.uint8),
        embeddings=golden_weights.synthetic_embedding(),
        prompt=prompt,
    )


def assert_answers(module: nn.Module, session: Session, samples: list[Sample]) -> None:
    """All samples in one call give what the reference gives for each."""
    found = session.run(
        stack_decoder_feeds([SAM_DECODER.feeds(SAM_PREPROCESS, s) for s in samples])
    )
    for i, sample in enumerate(samples):
        for name, wanted in SAM_DECODER.reference(module, sample).items():
            largest, rms = compare(found[name][i : i + 1], wanted)
            assert largest <= MAX_ERROR, (name, i, largest, rms)
            assert rms <= RMS_ERROR, (name, i, largest, rms)


@pytest.mark.parametrize(("points", "prompts"), [(1, 1), (2, 3), (3, 2), (4, 1), (5, 2), (6, 3)])
def test_any_number_of_points_and_prompts(
    module: nn.Module, session: Session, points: int, prompts: int
) -> None:
    assert_answers(module, session, [question(points, seed) for seed in range(prompts)])


@pytest.mark.parametrize("points", [0, 1, 4])
def test_boxes(module: nn.Module, session: Session, points: int) -> None:
    assert_answers(module, session, [question(points, 0, box=True)])


def test_masks_for_some_prompts_of_a_batch(module: nn.Module, session: Session) -> None:
    samples = [question(2, 0), question(2, 1, mask=True), question(1, 2, box=True, mask=True)]
    assert_answers(module, session, samples)


def test_a_single_token(module: nn.Module, session: Session) -> None:
    """One point without the padding point, which the authors' path cannot ask."""
    feeds = dict(SAM_DECODER.feeds(SAM_PREPROCESS, question(1, 0)))
    feeds["point_coords"] = feeds["point_coords"][:, :1]
    feeds["point_labels"] = feeds["point_labels"][:, :1]
    found = session.run(feeds)
    with torch.inference_mode():
        outputs = SAM_DECODER.wrap(module)(*(torch.from_numpy(v) for v in feeds.values()))
    for spec, wanted in zip(SAM_DECODER.outputs, outputs, strict=True):
        assert compare(found[spec.name], wanted.numpy())[0] <= MAX_ERROR


@pytest.mark.slow
def test_decoder_traced_again_gives_equal_bytes(
    own_traces: None, module: nn.Module, decoder: Graph, onnx_target: TargetProfile, tmp_path: Path
) -> None:
    again = traced(module, SAM_DECODER, onnx_target, tmp_path)
    assert again.path.read_bytes() == decoder.path.read_bytes()


def test_encoder_traced_again_gives_equal_bytes(
    own_traces: None, module: nn.Module, onnx_target: TargetProfile, tmp_path: Path
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    one, two = (traced(module, SAM_ENCODER, onnx_target, f).path.read_bytes() for f in folders)
    assert one == two
