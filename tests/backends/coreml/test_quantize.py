"""INT8 packages of a tiny program: contents and results."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")
import torch
from torch import nn

from effsam_export.backends.coreml import backend as coreml
from effsam_export.backends.coreml import package as coreml_package
from effsam_export.backends.coreml import quantize as coreml_ptq
from effsam_export.backends.coreml.mil import evaluate
from effsam_export.backends.coreml.quantize_layers import Layer
from effsam_export.errors import CheckFailed, UsageError
from effsam_export.spec.int8 import Int8Recipe, Quantization
from effsam_export.spec.model import KeepFp32
from tests.backends.coreml import quantize_tools as tools
from tests.backends.coreml import tools as coreml_tools

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.int8 import Treatment
    from effsam_export.spec.stages import Artifact, Graph

pytestmark = pytest.mark.backend

SIZES = {"stem": 432, "depth": 144, "mlp.0": 512, "mlp.2": 512, "up": 256}
"""Elements of the weights of `Net`."""
MIXED: dict[str, Treatment] = {"depth": "keep_float", "mlp_2": "weight_only"}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return tools.graph(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tools.write(tmp_path_factory.mktemp("samples"), tools.as_feeds(tools.images(4)))


@pytest.fixture(scope="module")
def light(graph: Graph, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Every weight in INT8, nothing else."""
    return tools.lower(
        graph, tmp_path_factory.mktemp("weight_only") / "out", tools.recipe(), samples
    )


@pytest.fixture(scope="module")
def mixed(graph: Graph, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Each treatment somewhere."""
    folder = tmp_path_factory.mktemp("w8a8") / "out"
    return tools.lower(graph, folder, tools.recipe("w8a8", **MIXED), samples)


# ------------------------------------------------------------------ weights


def test_every_weight_is_int8(light: Artifact) -> None:
    program = tools.opened(light)
    assert tools.modules_in(program, "constexpr_affine_dequantize") == set(SIZES)
    assert tools.modules_in(program, "const") == set()
    assert coreml_ptq.weights_in_int8(program) == sum(SIZES.values())


def test_the_receipt_counts_them(light: Artifact) -> None:
    # Up to iOS 17 every channel has a zero point beside its scale: 16 + 16 + 32 + 16 + 4.
    assert light.tensors_by_dtype["int8"] == sum(SIZES.values()) + 84
    assert "float32" not in light.tensors_by_dtype
    assert light.ops["constexpr_affine_dequantize"] == len(SIZES)
    assert light.precision == "int8"


@pytest.mark.parametrize(("module", "axis"), [("stem", 0), ("depth", 0), ("mlp.0", 0), ("up", 1)])
def test_a_weight_is_rounded_for_each_output_channel(
    light: Artifact, module: str, axis: int
) -> None:
    program = tools.opened(light)
    name = tools.unpacked(program, module)
    integers = tools.constant(program, name, "quantized_data").astype(np.float64)
    scale = tools.constant(program, name, "scale").astype(np.float64)
    exact = tools.Net().get_parameter(f"{module}.weight").detach().numpy().astype(np.float64)
    others = tuple(a for a in range(exact.ndim) if a != axis)
    largest = np.abs(exact).max(others, keepdims=True)

    assert int(tools.constant(program, name, "axis")) == axis
    assert not tools.constant(program, name, "zero_point").any()
    np.testing.assert_allclose(scale.reshape(largest.shape), largest / 127, rtol=2e-3)
    # Half a step, and what FP16 rounds of the weight and of the scale.
    steps = np.abs(integers * scale.reshape(largest.shape) - exact) / (largest / 127)
    assert steps.max() < 0.65
    assert np.abs(integers).max() == 127


def test_a_channel_of_zeros_stays_zero(samples: Path, tmp_path: Path) -> None:
    module = tools.Net()
    for parameter in ("mlp.2.weight", "mlp.2.bias"):
        module.get_parameter(parameter).data[3] = 0
    found = tools.lower(tools.graph(tmp_path, module), tmp_path / "out", tools.recipe(), samples)
    program = tools.opened(found)
    seen = {}
    name = next(
        op.outputs[0].name
        for op in program.operations
        if op.inputs.get("weight") == (tools.unpacked(program, "mlp.2"),)
    )

    def watch(value: str, tensor: torch.Tensor) -> None:
        if value == name:
            seen[value] = tensor.numpy().copy()

    evaluate.run(program, {"image": tools.images(1)[0]}, watch=watch)
    assert not seen[name][..., 3].any()
    assert seen[name][..., 4].any()


def test_weight_only_int8_works_on_ios_16(graph: Graph, samples: Path, tmp_path: Path) -> None:
    found = tools.lower(graph, tmp_path / "out", tools.recipe(), samples, deployment_target="iOS16")
    assert tools.opened(found).opset == "CoreML6"
    assert found.ops["constexpr_affine_dequantize"] == len(SIZES)


def test_from_ios_18_on_weights_are_unpacked_by_its_own_operation(
    graph: Graph, samples: Path, tmp_path: Path
) -> None:
    found = tools.lower(graph, tmp_path / "out", tools.recipe(), samples, deployment_target="iOS18")
    assert found.ops["constexpr_blockwise_shift_scale"] == len(SIZES)
    # It needs no zero points.
    assert found.tensors_by_dtype["int8"] == sum(SIZES.values())


def test_nothing_else_of_the_program_changes(graph: Graph, light: Artifact, tmp_path: Path) -> None:
    half = coreml_tools.lower(graph, tmp_path / "out", deployment_target="iOS17")
    added = {k: v for k, v in light.ops.items() if half.ops.get(k) != v}
    assert added == {"constexpr_affine_dequantize": len(SIZES)}
    assert set(half.ops) <= set(light.ops)
    mine, theirs = (
        coreml_package.read_spec(coreml_package.package_of(a.files)) for a in (light, half)
    )
    assert mine.description.input == theirs.description.input
    assert mine.description.output == theirs.description.output
    assert mine.specificationVersion == theirs.specificationVersion


# ------------------------------------------------------------------ activations


def test_each_layer_gets_its_treatment(mixed: Artifact) -> None:
    program = tools.opened(mixed)
    assert tools.modules_in(program, "const") == {"depth"}
    assert tools.modules_in(program, "constexpr_affine_dequantize") == set(SIZES) - {"depth"}
    # coremltools has no INT8 product for a transposed convolution: its weight alone is INT8.
    assert tools.paired(program) == {"stem", "mlp.0"}
    assert coreml_ptq.weights_in_int8(program) == sum(SIZES.values()) - SIZES["depth"]
    assert (mixed.ops["quantize"], mixed.ops["dequantize"]) == (2, 2)


@pytest.mark.parametrize("module", ["stem", "mlp.0"])
def test_a_pair_covers_the_values_of_all_samples(mixed: Artifact, module: str) -> None:
    every = [tools.values(tools.Net(), picture)[module] for picture in tools.images(4)]
    low, high = min(map(np.min, every)), max(map(np.max, every))
    assert low < 0 < high
    program = tools.opened(mixed)
    made = {o.name: op for op in program.operations for o in op.outputs}
    weight = tools.unpacked(program, module)
    layer = next(op for op in program.operations if op.inputs.get("weight") == (weight,))
    pair = made[str(layer.inputs["x"][0])]
    scale = float(tools.constant(program, pair.outputs[0].name, "scale"))
    zero = int(tools.constant(program, pair.outputs[0].name, "zero_point"))
    # The least and the largest value get the ends of INT8, as FP16 rounds them.
    assert scale == pytest.approx((high - low) / 255, rel=5e-3)
    assert zero == pytest.approx(-128 - low / scale, abs=1.5)


def test_outputs_stay_near_fp32(graph: Graph, mixed: Artifact) -> None:
    session = coreml.open_session(mixed)
    for picture in tools.images(4):
        want = tools.values(tools.Net(), picture)[""]
        found = session.run({"image": picture})["image_embeddings"]
        assert found.dtype == np.float32
        error = np.linalg.norm(found - want) / np.linalg.norm(want)
        assert 1e-4 < error < 0.03


def test_values_outside_the_ranges_are_clipped(graph: Graph, tmp_path: Path) -> None:
    dark = [picture / 10 for picture in tools.images(2)]
    folder = tools.write(tmp_path / "dark", tools.as_feeds(dark))
    found = tools.lower(graph, tmp_path / "out", tools.recipe("w8a8", **MIXED), folder)
    session = coreml.open_session(found)
    bright = tools.images(1)[0]
    want = tools.values(tools.Net(), bright)[""]
    got = session.run({"image": bright})["image_embeddings"]
    assert np.linalg.norm(got - want) / np.linalg.norm(want) > 0.1


def test_int8_activations_need_ios_17(graph: Graph, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="INT8 activations need iOS 17"):
        tools.lower(
            graph, tmp_path / "out", tools.recipe("w8a8"), samples, deployment_target="iOS16"
        )


def test_int8_activations_need_samples(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="INT8 activations need calibration samples"):
        tools.lower(graph, tmp_path / "out", tools.recipe("w8a8"), tmp_path / "none")


def test_weight_only_int8_needs_no_samples(graph: Graph, tmp_path: Path) -> None:
    found = tools.lower(graph, tmp_path / "out", tools.recipe(), tmp_path / "none")
    assert "quantize" not in found.ops


def test_products_of_two_activations_are_refused(
    graph: Graph, samples: Path, tmp_path: Path
) -> None:
    chosen = replace(tools.recipe("w8a8"), quantize_activation_products=True)
    with pytest.raises(UsageError, match="no INT8 products of two activations"):
        tools.lower(graph, tmp_path / "out", chosen, samples)


# ------------------------------------------------------------------ the whole


@pytest.mark.parametrize("chosen", [tools.recipe(), tools.recipe("w8a8", **MIXED)])
def test_the_same_bytes_every_time(
    graph: Graph, samples: Path, chosen: Int8Recipe, tmp_path: Path
) -> None:
    one, two = (tools.lower(graph, tmp_path / n, chosen, samples) for n in ("one", "two"))
    for mine, theirs in zip(one.files, two.files, strict=True):
        assert mine.read_bytes() == theirs.read_bytes()


def test_no_other_files_are_left(mixed: Artifact) -> None:
    folder = coreml_package.package_of(mixed.files).parent
    assert {p for p in folder.rglob("*") if p.is_file()} == set(mixed.files)
    assert [p.name for p in folder.iterdir()] == ["encoder.mlpackage"]


@pytest.mark.parametrize(("scheme", "dtype"), [("fp16", "float16"), ("fp32", "float32")])
def test_a_component_may_stay_in_floating_point(
    graph: Graph, samples: Path, scheme: str, dtype: str, tmp_path: Path
) -> None:
    found = tools.lower(graph, tmp_path / "out", tools.recipe(scheme), samples)
    assert found.precision == "int8"
    assert {k for k in found.tensors_by_dtype if k.startswith(("float", "int8"))} == {dtype}
    assert not any(kind.startswith("constexpr") for kind in found.ops)


def test_a_recipe_is_needed(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the encoder has no INT8 recipe for Core ML"):
        coreml_tools.lower(graph, tmp_path / "out", "int8")


def test_a_recipe_that_quantizes_nothing_is_refused(
    graph: Graph, samples: Path, tmp_path: Path
) -> None:
    floating: dict[str, Treatment] = {m.replace(".", "_"): "keep_float" for m in SIZES}
    with pytest.raises(CheckFailed, match="the INT8 recipe keeps every layer in floating point"):
        tools.lower(graph, tmp_path / "out", tools.recipe("w8a8", **floating), samples)


def test_other_precisions_ignore_the_recipe(graph: Graph, samples: Path, tmp_path: Path) -> None:
    quantization = Quantization(recipe=tools.recipe(), samples=samples)
    quantized = replace(graph, quantization=quantization)
    assert "int8" not in coreml_tools.lower(quantized, tmp_path / "out").tensors_by_dtype


def test_fp32_operations_of_the_recipe_stay_with_int8(
    graph: Graph, samples: Path, tmp_path: Path
) -> None:
    keep = KeepFp32(
        component="encoder", modules=("mlp",), ops=("gelu",), reason="It grows.", source="a test"
    )
    kept = replace(graph, recipe=(keep,))
    found = tools.lower(kept, tmp_path / "out", tools.recipe("w8a8", **MIXED), samples)
    assert found.ops["gelu float32"] == 1
    assert found.ops["quantize"] == 2


def test_an_image_input(graph: Graph, samples: Path, tmp_path: Path) -> None:
    chosen = tools.recipe("w8a8", **MIXED)
    found = tools.lower(graph, tmp_path / "out", chosen, samples, image_input=True)
    picture = np.rint(tools.images(1)[0])
    want = tools.values(tools.Net(), picture)[""]
    got = coreml.open_session(found).run({"image": picture})["image_embeddings"]
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 0.03


# ------------------------------------------------------------------ the check


def layer(name: str, elements: int, treatment: Treatment) -> Layer:
    return Layer(
        operation=name,
        kind="conv",
        weight=f"{name} weight",
        elements=elements,
        input_name="x",
        treatment=treatment,
    )


def test_weights_that_are_not_int8_are_refused(light: Artifact) -> None:
    wanted = layer("other", sum(SIZES.values()) + 9, "weight_only")
    with pytest.raises(CheckFailed) as raised:
        coreml_ptq.check(tools.opened(light), [wanted])
    assert raised.value.message == (
        "1856 weight elements are INT8 in the saved package, and 1865 in the recipe"
    )


def test_inputs_that_are_not_int8_are_refused(light: Artifact) -> None:
    wanted = layer("other", sum(SIZES.values()), "w8a8")
    with pytest.raises(CheckFailed) as raised:
        coreml_ptq.check(tools.opened(light), [wanted])
    assert raised.value.message == (
        "the input of `other` is not INT8 in the saved package, and INT8 in the recipe"
    )


def test_int8_inputs_outside_the_recipe_are_refused(mixed: Artifact) -> None:
    wanted = layer("other", sum(SIZES.values()) - SIZES["depth"], "weight_only")
    with pytest.raises(CheckFailed, match="is INT8 in the saved package"):
        coreml_ptq.check(tools.opened(mixed), [wanted])


class Patches(nn.Module):
    """A ViT's beginning: convolution, transpose, a position for each patch, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 4, 1)
        self.positions = nn.Parameter(torch.zeros(1, tools.SIDE, tools.SIDE, 4))
        self.mix = nn.Linear(4, 4)
        tools.fill(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.mix(self.proj(image / 255).permute(0, 2, 3, 1) + self.positions)
        found: torch.Tensor = nn.functional.interpolate(x.permute(0, 3, 1, 2), scale_factor=2.0)
        return found


def test_a_patch_embedding_with_positions_can_be_quantized(samples: Path, tmp_path: Path) -> None:
    patches = tools.graph(tmp_path, Patches())
    artifact = tools.lower(patches, tmp_path / "out", tools.recipe(), samples)
    assert tools.modules_in(tools.opened(artifact), "constexpr_affine_dequantize") == {
        "proj",
        "mix",
    }
