"""TensorRT-RTX builds engines without a GPU; a fake tests the parts that need one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx_bindings")
pytest.importorskip("onnx")
import onnx
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper

from effsam_export.backends.onnx.session import OnnxSession
from effsam_export.backends.tensorrt import build as trt_build
from effsam_export.backends.tensorrt import rtx, shape_ranges
from effsam_export.backends.tensorrt import typed as trt_typed
from effsam_export.backends.tensorrt.kit import trt_engine
from effsam_export.config import targets as profiles
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.graph.passes import cast_fp16
from tests.backends.tensorrt import fake_tensorrt
from tests.backends.test_contract import (
    COMPONENT,
    PRECISIONS,
    TOLERANCE,
    WEIGHT,
    WIDTH,
    feeds,
    signature_of,
    wanted,
    write_graph,
)

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Artifact, Graph
    from effsam_export.spec.targets import Precision

pytestmark = pytest.mark.backend

every_precision = pytest.mark.parametrize("precision", PRECISIONS)
KNOWN = "75, 80, 86, 89, 120, 121"


def lower(
    folder: Path,
    precision: Precision = "fp16",
    graph: Graph | None = None,
    **options: str | int | bool,
) -> Artifact:
    """Lower a graph into `folder/out`, by default that of the contract tests."""
    out = folder / "out"
    out.mkdir(parents=True)
    target = profiles.load_target("tensorrt-rtx", precision)
    target = replace(target, options={**target.options, **options})
    return rtx.lower(graph or write_graph(folder / "decoder.onnx"), target, out)


def graph_of(path: Path, nodes: list[Any]) -> Graph:
    """A graph with the contract's inputs and outputs, and other nodes between them."""
    values = [
        helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape)
        for t in (*COMPONENT.inputs, *COMPONENT.outputs)
    ]
    body = helper.make_graph(nodes, "layers", values[:2], values[2:])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return replace(write_graph(path.with_name("other.onnx")), path=path)


# ------------------------------------------------------------------ files and receipt


@every_precision
def test_artifact(precision: Precision, tmp_path: Path) -> None:
    artifact = lower(tmp_path, precision)
    assert (artifact.component, artifact.backend) == ("decoder", "tensorrt-rtx")
    assert artifact.precision == precision
    assert artifact.versions["tensorrt_rtx_bindings"] == trt.__version__
    names = [f.name for f in artifact.files]
    assert names == ["decoder.onnx", "decoder.engine", "decoder.layers.json"]
    assert sorted(artifact.files) == sorted((tmp_path / "out").iterdir())


@every_precision
def test_engine_contains_the_weights(precision: Precision, tmp_path: Path) -> None:
    engine = lower(tmp_path, precision).files[1].read_bytes()
    weights = WEIGHT if precision == "fp32" else WEIGHT.astype(np.float16)
    assert len(engine) > 100_000
    assert weights.tobytes() in engine


@every_precision
def test_receipt_is_of_the_engine(precision: Precision, tmp_path: Path) -> None:
    artifact = lower(tmp_path, precision)
    dtype = {"fp32": "float32", "fp16": "float16"}[precision]
    assert artifact.tensors_by_dtype[dtype] >= WEIGHT.size
    assert sum(n for k, n in artifact.tensors_by_dtype.items() if k != dtype) <= 4
    # Kinds of an engine's layers, not ONNX operators.
    assert artifact.ops["gemm" if precision == "fp32" else "kgen"] >= 1
    assert "MatMul" not in artifact.ops


def test_layers_are_listed_with_their_nodes(tmp_path: Path) -> None:
    content = json.loads(lower(tmp_path, "fp32").files[2].read_text("utf-8"))
    assert list(content) == ["decoder.engine"]
    layers = content["decoder.engine"]["layers"]
    assert {n for layer in layers for n in layer["onnx_nodes"]} >= {"node_of_hidden", "node_of_act"}
    assert {d for layer in layers for d in layer["outputs"]} == {"float32"}


def test_typed_onnx_is_the_traced_graph_in_fp32(tmp_path: Path) -> None:
    artifact = lower(tmp_path, "fp32")
    assert artifact.files[0].read_bytes() == (tmp_path / "decoder.onnx").read_bytes()


@every_precision
def test_equal_bytes_every_time(precision: Precision, tmp_path: Path) -> None:
    one, two = (lower(tmp_path / name, precision) for name in ("one", "two"))
    assert [f.read_bytes() for f in one.files] == [f.read_bytes() for f in two.files]


def test_profile_of_the_engine(tmp_path: Path) -> None:
    lower(tmp_path, max_prompts=9, opt_prompts=3)
    (said,) = [m for _, m in trt_build.recorder(trt).lines if m.startswith("Layers:\n")]
    tokens = next(line for line in said.splitlines() if line.startswith(" Name: tokens, IOMode"))
    assert "MinShape: [1,48], OptShape: [3,48], MaxShape: [9,48]" in tokens


def test_logger_is_one_for_the_process() -> None:
    assert trt_build.recorder(trt) is trt_build.recorder(trt)


# ------------------------------------------------------------------ sabotage


def keep_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cast_fp16, "apply", lambda model, keep=(): model)


def test_a_graph_that_stayed_fp32_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep_fp32(monkeypatch)
    with pytest.raises(CheckFailed) as caught:
        lower(tmp_path, "fp16")
    assert caught.value.message == (
        f"decoder: the precision is fp16, but the file holds {WEIGHT.size} float32 "
        "(0.00% float16, minimum 99%)"
    )
    assert not list((tmp_path / "out").glob("*.engine"))


def test_an_engine_that_stayed_fp32_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep_fp32(monkeypatch)
    monkeypatch.setattr(trt_typed, "check_precision", lambda *_, fp32_by_recipe: None)
    with pytest.raises(CheckFailed) as caught:
        lower(tmp_path, "fp16")
    # Two more than in the graph: the factors of a product, which TensorRT adds.
    assert caught.value.message == (
        f"decoder: the precision is fp16, but the file holds {WEIGHT.size + 2} float32 "
        "(0.00% float16, minimum 99%)"
    )
    assert not list((tmp_path / "out").glob("*.engine"))


# ------------------------------------------------------------------ options


def test_known_capabilities() -> None:
    assert ", ".join(map(str, rtx.known_capabilities())) == KNOWN


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("87", "`87` is not supported"),
        ("80 90 8.6", "`90` is not supported; `8.6` is not supported"),
        ("86 86", "`86` is named twice"),
        ("", "it is empty"),
        ("1", "`1` is not supported"),
    ],
)
def test_unknown_capabilities(given: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        lower(tmp_path, compute_capabilities=given)
    assert caught.value.message == (
        f"option `compute_capabilities`: {problem} (TensorRT-RTX {trt.__version__} supports "
        f"{KNOWN})"
    )
    assert caught.value.hint == (
        "Jetson Orin (87), Hopper (90) and others need TensorRT on the device: choose the target "
        "`jetson-orin` or `tensorrt`"
    )
    assert not list((tmp_path / "out").iterdir())


def test_invalid_sizes_write_no_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^`max_points` is 0, must be 1 to 1024$"):
        lower(tmp_path, max_points=0)
    assert not list((tmp_path / "out").iterdir())


def test_one_engine_holds_every_capability(tmp_path: Path) -> None:
    together = lower(tmp_path / "all").files[1].stat().st_size
    alone = lower(tmp_path / "one", compute_capabilities="86").files[1].stat().st_size
    assert together < 1.01 * alone
    log = [m for _, m in trt_build.recorder(trt).lines if "target compute capabilities" in m]
    assert log == ["Number of target compute capabilities: 1"]


def test_an_engine_for_each_capability(tmp_path: Path) -> None:
    artifact = lower(tmp_path, per_capability=True, compute_capabilities="86 89")
    engines = artifact.files[1:3]
    assert [f.name for f in engines] == ["decoder.sm86.engine", "decoder.sm89.engine"]
    assert engines[0].read_bytes() != engines[1].read_bytes()
    listed = json.loads(artifact.files[3].read_text("utf-8"))
    assert list(listed) == ["decoder.sm86.engine", "decoder.sm89.engine"]


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_follows_the_option(allowed: bool) -> None:
    config = trt.Builder(trt_build.recorder(trt)).create_builder_config()
    assert config.get_flag(trt.BuilderFlag.TF32)  # what TensorRT would do by itself
    rtx.set_tf32(config, allowed=allowed)
    assert config.get_flag(trt.BuilderFlag.TF32) is allowed


# ------------------------------------------------------------------ refusals of the SDK


def refusal(tmp_path: Path, path: Path) -> str:
    """Return the error message of a build from this file, without the precision check."""
    shapes = shape_ranges.ranges(COMPONENT, {})
    with pytest.raises(CheckFailed) as caught:
        trt_build.build(trt, COMPONENT, path, shapes, lambda config: None)
    return caught.value.message


def test_unknown_operator_is_named_with_its_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Frobnicate", ["tokens"], ["masks"], name="the_node", domain="my"),
        helper.make_node("Identity", ["flags"], ["iou"]),
    ]
    path = graph_of(tmp_path / "decoder.onnx", nodes).path
    assert refusal(tmp_path, path) == (
        "decoder: TensorRT cannot read the graph: node `the_node` (Frobnicate): creator && "
        '"Plugin not found, are the plugin name, version, and namespace correct?"'
    )


def test_mixed_types_are_named_with_their_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["tokens"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "tokens"], ["masks"], name="mixed_mul"),
        helper.make_node("Identity", ["flags"], ["iou"]),
    ]
    path = graph_of(tmp_path / "decoder.onnx", nodes).path
    assert refusal(tmp_path, path) == (
        "decoder: TensorRT cannot read the graph: node `mixed_mul` (Mul): mixed_mul: "
        "ElementWiseOperation PROD must have same input types. But they are of types Half and Float"
    )


def test_file_that_is_not_onnx(tmp_path: Path) -> None:
    path = tmp_path / "decoder.onnx"
    path.write_bytes(b"hello there")
    assert refusal(tmp_path, path) == (
        "decoder: TensorRT reads the inputs [], expected ['tokens', 'flags']; "
        "TensorRT reads the outputs [], expected ['masks', 'iou']"
    )


def test_gpu_that_cannot_compute_the_graph(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed) as caught:
        lower(tmp_path, "fp32", compute_capabilities="75")
    assert caught.value.message == (
        "decoder: TensorRT could not build the engine: Cannot compile operation "
        "'node_of_hidden' for Turing (SM75): FP32 GEMM is not supported"
    )
    assert not list((tmp_path / "out").glob("*.engine"))


# ------------------------------------------------------------------ running


@every_precision
@pytest.mark.parametrize("prompts", [1, 2, 7])
def test_numbers_of_the_simulator(precision: Precision, prompts: int, tmp_path: Path) -> None:
    session = rtx.open_session(lower(tmp_path, precision))
    assert isinstance(session, OnnxSession)
    found = session.run(feeds(prompts))
    assert list(found) == [t.name for t in COMPONENT.outputs]
    for name, value in wanted(feeds(prompts)).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, atol=TOLERANCE[precision])


def test_simulator_opens_the_compiled_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    artifact = lower(tmp_path)
    opened: list[Path] = []
    monkeypatch.setattr(trt_typed, "open_simulator", opened.append)
    rtx.open_session(artifact)
    assert opened == [tmp_path / "out" / "decoder.onnx"]


def test_simulator_rounds_by_the_types_of_the_file(tmp_path: Path) -> None:
    exact, half = (
        rtx.open_session(lower(tmp_path / p, p)).run(feeds(3))["masks"] for p in PRECISIONS
    )
    assert np.array_equal(half, half.astype(np.float16))
    assert not np.array_equal(exact, half)


def gpu(monkeypatch: pytest.MonkeyPatch, capability: int | None) -> None:
    monkeypatch.setattr(trt_engine, "capability", lambda: capability)


@pytest.mark.parametrize(
    ("capability", "said"),
    [
        (None, trt_typed.SIMULATOR),
        (86, ""),
        (
            90,
            f"{trt_typed.SIMULATOR}: this GPU has compute capability 90, the engine is "
            "for 80, 86, 89",
        ),
    ],
    ids=["no GPU", "a GPU of the target", "another GPU"],
)
def test_simulator(capability: int | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, capability)
    assert rtx.simulator(profiles.load_target("tensorrt-rtx").options) == said


def test_engine_of_the_machine_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    artifact = lower(tmp_path, per_capability=True)
    opened: list[Path] = []
    gpu(monkeypatch, 86)
    monkeypatch.setattr(rtx, "EngineSession", opened.append)
    rtx.open_session(artifact)
    assert opened == [tmp_path / "out" / "decoder.sm86.engine"]


@pytest.mark.parametrize("capability", [80, 86, 89])
def test_engine_is_chosen_by_capability(capability: int, tmp_path: Path) -> None:
    artifact = lower(tmp_path)
    found = rtx.engine_for(artifact.files, artifact.options, capability)
    assert found.name == "decoder.engine"


def test_no_engine_for_a_gpu(tmp_path: Path) -> None:
    artifact = lower(tmp_path)
    with pytest.raises(CheckFailed) as caught:
        rtx.engine_for(artifact.files, artifact.options, 120)
    assert caught.value.message == "decoder: there is no engine for compute capability 120"
    assert caught.value.hint == (
        "add it to the target option `compute_capabilities` and export again"
    )


def test_session_of_an_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "decoder.engine"
    path.write_text(json.dumps({"onnx": str(write_graph(tmp_path / "decoder.onnx").path)}))
    monkeypatch.setattr(rtx, "trt", fake_tensorrt)
    monkeypatch.setattr(trt_engine, "load_driver", fake_tensorrt.Driver)
    session = rtx.EngineSession(path)
    assert session.signature() == signature_of(COMPONENT)
    np.testing.assert_allclose(session.run(feeds(2))["masks"], wanted(feeds(2))["masks"], atol=1e-5)
    with pytest.raises(CheckFailed) as caught:
        session.run({"tokens": np.zeros((2, WIDTH), np.float32)})
    assert caught.value.message == "the input `flags` is missing"


def test_engine_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "decoder.engine"
    path.write_bytes(b"ftrt")
    monkeypatch.setattr(rtx, "trt", fake_tensorrt)
    monkeypatch.setattr(trt_engine, "load_driver", fake_tensorrt.Driver)
    with pytest.raises(CheckFailed, match=r"^`decoder\.engine`: the engine cannot be opened: "):
        rtx.EngineSession(path)
