"""The `tensorrt` backend: the kit, and the engine on a machine with TensorRT and a GPU."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnx

from effsam_export.backends.onnx.session import OnnxSession
from effsam_export.backends.tensorrt import backend
from effsam_export.backends.tensorrt import typed as trt_typed
from effsam_export.backends.tensorrt.kit import trt_engine
from effsam_export.config import targets as profiles
from effsam_export.errors import CheckFailed
from effsam_export.graph.passes import cast_fp16
from tests.backends.tensorrt import fake_tensorrt
from tests.backends.test_contract import (
    COMPONENT,
    PRECISIONS,
    TOLERANCE,
    WEIGHT,
    feeds,
    signature_of,
    wanted,
    write_graph,
)

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Artifact
    from effsam_export.spec.targets import Precision

pytestmark = pytest.mark.backend

every_precision = pytest.mark.parametrize("precision", PRECISIONS)
every_target = pytest.mark.parametrize("target", ["tensorrt", "jetson-orin"])


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPU of this machine."""
    fake_tensorrt.reset()
    fake_tensorrt.MEMORY.clear()
    monkeypatch.setattr(trt_engine, "load_driver", lambda: fake_tensorrt.Driver(count=0))


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT and a GPU, both fake."""
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.setattr(backend, "find_spec", lambda name: name)
    monkeypatch.setattr(trt_engine, "load_driver", fake_tensorrt.Driver)


def lower(folder: Path, precision: Precision = "fp16", target: str = "jetson-orin") -> Artifact:
    out = folder / "out"
    out.mkdir(parents=True)
    graph = write_graph(folder / "decoder.onnx")
    return backend.lower(graph, profiles.load_target(target, precision), out)


# ------------------------------------------------------------------ without TensorRT


@every_target
@every_precision
def test_artifact(target: str, precision: Precision, tmp_path: Path) -> None:
    artifact = lower(tmp_path, precision, target)
    assert (artifact.component, artifact.backend) == ("decoder", "tensorrt")
    assert artifact.precision == precision
    assert artifact.versions.keys() == {"onnx", "onnxruntime"}
    assert artifact.options == profiles.load_target(target).options
    assert [f.name for f in artifact.files] == [
        "decoder.onnx",
        "decoder.profiles.json",
        "decoder.expected_layers.json",
    ]


@every_precision
def test_receipt(precision: Precision, tmp_path: Path) -> None:
    artifact = lower(tmp_path, precision)
    dtype = {"fp32": "float32", "fp16": "float16"}[precision]
    assert artifact.tensors_by_dtype == {dtype: WEIGHT.size, "int64": 1}
    assert artifact.ops["MatMul"] == 1


def test_a_graph_that_stayed_fp32_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cast_fp16, "apply", lambda model, keep=(): model)
    with pytest.raises(CheckFailed) as caught:
        lower(tmp_path)
    assert caught.value.message == (
        f"decoder: the precision is fp16, but the file holds {WEIGHT.size} float32 "
        "(0.00% float16, minimum 99%)"
    )


def test_an_fp16_node_of_the_recipe_is_refused(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "named.onnx")
    model = onnx.load(graph.path)
    for node in model.graph.node:
        node.name = f"node_{node.op_type}"
    onnx.save(model, graph.path)
    typed = trt_typed.write(replace(graph, fp32_nodes=("node_Tanh",)), "fp16", tmp_path)
    assert typed.fp32_nodes == {"node_Tanh": "Tanh"}
    assert typed.float_ops == {"float16": 4, "float32": 1}
    with pytest.raises(CheckFailed) as caught:
        trt_typed.check_fp32_nodes(replace(graph, fp32_nodes=("node_Tanh", "node_Mul")), typed)
    assert caught.value.message == (
        "decoder: 1 of 2 nodes that the recipe keeps in FP32 compute in FP16, first `node_Mul`"
    )


def test_nodes_of_the_recipe_without_computation_are_ignored(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "named.onnx")
    typed = trt_typed.write(graph, "fp16", tmp_path)
    trt_typed.check_fp32_nodes(replace(graph, fp32_nodes=("node_of_a_shape",)), typed)


@every_precision
@pytest.mark.parametrize("prompts", [1, 2, 7])
def test_numbers_of_the_simulator(precision: Precision, prompts: int, tmp_path: Path) -> None:
    session = backend.open_session(lower(tmp_path, precision))
    assert isinstance(session, OnnxSession)
    found = session.run(feeds(prompts))
    assert list(found) == [t.name for t in COMPONENT.outputs]
    for name, value in wanted(feeds(prompts)).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], value, atol=TOLERANCE[precision])


def test_simulator_is_named() -> None:
    assert backend.simulator({}) == trt_typed.SIMULATOR


def test_package_without_a_gpu_uses_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: name)
    assert not backend.usable()


def test_gpu_without_the_package_uses_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    monkeypatch.setattr(trt_engine, "load_driver", fake_tensorrt.Driver)
    assert not backend.usable()


# ------------------------------------------------------------------ with TensorRT


def test_engine_is_built_on_the_device(on_device: None, tmp_path: Path) -> None:
    artifact = lower(tmp_path)
    assert artifact.files[-1].name == "decoder.engine"
    assert json.loads(artifact.files[-1].read_text()) == {"onnx": str(artifact.files[0])}
    assert artifact.versions["tensorrt"] == fake_tensorrt.__version__
    assert artifact.ops == {"kgen": 1}
    assert backend.simulator(artifact.options) == ""
    # Strongly typed, without TF32: what the kit's own script asks for.
    assert fake_tensorrt.CALLS[:2] == [("create_network", 2), ("clear_flag", "TF32")]


def test_engine_runs_on_the_device(on_device: None, tmp_path: Path) -> None:
    session = backend.open_session(lower(tmp_path))
    assert isinstance(session, backend.EngineSession)
    assert session.signature() == signature_of(COMPONENT)
    found = session.run(feeds(3))
    np.testing.assert_allclose(found["masks"], wanted(feeds(3))["masks"], atol=TOLERANCE["fp16"])


def test_engine_is_built_for_a_bundle_without_one(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    artifact = lower(tmp_path)
    assert not (tmp_path / "out" / "decoder.engine").exists()
    request.getfixturevalue("on_device")
    # An engine that is not one of the artefact's files is not opened.
    planted = tmp_path / "out" / "decoder.engine"
    planted.write_bytes(b"planted")
    assert isinstance(backend.open_session(artifact), backend.EngineSession)
    assert planted.read_bytes() == b"planted"


def test_engine_of_another_machine(on_device: None, tmp_path: Path) -> None:
    artifact = lower(tmp_path)
    artifact.files[-1].write_bytes(b"ftrt")
    with pytest.raises(CheckFailed, match=r"^`decoder\.engine`: the engine cannot be opened: "):
        backend.open_session(artifact)


def test_call_outside_the_shape_ranges(on_device: None, tmp_path: Path) -> None:
    session = backend.open_session(lower(tmp_path))
    with pytest.raises(CheckFailed) as caught:
        session.run({**feeds(2), "tokens": np.zeros((2, 3), np.float32)})
    assert caught.value.message == "`tokens` cannot have the shape [2, 3]"


@pytest.mark.parametrize(
    ("precision", "layers", "message"),
    [
        ("fp16", "Float", "decoder: the precision is fp16, but none of 1 layers computes in fp16"),
        (
            "fp32",
            "Half",
            "decoder: the precision is fp32, but 1 of 1 layers compute in half precision, "
            "first `fused`",
        ),
    ],
)
def test_wrong_precision_of_the_engine_is_refused(
    precision: Precision, layers: str, message: str, on_device: None, tmp_path: Path
) -> None:
    fake_tensorrt.SETTINGS["layers"] = layers
    with pytest.raises(CheckFailed) as caught:
        lower(tmp_path, precision)
    assert caught.value.message == message


def test_parser_error(on_device: None, tmp_path: Path) -> None:
    fake_tensorrt.FAULTS.append(("node_7", "Tile", "not a shape tensor"))
    with pytest.raises(CheckFailed) as caught:
        lower(tmp_path)
    assert caught.value.message == (
        "decoder: TensorRT could not build the engine: node `node_7`: not a shape tensor"
    )


def test_options_reach_the_builder(on_device: None, tmp_path: Path) -> None:
    fake_tensorrt.SETTINGS["layers"] = "Float"
    out = tmp_path / "out"
    out.mkdir()
    target = profiles.load_target("tensorrt", "fp32")
    target = replace(target, options={**target.options, "tf32": True, "workspace_mib": 256})
    backend.lower(write_graph(tmp_path / "decoder.onnx"), target, out)
    names = [c[0] for c in fake_tensorrt.CALLS]
    assert "clear_flag" not in names
    assert ("set_memory_pool_limit", "WORKSPACE", 256 << 20) in fake_tensorrt.CALLS
