"""FastSAM: its network and its host code against the authors' figures, and the export form."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from effsam_export import models
from effsam_export.graph import trace
from effsam_export.imaging import instances
from effsam_export.imaging.decode import load_image
from effsam_export.imaging.letterbox import fit, letterbox
from effsam_export.models.fast_sam import SEGMENTER, as_yolo
from effsam_export.models.yolov8_seg import EXTRA_LARGE, SMALL, YoloV8Seg, size_of
from effsam_export.spec.prompts import Point, Prompt, Sample
from tests import golden_weights
from tests.golden_weights import MAX_ERROR, RMS_ERROR, compare
from tests.sampled import samples

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.imaging.instances import Instances
    from effsam_export.spec.tensors import Feeds
    from tests.golden_weights import Golden

pytestmark = pytest.mark.backend

GOLDEN = golden_weights.load("fastsam_s")
BOX_PX = 3e-4
"""The authors' own boxes move by that much when their input does by 1e-6."""

FUSED_PX = 0.03
"""And by that much when convolutions and norms are fused, as in their predictor."""


@pytest.fixture(scope="module")
def yolo() -> YoloV8Seg:
    return as_yolo(golden_weights.load_weights(models.get("fast-sam-s").build(), GOLDEN))


def noise(side: int = 1024) -> torch.Tensor:
    return torch.from_numpy(
        golden_weights.generator(7).random((1, 3, side, side), dtype=np.float32)
    )


def near(golden: Golden, key: str, tensor: torch.Tensor) -> None:
    """Both samplings, in units of the figures' deviation."""
    for suffix, values in samples(tensor.numpy()).items():
        largest, rms = compare(values, golden.figures[key + suffix])
        assert largest <= MAX_ERROR, (key, largest)
        assert rms <= RMS_ERROR, (key, rms)


def as_pred(found: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Detections as the authors' head gives them: centre and size, score, coefficients; 1x37xN."""
    boxes, scores, coefficients, _ = found
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    return torch.cat([centre, size, scores[..., None], coefficients], dim=-1).transpose(1, 2)


def test_names_shapes_order_and_number(yolo: YoloV8Seg) -> None:
    found = [[n, list(v.shape), str(v.dtype)[6:]] for n, v in yolo.state_dict().items()]
    assert found == [e[:3] for e in GOLDEN.manifest["entries"]]
    assert sum(p.numel() for p in yolo.parameters()) == GOLDEN.manifest["n_params"]


def test_detections_on_noise(yolo: YoloV8Seg) -> None:
    with torch.inference_mode():
        found = yolo(noise())
    near(GOLDEN, "noise.proto", found[3])
    for suffix, values in samples(as_pred(found).numpy()).items():
        assert np.abs(values - GOLDEN.figures[f"noise.pred{suffix}"]).max() <= BOX_PX


def test_export_form_is_the_same_within_fusion(yolo: YoloV8Seg) -> None:
    form = SEGMENTER.wrap(yolo).eval()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in form.modules())
    with torch.inference_mode():
        wanted, found = yolo(noise()), form(noise() * 255)
    assert float((wanted[0] - found[0]).abs().max()) <= FUSED_PX
    for a, b in zip(wanted[1:], found[1:], strict=True):
        assert float((a - b).abs().max()) <= 5e-5


def test_traced_graph_in_onnx_runtime(yolo: YoloV8Seg, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    program = trace.trace(yolo, SEGMENTER)
    graph = trace.to_onnx(program, SEGMENTER, 18, tmp_path)
    session = ort.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(2).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    sample = Sample(image=image)
    wanted = SEGMENTER.reference(yolo, sample)
    feeds = SEGMENTER.feeds(models.get("fast-sam-s").preprocess, sample)
    found = dict(zip(wanted, session.run(list(wanted), dict(feeds)), strict=True))
    assert np.abs(found["boxes"] - wanted["boxes"]).max() <= FUSED_PX
    for name in ("scores", "mask_coefficients", "prototypes"):
        assert np.abs(found[name] - wanted[name]).max() <= 1e-4


@pytest.mark.parametrize(("name", "size"), [("fast-sam-s", SMALL), ("fast-sam-x", EXTRA_LARGE)])
def test_the_size_is_read_off_the_tensors(name: str, size: object) -> None:
    with torch.device("meta"):
        state = models.get(name).build().state_dict()
    assert size_of(state) == size
    assert size_of({"other": torch.zeros(1)}) is None


# ------------------------------------------------------------------ the authors' host code


@pytest.fixture(scope="module")
def on_photo(yolo: YoloV8Seg, shared: Path) -> tuple[Golden, Instances]:
    """The photograph as the authors' predictor takes it: a rectangle, not the square."""
    golden = golden_weights.load("fastsam_s", shared / "golden")
    image = load_image(shared / "images" / "truck.jpg")
    boxed, box = letterbox(image, 1024, square=False)
    x = torch.from_numpy(boxed).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        found = yolo(x)
    near(golden, "photo.proto", found[3])
    outputs: Feeds = {
        spec.name: value.numpy() for spec, value in zip(SEGMENTER.outputs, found, strict=True)
    }
    return golden, instances.detect(outputs, box)


@pytest.mark.shared
def test_instances_of_the_photo(on_photo: tuple[Golden, Instances]) -> None:
    golden, found = on_photo
    wanted = golden.figures["photo.boxes"]
    assert len(found) == len(wanted) == 45
    assert np.abs(found.boxes - wanted[:, :4]).max() <= FUSED_PX
    areas = np.asarray([int(m.sum()) for m in found.masks()])
    # Fusion moves a box by hundredths of a pixel: at most one column or row of pixels.
    assert np.abs(areas - golden.figures["photo.mask_area"]).max() <= 1800


@pytest.mark.shared
def test_prompts_on_the_photo(on_photo: tuple[Golden, Instances]) -> None:
    golden, found = on_photo
    prompts = golden.manifest["prompts"]["photo"]
    shape = found.letterbox.original
    for name in ("point", "points"):
        entry = prompts[name]
        points = [(*xy, label) for xy, label in zip(entry["points"], entry["labels"], strict=True)]
        assert_mask(golden, name, instances.by_points(found, points), shape)
    index = instances.by_box(found, tuple(prompts["box"]["box"]))
    assert index is not None
    assert_mask(golden, "box", found.mask(index), shape)


@pytest.mark.shared
def test_several_boxes_keep_their_order(on_photo: tuple[Golden, Instances]) -> None:
    """The authors put them through a set: their areas come in another order."""
    golden, found = on_photo
    boxes = golden.manifest["prompts"]["photo"]["boxes"]["boxes"]
    before = [list(b) for b in boxes]
    areas = [int(found.mask(instances.by_box(found, tuple(b)) or 0).sum()) for b in boxes]
    assert boxes == before
    np.testing.assert_allclose(sorted(areas), sorted(golden.figures["photo.boxes.area"]), atol=5)
    assert areas[0] < areas[1]


def assert_mask(golden: Golden, name: str, mask: np.ndarray, shape: tuple[int, int]) -> None:
    bits = np.unpackbits(golden.figures[f"photo.{name}.bits"], count=int(np.prod(shape)))
    assert int((mask.reshape(-1) != bits.astype(bool)).sum()) <= 5


# ------------------------------------------------------------------ rules, without the network


def made(*rows: tuple[tuple[float, float, float, float], float]) -> Feeds:
    """Outputs of a segmenter whose masks fill their boxes."""
    n = max(len(rows), 1)
    boxes = np.zeros((1, n, 4), np.float32)
    scores = np.zeros((1, n), np.float32)
    for i, (box, score) in enumerate(rows):
        boxes[0, i], scores[0, i] = box, score
    return {
        "boxes": boxes,
        "scores": scores,
        "mask_coefficients": np.ones((1, n, 32), np.float32),
        "prototypes": np.ones((1, 32, 256, 256), np.float32),
    }


SQUARE = fit((1024, 1024), 1024, square=True)


def test_unlikely_and_doubled_instances_go() -> None:
    found = instances.detect(
        made(
            ((100, 100, 200, 200), 0.5),
            ((100, 100, 200, 201), 0.9),
            ((300, 300, 400, 400), 0.4),
            ((500, 500, 600, 600), 0.41),
        ),
        SQUARE,
    )
    assert found.scores.tolist() == pytest.approx([0.9, 0.41])


def test_sides_near_the_border_are_on_it() -> None:
    found = instances.detect(made(((19, 500, 1005, 700), 0.9)), SQUARE)
    assert found.boxes.tolist() == [[0, 500, 1024, 700]]


def test_two_boxes_over_the_whole_picture() -> None:
    """The authors' code fails on these, and their predictor then returns None."""
    rows = (((30, 0, 1024, 1024), 0.9), ((0, 30, 1024, 1024), 0.8), ((0, 45, 1024, 1000), 0.7))
    found = instances.detect(made(*rows), SQUARE)
    assert len(found) >= 1
    assert found.boxes[0].tolist() == [0, 0, 1024, 1024]


def test_points_paint_and_erase_by_falling_area() -> None:
    found = instances.detect(made(((100, 100, 500, 500), 0.9), ((200, 200, 300, 300), 0.8)), SQUARE)
    large, small = found.mask(0), found.mask(1)
    assert instances.by_points(found, [(110, 110, 1)]).sum() == large.sum()
    erased = instances.by_points(found, [(110, 110, 1), (250, 250, 0)])
    # The second point lies in both: the large one is painted and erased, then the small one.
    assert erased.sum() == 0
    assert instances.by_points(found, [(250, 250, 1)]).sum() == large.sum() >= small.sum()
    assert not instances.by_points(found, [(900, 900, 1)]).any()


def test_without_instances_the_mask_is_empty() -> None:
    found = instances.detect(made(), SQUARE)
    assert len(found) == 0
    for prompt in (Prompt(box=(1, 1, 9, 9)), Prompt(points=(Point(x=1, y=1),))):
        mask, score = instances.mask_of(found, prompt)
        assert not mask.any()
        assert score == 0.0


def test_a_model_of_several_classes_scores_by_the_greatest(tmp_path: Path) -> None:
    """Fine-tuned on classes of its own: an instance's score is that of its likeliest class."""
    from effsam_export.weights import checkpoint as loading
    from effsam_export.weights.own_file import checkpoint_from_file

    torch.manual_seed(0)
    own = YoloV8Seg(replace(SMALL, classes=3)).eval()
    torch.save({"model": own.state_dict()}, tmp_path / "classes.pt")
    model = models.get("fast-sam-s")
    module = loading.load(model, checkpoint_from_file(tmp_path / "classes.pt", None))
    raw: list[torch.Tensor] = []
    head = module.get_submodule("model.22")
    for branch in head.get_submodule("cv3").children():
        branch.register_forward_hook(lambda _module, _inputs, out: raw.append(out))
    with torch.inference_mode():
        scores = module(torch.rand(1, 3, 64, 64))[1]
    logits = torch.cat([r.flatten(2) for r in raw], dim=2)
    assert logits.shape[1] == 3
    assert torch.equal(scores, logits.sigmoid().amax(1))
