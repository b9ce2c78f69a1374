"""EdgeSAM's own: the stability of masks, bicubic interpolation in runtimes, the label -2.

Embedding and decoder are compared with the authors' figures in `test_sam_family.py`.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn

import effsam_export
from effsam_export import models
from effsam_export.graph import trace
from effsam_export.imaging.images import frame_of
from effsam_export.inference import runner
from effsam_export.models.edge_sam import STABILITY
from effsam_export.models.sam.components import DECODER_OUTPUTS, SAM_PREPROCESS, as_sam
from effsam_export.models.sam.export import WithStability
from effsam_export.spec.prompts import Point, Prompt, Sample
from effsam_export.weights.checkpoint import settle_vector_maths
from tests import golden_weights
from tests.golden_weights import MAX_ERROR, RMS_ERROR, Floats, compare, sample

if TYPE_CHECKING:
    from effsam_export.backends import Session
    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.tensors import Feeds

pytestmark = pytest.mark.backend

GOLDEN = golden_weights.load("edge_sam")
SPEC = models.get("edge-sam")
ENCODER, DECODER = SPEC.component("encoder"), SPEC.component("decoder")
PROMPTS = {
    "point": Prompt(points=(Point(x=284, y=213),)),
    "three": Prompt(points=(Point(x=284, y=213), Point(x=640, y=355), Point(x=5, y=9, label=0))),
    "box": Prompt(box=(241, 341, 398, 498)),
    "both": Prompt(points=(Point(x=327, y=426, label=0),), box=(241, 341, 398, 498)),
    "mask": Prompt(
        points=(Point(x=640, y=355),),
        mask_input=4 * golden_weights.generator(9).standard_normal((256, 256)).astype(np.float32),
    ),
}
every_prompt = pytest.mark.parametrize("name", PROMPTS)


@pytest.fixture(scope="module")
def sam() -> Sam:
    """EdgeSAM with the deterministic weights, loaded strictly."""
    settle_vector_maths()
    return as_sam(golden_weights.load_weights(SPEC.build(), GOLDEN))


@pytest.fixture(scope="module")
def picture() -> Sample:
    """Noise with a trend, so that means of channels are not near zero."""
    rng = golden_weights.generator(5)
    pixels = np.linspace(40, 160, 1024)[:, None] + 60 * rng.random((683, 1024, 3))
    return Sample(image=pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def asked() -> dict[str, Sample]:
    image = np.zeros((683, 1024, 3), dtype=np.uint8)
    embedding = golden_weights.synthetic_embedding()
    return {k: Sample(image=image, embeddings=embedding, prompt=p) for k, p in PROMPTS.items()}


@pytest.fixture(scope="module")
def embedded(sam: Sam, picture: Sample) -> Floats:
    """The picture's embedding by the authors' path."""
    out: Floats = ENCODER.reference(sam, picture)["image_embeddings"]
    return out


@pytest.fixture(scope="module")
def graphs(sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    folder = tmp_path_factory.mktemp("edge")
    specs: tuple[ComponentSpec, ...] = (ENCODER, DECODER)
    return {c.name: trace.to_onnx(trace.trace(sam, c), c, 20, folder) for c in specs}


def session(runtime: str, graph: Graph) -> Session:
    module: Any = import_module(f"effsam_export.backends.{runtime}.backend")
    opened: Session
    if runtime == "openvino":
        opened = module.OpenvinoSession(graph.path, "CPU", "f32")
    else:
        opened = module.OnnxSession(graph.path, "CPUExecutionProvider")
    return opened


def assert_near(found: Floats, reference: Floats) -> None:
    largest, rms = compare(found, reference)
    assert largest <= MAX_ERROR, (largest, rms)
    assert rms <= RMS_ERROR, (largest, rms)


runtimes = pytest.mark.parametrize("runtime", ["onnx", "openvino"])


# ------------------------------------------------------------------ the encoder in runtimes


def test_encoder_graph_resizes_once_and_bicubically(graphs: dict[str, Graph]) -> None:
    onnx = pytest.importorskip("onnx")
    nodes = onnx.load(graphs["encoder"].path).graph.node
    (resize,) = [n for n in nodes if n.op_type == "Resize"]
    said = {a.name: onnx.helper.get_attribute_value(a) for a in resize.attribute}
    assert said["mode"] == b"cubic"
    assert said["coordinate_transformation_mode"] == b"half_pixel"
    assert said["cubic_coeff_a"] == -0.75
    assert said["exclude_outside"] == 0


def test_encoder_graph_is_folded(graphs: dict[str, Graph]) -> None:
    """Convolutions: 2 of the stem, 3 a block, 4 where a stage starts, 20 of gates, 4 at the end."""
    onnx = pytest.importorskip("onnx")
    found = Counter(n.op_type for n in onnx.load(graphs["encoder"].path).graph.node)
    assert found["BatchNormalization"] == 0
    assert found["Conv"] == 2 + 3 * 23 + 4 * 3 + 20 + 4


@runtimes
def test_encoder_in_a_runtime(
    graphs: dict[str, Graph], picture: Sample, embedded: Floats, runtime: str
) -> None:
    feeds = ENCODER.feeds(SAM_PREPROCESS, picture)
    found = session(runtime, graphs["encoder"]).run(feeds)["image_embeddings"]
    assert_near(found, embedded)


def test_bilinear_interpolation_is_another_embedding() -> None:
    """What the authors' own export scripts give is four orders of magnitude past the tolerance."""
    bicubic, bilinear = (GOLDEN.figures[f"enc/{k}/sample"] for k in ("noise", "noise_bilinear"))
    assert compare(bilinear, bicubic)[1] > 1e4 * RMS_ERROR


# ------------------------------------------------------------------ the decoder


def test_decoder_has_one_output_more_than_sam() -> None:
    assert DECODER.outputs == (*DECODER_OUTPUTS, STABILITY)
    assert SPEC.masks.score == STABILITY.name
    assert "mask_input" in [t.name for t in DECODER.inputs]


@runtimes
@every_prompt
def test_decoder_in_a_runtime(
    sam: Sam, graphs: dict[str, Graph], asked: dict[str, Sample], name: str, runtime: str
) -> None:
    wanted = DECODER.reference(sam, asked[name])
    found = session(runtime, graphs["decoder"]).run(DECODER.feeds(SAM_PREPROCESS, asked[name]))
    assert set(found) == set(wanted)
    assert_near(found["low_res_masks"], wanted["low_res_masks"])
    assert_near(found["iou_predictions"], wanted["iou_predictions"])
    # Counts of pixels: one of 65536 may cross a threshold.
    np.testing.assert_allclose(found[STABILITY.name], wanted[STABILITY.name], rtol=0, atol=5e-5)


def test_a_mask_prompt_is_honoured(sam: Sam, asked: dict[str, Sample]) -> None:
    with_mask = asked["mask"]
    assert with_mask.prompt is not None
    without = Sample(
        image=with_mask.image,
        embeddings=with_mask.embeddings,
        prompt=Prompt(points=with_mask.prompt.points),
    )
    found = [DECODER.reference(sam, s)["low_res_masks"] for s in (with_mask, without)]
    assert compare(found[0], found[1])[1] > 0.1


@pytest.mark.parametrize("name", sorted(set(GOLDEN.manifest["prompts"]) - {"e"}))
def test_stability_of_the_authors(sam: Sam, name: str) -> None:
    """Of every prompt but `e`, which feeds a mask back and is compared elsewhere."""
    given = Sample(
        image=np.zeros((683, 1024, 3), dtype=np.uint8),
        embeddings=golden_weights.synthetic_embedding(),
        prompt=GOLDEN.prompt(name),
    )
    found = DECODER.reference(sam, given)
    wanted = GOLDEN.figures[f"dec/synth/{name}/m4/stability"]
    np.testing.assert_allclose(found[STABILITY.name][0], wanted, rtol=0, atol=5e-5)
    assert_near(
        sample(found["low_res_masks"][0]), GOLDEN.figures[f"dec/synth/{name}/m4/low_res/sample"]
    )


def test_label_minus_two_is_a_token_of_zeros(sam: Sam) -> None:
    points = torch.tensor([[[284.0, 213.0], [640.0, 355.0]]]), torch.tensor([[1, -2]])
    with torch.inference_mode():
        sparse, _ = sam.prompt_encoder(points, None, None)
    assert sparse.shape == (1, 3, 256)
    assert not sparse[0, 1].any()
    assert torch.equal(sparse[0, 2], sam.prompt_encoder.not_a_point_embed.weight[0])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["a", "b", "c", "d", "f", "g"])
def test_sparse_embedding(sam: Sam, shared: Path, name: str) -> None:
    full = golden_weights.load("edge_sam", shared / "golden")
    prompt = full.prompt(name)
    points = boxes = None
    if prompt.points:
        xy = torch.tensor([[(p.x, p.y) for p in prompt.points]], dtype=torch.float32)
        points = xy, torch.tensor([[p.label for p in prompt.points]])
    if prompt.box is not None:
        boxes = torch.tensor([prompt.box], dtype=torch.float32)
    with torch.inference_mode():
        sparse, _ = sam.prompt_encoder(points, boxes, None)
    assert_near(sparse[0].numpy(), full.figures[f"prompt/{name}/sparse"])


# ------------------------------------------------------------------ stability in the graph


class Fixed(nn.Module):
    """In the place of a decoder: the same masks for every question."""

    def __init__(self, masks: Floats, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.masks = torch.from_numpy(masks).to(dtype)

    def forward(self, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.masks, torch.zeros(1, self.masks.shape[1])


def scores_of(masks: Floats, dtype: torch.dtype = torch.float32) -> Floats:
    stable = WithStability(Fixed(masks, dtype), 1.0)  # type: ignore[arg-type]
    scores: torch.Tensor = stable(*[torch.zeros(1)] * 5)[2]
    return np.asarray(scores.float().numpy(), dtype=np.float32)


def masks_like(offsets: list[float]) -> Floats:
    noise = golden_weights.generator(4).standard_normal((1, len(offsets), 256, 256))
    shifted = 3 * noise + np.asarray(offsets)[None, :, None, None]
    return np.asarray(shifted, dtype=np.float32)


def counted(masks: Floats) -> Floats:
    """Intersection over union of the masks at logits > 1 and > -1, mask by mask."""
    pairs = [(int((m > 1).sum()), int((m > -1).sum())) for m in masks[0]]
    return np.asarray([[inside / around for inside, around in pairs]], dtype=np.float32)


def test_stability_counts_pixels() -> None:
    masks = masks_like([0.0, 9.0, -7.0, 100.0])
    np.testing.assert_allclose(scores_of(masks), counted(masks), rtol=1e-6)
    assert scores_of(masks)[0, 3] == 1


def test_logits_on_a_threshold_are_outside() -> None:
    masks = np.zeros((1, 4, 256, 256), dtype=np.float32)
    masks[0, :, 0, :4] = [1.0, 1.5, -1.0, 2.0]
    masks[0, :, 1:] = -5
    masks[0, :, 0, 4:] = -5
    np.testing.assert_allclose(scores_of(masks), np.full((1, 4), 2 / 3), rtol=1e-6)


def test_stability_in_half_precision() -> None:
    """A quotient of sums would be inf / inf: 65504 is the largest number."""
    masks = masks_like([0.0, 9.0, -7.0, 100.0])
    rounded = masks.astype(np.float16).astype(np.float32)
    found = scores_of(masks, torch.float16)
    np.testing.assert_allclose(found, counted(rounded), rtol=0, atol=2e-3)


# ------------------------------------------------------------------ what ranks masks


def test_the_most_stable_mask_wins() -> None:
    """Not the one of the highest predicted IoU, and never the single mask."""
    outputs: Feeds = {
        "low_res_masks": np.zeros((1, 4, 256, 256), dtype=np.float32),
        "iou_predictions": np.asarray([[0.9, 0.8, 0.7, 0.6]], dtype=np.float32),
        "stability_scores": np.asarray([[0.99, 0.1, 0.3, 0.2]], dtype=np.float32),
    }
    frame = frame_of((60, 80), SAM_PREPROCESS)
    found = runner.select(outputs, SPEC.masks.multimask, SPEC.masks, frame)
    assert found.indices == (2, 3, 1)
    np.testing.assert_allclose(found.scores, [0.3, 0.2, 0.1])
    assert runner.select(outputs, SPEC.masks.single, SPEC.masks, frame).indices == (0,)


# ------------------------------------------------------------------ files and licence


def test_the_two_differ_only_in_their_weights() -> None:
    other = models.get("edge-sam-3x")
    assert other.weights is not None
    assert SPEC.weights is not None
    assert other.weights.sha256 != SPEC.weights.sha256
    assert other.weights.file_name == "edge_sam_3x.pth"
    assert other.weights.size == SPEC.weights.size
    assert other.components == SPEC.components
    assert other.licence == SPEC.licence
    assert other.masks == SPEC.masks


def test_licence_is_restricted_and_its_notice_ships() -> None:
    licence = SPEC.licence
    assert licence.spdx == "LicenseRef-S-Lab-1.0"
    assert "non-commercial" in licence.restricted
    folder = Path(effsam_export.__file__).parent / "licenses"
    notice = (folder / licence.text_file).read_text("utf-8")
    assert "S-Lab License 1.0" in notice
    assert "NON-COMMERCIAL" in notice
    assert licence.source in notice
