"""Treatments by module path, recipes from TOML, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import pytest

from effsam_export import models
from effsam_export.config import int8_recipe
from effsam_export.errors import UsageError
from effsam_export.precision.select import CLASSES, SCOPES
from effsam_export.quantize.treatments import treatments
from effsam_export.spec.int8 import Equalization, Int8Recipe, LayerOverride

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.int8 import Treatment


def entry(*modules: str, treatment: Treatment = "keep_float") -> LayerOverride:
    return LayerOverride(modules=modules, treatment=treatment, reason="measured")


def test_an_override_includes_modules_inside_its_modules() -> None:
    recipe = Int8Recipe(
        scheme="w8a8", overrides=(entry("a.b"), entry("a.*", treatment="weight_only"))
    )
    assert recipe.treatment(["", "a", "a.b", "a.b.c"]) == "keep_float"
    assert recipe.treatment(["", "a", "a.d"]) == "weight_only"
    assert recipe.treatment(["", "x"]) == "w8a8"


def test_a_scheme_that_does_not_quantize_keeps_all_layers_in_float() -> None:
    assert Int8Recipe(scheme="fp16").treatment(["a"]) == "keep_float"
    assert not Int8Recipe(scheme="fp32").quantizes
    assert Int8Recipe(scheme="weight_only").treatment(["a"]) == "weight_only"


def noted(kind: str, name: str, module: str, weight: str) -> onnx.NodeProto:
    """A node with the exporter's notes on where it comes from."""
    node = onnx.helper.make_node(kind, ["x", weight], [f"{name}_out"], name=name)
    notes = {SCOPES: repr(["", module, name]), CLASSES: repr(["M", "N", "aten.linear.default"])}
    for key, value in notes.items():
        node.metadata_props.add(key=key, value=value)
    return node


def graph() -> onnx.ModelProto:
    nodes = [
        noted("MatMul", "m1", "block.fc", "w"),
        noted("MatMul", "m2", "block.attn", "y"),
        noted("Conv", "c1", "stem", "k"),
    ]
    inits = [onnx.helper.make_tensor(n, 1, [1, 1], [1.0]) for n in ("w", "k")]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], inits))


@pytest.mark.parametrize("products", [False, True])
def test_a_product_with_a_matrix_for_each_row_is_not_a_layer(products: bool) -> None:
    model = graph()
    model.graph.initializer[0].CopyFrom(onnx.helper.make_tensor("w", 1, [2, 1, 1], [1.0, 2.0]))
    assert "m1" not in treatments(
        model, Int8Recipe(scheme="w8a8", quantize_activation_products=products)
    )


def test_nodes_with_weights_get_the_treatment_of_their_module() -> None:
    recipe = Int8Recipe(scheme="w8a8", overrides=(entry("stem"),))
    assert treatments(graph(), recipe) == {"m1": "w8a8", "c1": "keep_float"}


def test_quantize_activation_products_includes_products() -> None:
    found = treatments(graph(), Int8Recipe(scheme="w8a8", quantize_activation_products=True))
    assert found == {"m1": "w8a8", "m2": "w8a8", "c1": "w8a8"}


def test_patterns_that_match_nothing_are_refused_together() -> None:
    recipe = Int8Recipe(scheme="w8a8", overrides=(entry("stem", "gone"), entry("blok.*")))
    with pytest.raises(UsageError) as caught:
        treatments(graph(), recipe)
    assert caught.value.message.endswith("without a layer with weights: gone, blok.*")


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_every_model_has_recipes_for_every_backend(name: str) -> None:
    plan = int8_recipe.load(name)
    spec = models.get(name)
    first = spec.components[0].name
    assert plan.recipe(first, "openvino").quantizes
    if not spec.finds_instances:
        assert plan.recipe("decoder", "onnx").scheme == "fp16"
    assert bool(plan.measured) == (name == "mobile-sam")


FILE = """
measured = "here"
[encoder.default]
scheme = "w8a8"
overrides = [
  { modules = ["a.*"], treatment = "weight_only", reason = "tails", source = "benchmarks" },
  { modules = ["b"], treatment = "keep_float", reason = "small" },
]
[encoder.coreml]
scheme = "weight_only"
method = "mse"
"""


def load(folder: Path, text: str) -> int8_recipe.Int8Plan:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8")
    return int8_recipe.load("mobile-sam", path)


def test_components_that_a_file_leaves_out_stay_in_fp16(tmp_path: Path) -> None:
    plan = load(tmp_path, FILE)
    assert plan.recipe("encoder", "openvino").overrides[0] == LayerOverride(
        modules=("a.*",), treatment="weight_only", reason="tails", source="benchmarks"
    )
    assert plan.recipe("encoder", "coreml") == Int8Recipe(scheme="weight_only", method="mse")
    assert plan.recipe("decoder", "openvino") == Int8Recipe(scheme="fp16")


def test_a_written_recipe_is_read_back(tmp_path: Path) -> None:
    plan = load(tmp_path, FILE)
    wanted = {
        "encoder": plan.recipe("encoder", "openvino"),
        "decoder": Int8Recipe(
            scheme="w8a8", method="percentile", quantize_activation_products=True
        ),
    }
    pair = Equalization(norm="mlp.norm", layer="mlp.fc1", alpha=0.5)
    values = Equalization(values="attn.qkv", layer="attn.proj", alpha=0.0)
    wanted["segmenter"] = Int8Recipe(
        scheme="weight_only", rounding="coordinate-descent", equalize=(pair, values)
    )
    text = int8_recipe.to_toml('a "quoted" result', wanted, checkpoint="12ab", image_size="512")
    again = load(tmp_path, text)
    assert again.measured == 'a "quoted" result'
    assert (again.checkpoint, again.image_size) == ("12ab", "512")
    for component, recipe in wanted.items():
        assert again.recipe(component, "tflite") == recipe


def test_all_faults_of_a_file_are_in_one_error(tmp_path: Path) -> None:
    text = """
[encodr.default]
scheme = "weight_only"
[encoder.opnvino]
scheme = "weight_only"
[encoder.default]
scheme = "w4"
method = "best"
rounding = "up"
equalize = [{ norm = "a", layer = "b", alpha = 2 }, { norm = "a", alpha = 0.5 },
  { norm = "a", values = "b", layer = "c", alpha = 0.5 }]
overrides = [{ modules = [], treatment = "int4", reason = "x" }]
[decoder.default]
schema = "weight_only"
"""
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    for part in (
        "`encodr` is not a table called",
        "no backend is called `opnvino`",
        "`encoder.default.scheme` is `w4`",
        "`encoder.default.method` is `best`",
        "`encoder.default.rounding` is `up`, want one of nearest, coordinate-descent",
        "`encoder.default.equalize.alpha` is 2, want 0 to 1",
        "`encoder.default.equalize.layer` is missing",
        "unknown key `encoder.default.equalize.norm`",
        "`encoder.default.overrides.treatment` is `int4`",
        "`decoder.default.scheme` is missing",
        "decoder.default.schema",
    ):
        assert part in caught.value.message


@pytest.mark.parametrize("modules", ["[]", "[1]"])
def test_an_override_without_modules_is_refused(tmp_path: Path, modules: str) -> None:
    text = FILE.replace('["b"]', modules)
    with pytest.raises(UsageError, match="wants names, at least one"):
        load(tmp_path, text)


def test_an_empty_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it quantizes nothing"):
        load(tmp_path, "")
    with pytest.raises(UsageError, match="does not exist"):
        int8_recipe.load("mobile-sam", tmp_path / "no.toml")


def test_a_recipe_is_described_in_one_line() -> None:
    recipe = Int8Recipe(scheme="w8a8", overrides=(entry("a"), entry("b", treatment="weight_only")))
    assert int8_recipe.describe(recipe) == (
        "INT8 weights and activations; minmax ranges; weights only in b; FP16 in a"
    )
    pair = Equalization(norm="norm", layer="fc", alpha=0.5)
    assert int8_recipe.describe(
        Int8Recipe(scheme="weight_only", rounding="coordinate-descent", equalize=(pair,))
    ) == ("INT8 weights only; weights rounded by coordinate descent; inputs of fc equalized")
    assert int8_recipe.describe(Int8Recipe(scheme="weight_only")) == "INT8 weights only"
    assert int8_recipe.describe(Int8Recipe(scheme="fp16")) == "stays in FP16"


def test_an_override_that_is_not_recursive_excludes_inner_modules() -> None:
    entry = LayerOverride(modules=("a.b",), treatment="keep_float", reason="r", recursive=False)
    recipe = Int8Recipe(scheme="w8a8", overrides=(entry,))
    assert recipe.treatment(("", "a", "a.b")) == "keep_float"
    assert recipe.treatment(("", "a", "a.b", "a.b.fc")) == "w8a8"
    assert recipe.unmatched_patterns([("", "a", "a.b", "a.b.fc")]) == ["a.b"]
    assert recipe.unmatched_patterns([("", "a", "a.b")]) == []


def test_an_override_that_is_not_recursive_is_read_back_as_written(tmp_path: Path) -> None:
    entry = LayerOverride(
        modules=("a",), treatment="weight_only", reason="r", source="s", recursive=False
    )
    recipe = Int8Recipe(scheme="w8a8", overrides=(entry,))
    path = tmp_path / "r.toml"
    path.write_text(int8_recipe.to_toml("m", {"encoder": recipe}), "utf-8")
    assert int8_recipe.load("x", path).recipe("encoder", "onnx") == recipe


def test_keys_and_values_of_earlier_versions_are_named_with_the_new_ones(tmp_path: Path) -> None:
    text = """
[encoder.default]
scheme = "w8"
rounding = "descent"
everything = true
equalize = [{ norm = "a", layer = "b", strength = 0.5 }]
exceptions = [
  { modules = ["a"], treatment = "float", alone = true, reason = "x" },
  { modules = ["b"], treatment = "w8", alone = false, reason = "x" },
]
"""
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    where = "`encoder.default"
    assert caught.value.message.removeprefix("INT8 recipe `mine.toml`: ").split("; ", 6) == [
        f"{where}.exceptions` is now `overrides`",
        f"{where}.everything` is now `quantize_activation_products`",
        f'{where}.scheme = "w8"` is now `"weight_only"`',
        f'{where}.rounding = "descent"` is now `"coordinate-descent"`',
        f"{where}.equalize.strength` is now `alpha`",
        f"{where}.overrides.alone = true` is now `recursive = false`",
        f'{where}.overrides.treatment = "float"` is now `"keep_float"`; '
        f"{where}.overrides.alone = false` is now the default; leave it out; "
        f'{where}.overrides.treatment = "w8"` is now `"weight_only"`',
    ]
