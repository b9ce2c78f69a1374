"""INT8 evaluations of a search on the small model: which ranges and sessions are reused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effsam_export.bisect.int8 import Int8Evaluator, with_original_weights
from effsam_export.config import calibration
from effsam_export.config import targets as profiles
from effsam_export.config.int8_recipe import Int8Plan
from effsam_export.pipeline.plan import resolve
from effsam_export.pipeline.request import ExportRequest, Int8Request
from effsam_export.spec.int8 import Int8Recipe
from tests.small import SMALL_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Checkpoint
    from effsam_export.util.progress import StageEvent

WHOLE = Int8Recipe(scheme="w8a8", quantize_activation_products=True)


def evaluator(
    folder: Path,
    checkpoint: Checkpoint,
    parity: Path,
    recipes: dict[str, Int8Recipe],
    events: list[str] | None = None,
) -> Int8Evaluator:
    plan = Int8Plan(name="x", measured="", recipes={(c, "default"): r for c, r in recipes.items()})
    request = ExportRequest(
        model=SMALL_SAM,
        target=profiles.load_target("onnx", "int8"),
        checkpoint=checkpoint,
        output=folder / "unused",
        parity_file=parity,
        int8=Int8Request(calibration=calibration.load(num_samples=2), plan=plan),
    )

    def on_event(event: StageEvent) -> None:
        if event.kind == "finished" and events is not None:
            events.append(event.stage)

    return Int8Evaluator(resolve(request), folder, on_event)


@pytest.mark.backend
@pytest.mark.slow
def test_a_decoders_ranges_follow_its_encoder(
    tmp_path: Path, small: None, small_checkpoint: Checkpoint, parity_file: Path
) -> None:
    events: list[str] = []
    both = {"encoder": WHOLE, "decoder": WHOLE}
    found = evaluator(tmp_path, small_checkpoint, parity_file, both, events)
    encoder = [x for x in found.layers if x.startswith("encoder")]
    decoder = [x for x in found.layers if x.startswith("decoder")]
    assert encoder
    assert len(decoder) > 10
    # A decoder in floating point needs no ranges and loses no accuracy.
    floating = found.evaluate(dict.fromkeys(found.layers, "keep_float"))
    assert not [e for e in events if e.startswith("ranges")]
    assert floating.mean_iou > 0.99
    assert floating.failed_gates == 0
    found.evaluate(dict.fromkeys(decoder, "keep_float"))
    assert events.count("ranges encoder") == 1
    assert events.count("ranges decoder") == 0
    found.evaluate(dict.fromkeys(decoder[1:], "keep_float"))
    assert events.count("ranges decoder") == 1
    # Another choice in the decoder is no reason to measure again, another encoder is.
    found.evaluate(dict.fromkeys(decoder[2:], "keep_float"))
    assert events.count("ranges decoder") == 1
    found.evaluate(dict.fromkeys(encoder, "keep_float"))
    assert events.count("ranges decoder") == 2
    assert events.count("ranges encoder") == 1


@pytest.mark.backend
def test_target_and_simulator_agree_where_both_are_onnx_runtime(
    tmp_path: Path, small: None, small_checkpoint: Checkpoint, parity_file: Path
) -> None:
    both = {"encoder": WHOLE, "decoder": WHOLE}
    found = evaluator(tmp_path, small_checkpoint, parity_file, both)
    kept = dict.fromkeys([x for x in found.layers if x.startswith("decoder")][::3], "keep_float")
    mine, own = found.evaluate(kept), found.evaluate_target(kept)  # type: ignore[arg-type]
    # The decoder is calibrated on the INT8 encoder in both, by the same quantizer.
    assert own == mine
    assert mine.mean_iou < 1


@pytest.mark.backend
def test_an_export_that_the_target_refuses_misses_a_gate(
    tmp_path: Path, small: None, small_checkpoint: Checkpoint, parity_file: Path
) -> None:
    found = evaluator(tmp_path, small_checkpoint, parity_file, {"encoder": WHOLE, "decoder": WHOLE})
    # An encoder without INT8 weights is refused as an INT8 file.
    evaluation = found.evaluate_target(dict.fromkeys(found.layers, "keep_float"))
    assert evaluation.failed_gates == 1
    assert evaluation.mean_iou == 0


@pytest.mark.backend
def test_a_floating_point_layer_has_its_original_weights(
    tmp_path: Path, small: None, small_checkpoint: Checkpoint, parity_file: Path
) -> None:
    rounded = Int8Recipe(scheme="weight_only", rounding="coordinate-descent")
    found = evaluator(
        tmp_path,
        small_checkpoint,
        parity_file,
        {"encoder": rounded, "decoder": Int8Recipe(scheme="fp32")},
    )
    worse = found.evaluate({})
    best = found.evaluate(dict.fromkeys(found.layers, "keep_float"))
    assert worse.mean_iou < best.mean_iou
    # Not 1: what stays is in FP16.
    assert best.mean_iou > 0.998


def graph(weights: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> onnx.ModelProto:
    """A product with each weight, one after the other; `shared` twice."""
    nodes, last = [], "x"
    for i, name in enumerate([*weights, *(["shared"] if "shared" in weights else [])]):
        nodes.append(helper.make_node("MatMul", [last, name], [f"y{i}"], name=f"n{i}"))
        last = f"y{i}"
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in ("x", last)]
    tensors = [numpy_helper.from_array(v, n) for n, v in weights.items()]
    return helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:], tensors))


def constants(model: onnx.ModelProto) -> dict[str, float]:
    return {i.name: float(numpy_helper.to_array(i)[0, 0]) for i in model.graph.initializer}


def full(value: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.full((2, 2), value, np.float32)


def test_only_floating_point_layers_get_their_original_weights() -> None:
    model = graph({"a": full(1), "b": full(2), "shared": full(3)})
    before = {n: numpy_helper.from_array(full(-v), n) for n, v in constants(model).items()}
    kept = {"n0": "keep_float", "n1": "weight_only", "n2": "keep_float", "n3": "w8a8"}
    found = with_original_weights(model, before, kept)  # type: ignore[arg-type]
    # The last one is read by a layer that is quantized, too.
    assert constants(found) == {"a": -1.0, "b": 2.0, "shared": 3.0}
    assert constants(model) == {"a": 1.0, "b": 2.0, "shared": 3.0}


def test_a_graph_without_rounded_weights_does_not_change() -> None:
    model = graph({"a": full(1)})
    assert with_original_weights(model, {}, {"n0": "keep_float"}) is model
    rounded = {"a": numpy_helper.from_array(full(5), "a")}
    assert with_original_weights(model, rounded, {"n0": "w8a8"}) is model
    assert replace(WHOLE, quantize_activation_products=False).prepares_weights is False
