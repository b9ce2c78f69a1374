"""BF16 in OpenVINO: what the file holds, what the CPU runs, and what a CPU without BF16 may say."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from effsam_export.config import targets as profiles
from effsam_export.errors import CheckFailed
from effsam_export.spec.stages import Graph
from effsam_export.util import cpu
from tests.backends.test_contract import COMPONENT
from tests.graph.passes.tools import numbers

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.backends.openvino.bf16 import Layer
    from effsam_export.spec.stages import Artifact

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.backend
needs_bf16 = pytest.mark.skipif(not cpu.has_bf16(), reason="this CPU has no BF16")

CHANNELS = 16
LAYERS = {
    "conv": numbers(CHANNELS, CHANNELS, 3, 3) / 10,
    "depthwise": numbers(CHANNELS, 1, 3, 3),
    "linear": numbers(32, 32) / 5,
    "batched": numbers(CHANNELS, 32, 32) / 5,
}
KEPT = "second"
"""Name of the depthwise convolution."""
TARGET = profiles.load_target("openvino", "bf16")


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    """A convolution, a depthwise one, two linear layers, and a product with several matrices."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, CHANNELS, 32, 32))
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, CHANNELS, 32, 32))
    pads = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], "first", pads=pads),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], "second", group=CHANNELS, pads=pads),
        helper.make_node("MatMul", ["b", "linear"], ["c"], "third"),
        helper.make_node("Tanh", ["c"], ["d"], "between"),
        helper.make_node("MatMul", ["d", "linear"], ["e"], "fourth"),
        helper.make_node("MatMul", ["e", "batched"], ["y"], "fifth"),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in LAYERS.items()]
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(
        helper.make_graph(nodes, "layers", [image], [out], initializer=weights),
        opset_imports=opset,
        ir_version=9,
    )
    path = tmp_path / "decoder.onnx"
    onnx.save(model, path)
    return Graph(component=COMPONENT, path=path, opset=18)


@pytest.fixture
def lowered(graph: Graph, tmp_path: Path) -> Artifact:
    """The graph in BF16."""
    from effsam_export.backends.openvino import backend

    (tmp_path / "out").mkdir()
    return backend.lower(graph, TARGET, tmp_path / "out")


def without_bf16(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let this machine have a CPU without BF16."""
    (folder / "cpuinfo").write_text("flags\t\t: fpu avx2 avx512f avx512_vnni\n", "utf-8")
    monkeypatch.setattr(cpu, "INFO", folder / "cpuinfo")


def layer(precision: str, *names: str) -> Layer:
    from effsam_export.backends.openvino.bf16 import Layer

    return Layer(names=names, precision=precision)


def test_the_precision_sets_the_property() -> None:
    assert TARGET.options["inference_precision"] == "bf16"
    assert profiles.load_target("intel-cpu", "bf16").options["inference_precision"] == "bf16"


def test_weights_are_stored_in_bf16_where_openvino_computes_in_it(lowered: Artifact) -> None:
    sizes = {name: value.size for name, value in LAYERS.items()}
    found = {k: n for k, n in lowered.tensors_by_dtype.items() if "float" in k}
    assert found == {
        "bfloat16": sizes["conv"] + 2 * sizes["linear"],
        "float32": sizes["depthwise"] + sizes["batched"],
    }


def test_weights_are_rounded_to_the_nearest(lowered: Artifact) -> None:
    ops = openvino.Core().read_model(str(lowered.files[0])).get_ops()
    constants = [o for o in ops if o.get_type_name() == "Constant"]
    weight = next(o for o in constants if list(o.get_output_shape(0)) == [32, 32])
    assert weight.get_element_type() == openvino.Type.bf16
    stored = weight.get_data().view(np.uint16).astype(np.uint32) << 16
    error = np.abs(stored.view(np.float32) - LAYERS["linear"].T)
    assert 0 < (error / np.abs(LAYERS["linear"].T)).max() <= 2**-8


def test_rounding_is_to_the_nearest_and_of_two_to_the_even_one() -> None:
    torch = pytest.importorskip("torch")
    from effsam_export.backends.openvino.bf16 import rounded

    drawn = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 1e3
    halves = 1 + torch.arange(64) / 2**8  # every other one is between two numbers of BF16
    values = torch.cat([drawn, halves[None], -halves[None], torch.zeros(1, 64)]).T
    assert np.array_equal(rounded(values.numpy()), values.bfloat16().float().numpy())


def test_only_depthwise_convolutions_are_marked(lowered: Artifact) -> None:
    layers = ElementTree.parse(lowered.files[0]).iter("layer")
    marked = [
        x for x in layers if "DisablePrecisionConversion" in ElementTree.tostring(x, "unicode")
    ]
    assert [x.get("type") for x in marked] == ["GroupConvolution"]


@needs_bf16
def test_the_compiled_model_runs_what_the_file_says(graph: Graph, lowered: Artifact) -> None:
    from effsam_export.backends.openvino import backend, bf16

    compiled = backend.open_session(lowered).compiled
    found = {name: x.precision for x in bf16.executed_layers(compiled) for name in x.names}
    assert found[KEPT] == "f32"
    assert sorted(x.precision for x in bf16.executed_layers(compiled)) == ["bf16"] * 3 + ["f32"] * 2
    assert lowered.executed == bf16.executed(compiled)
    assert lowered.executed["bf16"] >= 3
    assert lowered.executed["f32"] >= 1


@needs_bf16
def test_outputs_are_close_to_those_in_fp32_and_not_the_same(
    graph: Graph, lowered: Artifact, tmp_path: Path
) -> None:
    from effsam_export.backends.openvino import backend

    (tmp_path / "fp32").mkdir()
    full = backend.lower(graph, profiles.load_target("openvino", "fp32"), tmp_path / "fp32")
    assert full.executed == {}
    feeds = {"x": numbers(1, CHANNELS, 32, 32)}
    exact = backend.open_session(full).run(feeds)["y"]
    error = np.abs(backend.open_session(lowered).run(feeds)["y"] - exact).max()
    assert 1e-4 * np.abs(exact).max() < error < 0.05 * np.abs(exact).max()


def test_fp32_opened_without_the_property_runs_in_bf16_where_the_cpu_has_it(
    graph: Graph, tmp_path: Path
) -> None:
    """The reason why README, self-test and code name the property."""
    from effsam_export.backends.openvino import backend, bf16

    full = backend.lower(graph, profiles.load_target("openvino", "fp32"), tmp_path)
    compiled = openvino.Core().compile_model(str(full.files[0]), "CPU")
    assert ("bf16" in bf16.executed(compiled)) == cpu.has_bf16()
    assert "bf16" not in bf16.executed(backend.open_session(full).compiled)


def test_weights_that_stayed_in_fp32_are_refused(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effsam_export.backends.openvino import backend, bf16

    monkeypatch.setattr(bf16, "apply", lambda model: None)
    with pytest.raises(CheckFailed, match="the precision is bf16, but the file holds"):
        backend.lower(graph, TARGET, tmp_path)


@needs_bf16
@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_a_runtime_that_ignores_the_property_is_refused(
    lowered: Artifact, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effsam_export.backends.openvino import backend, bf16

    monkeypatch.setattr(bf16, "executed_layers", lambda model: [layer(precision, "a")])
    with pytest.raises(CheckFailed) as caught:
        backend.open_session(lowered)
    assert caught.value.message == (
        f"the target asks OpenVINO for BF16, and it computes `decoder.xml` in `{precision}`"
    )


def test_layers_that_run_as_the_file_says_pass(graph: Graph, lowered: Artifact) -> None:
    from effsam_export.backends.openvino import bf16

    layers = [*[layer("bf16", f"m{i}") for i in range(9)], layer("f32", "odd"), layer("f32", KEPT)]
    layers += [layer("f32", "y")] * 5
    bf16.check_layers(graph, lowered.files[0], layers)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (
            [("bf16", "a"), ("bf16", KEPT)],
            "decoder: OpenVINO computes `second` in bf16, which the file",
        ),
        (
            [("bf16", "a"), ("f32", "c"), ("f32", KEPT)],
            "decoder: the precision is bf16, but OpenVINO computes 1 of 2 layers in bf16",
        ),
        ([("f32", "a")], "decoder: the precision is bf16, but OpenVINO computes 0 of 1 layers"),
    ],
    ids=["a mark that was ignored", "too few", "none"],
)
def test_layers_that_run_otherwise_are_refused(
    graph: Graph, lowered: Artifact, layers: list[tuple[str, str]], said: str
) -> None:
    from effsam_export.backends.openvino import bf16

    with pytest.raises(CheckFailed) as caught:
        bf16.check_layers(graph, lowered.files[0], [layer(*x) for x in layers])
    assert caught.value.message.startswith(said)


def test_a_cpu_without_bf16_is_a_simulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from effsam_export.backends.openvino import backend

    without_bf16(monkeypatch, tmp_path)
    assert backend.simulator(TARGET.options) == "OpenVINO on a CPU without BF16"
    assert backend.simulator(profiles.load_target("openvino", "fp32").options) == ""
    (tmp_path / "cpuinfo").write_text("flags\t\t: avx512f amx_bf16\n", "utf-8")
    assert backend.simulator(TARGET.options) == ""


def test_a_cpu_without_bf16_is_asked_for_nothing(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it runs is recorded and not checked."""
    from effsam_export.backends.openvino import backend, bf16

    without_bf16(monkeypatch, tmp_path)
    monkeypatch.setattr(bf16, "executed_layers", lambda model: [layer("f32", "a")])
    monkeypatch.setattr(bf16, "executed", lambda model: {"f32": 5})
    artifact = backend.lower(graph, TARGET, tmp_path)
    assert artifact.executed == {"f32": 5}
    backend.open_session(artifact)
