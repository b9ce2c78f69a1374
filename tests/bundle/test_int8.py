"""The `int8` entry of a manifest: what an INT8 export did, read back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from effsam_export.bundle import int8, manifest
from effsam_export.calibration.images import CalibrationImages
from effsam_export.calibration.samples import Calibration
from effsam_export.config.calibration import CalibrationRecipe
from effsam_export.spec.int8 import Equalization, Int8Recipe, LayerOverride

RECIPE = Int8Recipe(
    scheme="w8a8",
    method="percentile",
    rounding="coordinate-descent",
    equalize=(
        Equalization(norm="mlp.norm", layer="mlp.fc1", alpha=0.0),
        Equalization(values="attn.qkv", layer="attn.proj", alpha=0.85),
    ),
    overrides=(
        LayerOverride(modules=("a", "b.*"), treatment="weight_only", reason="why", recursive=False),
    ),
)
CALIBRATION = Calibration(
    images=CalibrationImages(
        recipe=CalibrationRecipe(name="mine", images=(Path("a.jpg"),), num_samples=5),
        sha256=("0" * 64,),
        arrays=(),
        ranges=((0, 4095),),
    ),
    folder=Path("unused"),
    threads=3,
)


def faults(entry: dict[str, Any]) -> list[str]:
    """What the schema has against an `int8` entry."""
    schema = manifest.schema()["properties"]["int8"]
    found = jsonschema_rs.Draft202012Validator(schema).iter_errors(entry)
    return [e.message for e in found]


def test_a_recipe_is_read_back_as_it_was() -> None:
    entry = int8.document({"encoder": RECIPE}, CALIBRATION)
    assert faults(entry) == []
    assert int8.plan(entry).recipe("encoder", "onnx") == RECIPE
    assert entry["calibration"]["threads"] == 3
    assert entry["components"]["encoder"]["equalize"][1] == {
        "values": "attn.qkv",
        "layer": "attn.proj",
        "alpha": 0.85,
    }
    (override,) = entry["components"]["encoder"]["overrides"]
    assert (override["treatment"], override["recursive"]) == ("weight_only", False)


def test_a_search_is_an_open_document_with_required_keys() -> None:
    search = {
        "optimize": "size",
        "component": "encoder",
        "complete": True,
        "gates_met": True,
        "aim_met": False,
        "steps": [{"predicted_db": 31.0}],
        "layers": [],
        "later": "key",
    }
    entry = int8.document({"encoder": RECIPE}, CALIBRATION, search)
    assert faults(entry) == []
    assert int8.document({"encoder": RECIPE}, CALIBRATION) == {
        key: value for key, value in entry.items() if key != "search"
    }
    for key in ("optimize", "complete", "gates_met", "layers"):
        less = {k: v for k, v in search.items() if k != key}
        assert faults({**entry, "search": less})
    assert faults({**entry, "search": {**search, "optimize": "speed"}})


@pytest.mark.parametrize(
    "pair",
    [
        {"layer": "b", "alpha": 0.5},
        {"norm": "a", "values": "a", "layer": "b", "alpha": 0.5},
        {"norm": "a", "layer": "b"},
    ],
)
def test_a_pair_has_one_source_and_a_layer(pair: dict[str, Any]) -> None:
    entry = int8.document({"encoder": RECIPE}, CALIBRATION)
    entry["components"]["encoder"]["equalize"] = [pair]
    assert len(faults(entry)) == 1


def test_a_bundle_without_the_number_of_threads_is_read() -> None:
    entry = int8.document({"encoder": RECIPE}, CALIBRATION)
    del entry["calibration"]["threads"]
    assert faults(entry) == []
    entry["calibration"]["threads"] = 0
    assert len(faults(entry)) == 1
