"""Manifest version 4: its schema, and the golden file that keeps it from changing by accident."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from effsam_export.bundle import contract, read
from effsam_export.bundle import manifest as m
from effsam_export.bundle.readme import readme_text, shipped_paths
from effsam_export.errors import BundleError
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).resolve().parent / "manifest-v4.json"
pytestmark = pytest.mark.backend


@pytest.fixture
def manifest(exported_tiny: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((exported_tiny / "manifest.json").read_text("utf-8"))
    return document


def stable(document: dict[str, Any]) -> dict[str, Any]:
    """A manifest without what a new toolchain or machine may change."""
    kept = deepcopy(document)
    kept["tools"] = dict.fromkeys(kept["tools"], "")
    kept["checkpoint"].update(sha256="0" * 64, weights_sha256="0" * 64)
    kept["target"]["profile_sha256"] = "0" * 64
    for entry in kept["files"]:
        entry.update(sha256="0" * 64, size=0)
    for figure in ("min_mask_iou", "mean_mask_iou", "max_score_error"):
        kept["parity"][figure] = 0.0
    for component in kept["components"]:
        component["rewrites"] = []
        kept["precision"]["elements_by_dtype"][component["name"]] = {}
        kept["precision"]["ops_by_type"][component["name"]] = {}
    return kept


def test_the_schema_is_a_schema() -> None:
    jsonschema_rs.meta.validate(m.schema())


def undescribed(schema: dict[str, Any], path: str) -> list[str]:
    """Paths of the keys, list items and map values that a schema does not describe."""
    inner = [(f"{path}.{key}", value) for key, value in schema.get("properties", {}).items()]
    for key, mark in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(key), dict):
            inner.append((path + mark, schema[key]))
    missing = [p for p, value in inner if not value.get("description")]
    missing += [m for p, value in inner for m in undescribed(value, p)]
    return missing + [m for option in schema.get("anyOf", []) for m in undescribed(option, path)]


def test_the_schema_describes_every_key() -> None:
    """The reference page of the manifest is generated from these descriptions."""
    assert undescribed(m.schema(), "$") == []
    assert "$.precision.asked" in undescribed(m.schema(3), "$")


def test_version_4_has_not_changed(manifest: dict[str, Any]) -> None:
    """A difference here is a new optional key, a new manifest version, or a bug."""
    assert stable(manifest) == json.loads(GOLDEN.read_text("utf-8"))


def test_keys_are_written_in_order(exported_tiny: Path, manifest: dict[str, Any]) -> None:
    text = (exported_tiny / "manifest.json").read_text("utf-8")
    assert text == json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_a_written_manifest_is_valid(manifest: dict[str, Any]) -> None:
    m.validate(manifest)


def put(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    """A change that sets one place of a manifest."""

    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (put("state", value="certified"), "$.state"),
        (put("parity", "passed", value=False), "$.parity.passed"),
        (put("files", 0, "path", value="../../etc/passwd"), "$.files[0].path"),
        (put("files", 0, "path", value="/etc/passwd"), "$.files[0].path"),
        (put("components", 0, "files", value=["a/../../b"]), "$.components[0].files[0]"),
        (put("components", 0, "source", value="..\\b"), "$.components[0].source"),
        (put("components", value=[]), "$.components"),
        (put("checkpoint", "sha256", value="beef"), "$.checkpoint.sha256"),
        (put("masks", "threshold", value="zero"), "$.masks.threshold"),
        (put("prompts", "labels", "padding", value=4), "$.prompts.labels.padding"),
        (put("unheard_of", value=1), "$: Additional properties"),
        (lambda d: d.pop("prompts"), '$: "prompts" is a required property'),
    ],
)
def test_a_broken_manifest_is_refused_with_the_path_of_the_fault(
    manifest: dict[str, Any], change: Callable[[dict[str, Any]], None], where: str
) -> None:
    change(manifest)
    with pytest.raises(BundleError) as refused:
        m.validate(manifest)
    assert where in refused.value.message


def test_all_faults_are_named_together(manifest: dict[str, Any]) -> None:
    manifest["state"] = "certified"
    manifest["gates"] = {}
    with pytest.raises(BundleError) as refused:
        m.validate(manifest)
    assert "$.state" in refused.value.message
    assert "$.gates" in refused.value.message


def test_a_newer_manifest_asks_for_a_newer_tool(manifest: dict[str, Any]) -> None:
    manifest["manifest_version"] = 5
    with pytest.raises(BundleError) as refused:
        m.validate(manifest)
    assert refused.value.message == "the bundle's manifest is version 5, this effsam reads 3 and 4"
    assert refused.value.hint == "upgrade effsam-export"


def test_an_older_manifest_asks_for_a_new_export(manifest: dict[str, Any]) -> None:
    manifest["manifest_version"] = 1
    with pytest.raises(BundleError) as refused:
        m.validate(manifest)
    assert refused.value.message == "the bundle's manifest is version 1, this effsam reads 3 and 4"
    assert refused.value.hint == "export it again"


def nested(depth: int) -> list[Any]:
    """Lists in lists."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize("document", [None, [], "text", 3, {}, "\ud800", nested(2000)])
def test_json_that_is_no_manifest(document: object) -> None:
    with pytest.raises(BundleError):
        m.validate(document)


def test_the_readme_agrees_with_the_manifest(manifest: dict[str, Any]) -> None:
    page = readme_text(manifest)
    for component in manifest["components"]:
        for tensor in [*component["inputs"], *component["outputs"]]:
            assert f"`{tensor['name']}` {tensor['dtype']}" in page
    assert "123.675, 116.28, 103.53" in page
    assert "logit > 0" in page
    assert "one point more comes after the others: (0, 0) with label -1." in page
    assert "[prompts, points, 2]" in page


def test_artifact_and_source_are_one_file_where_they_are_equal(exported_tiny: Path) -> None:
    bundle = read.read(exported_tiny)
    for name in bundle.components:
        assert bundle.source(name) == bundle.artifact(name).files[0]
    assert not (exported_tiny / "source").exists()


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["encoder.onnx", "encoder.onnx.data"], ["encoder.onnx", "encoder.onnx.data"]),
        (
            ["a.mlpackage/Manifest.json", "a.mlpackage/Data/model.mlmodel", "b.json"],
            ["a.mlpackage", "b.json"],
        ),
    ],
)
def test_a_package_folder_is_one_thing_to_ship(files: list[str], wanted: list[str]) -> None:
    assert shipped_paths(files) == wanted


def test_a_simulator_is_named_to_the_integrator(manifest: dict[str, Any]) -> None:
    assert "State: **verified**." in readme_text(manifest)
    manifest.update(state="simulated", simulator="a pocket calculator")
    assert "State: **simulated, by a pocket calculator**." in readme_text(manifest)


def test_the_readme_of_a_tensorrt_bundle_names_the_kit(manifest: dict[str, Any]) -> None:
    assert "kit/build_engine.py" not in readme_text(manifest)
    manifest["target"]["backend"] = "tensorrt"
    assert "`python3 kit/build_engine.py`" in readme_text(manifest)


def test_the_readme_names_the_session_option_for_int8(manifest: dict[str, Any]) -> None:
    entry = "`session.x64quantprecision` = `1`"
    assert entry not in readme_text(manifest)
    manifest["precision"]["requested"] = "int8"
    assert entry in readme_text(manifest)
    manifest["target"]["backend"] = "openvino"
    assert entry not in readme_text(manifest)


def test_an_image_input_of_core_ml_is_described_as_a_picture() -> None:
    """Core ML rounds what it gets, so the contract is not that of a float tensor."""
    encoder = TINY_SAM.component("encoder")
    (image,) = encoder.inputs
    assert contract.tensors(encoder, {"image_input": True})["inputs"][0] == {
        "name": "image",
        "dtype": "uint8",
        "shape": [1024, 1024, 3],
        "description": f"picture: {image.description}, rounded to whole numbers",
    }


def test_files_that_no_second_export_repeats_are_named() -> None:
    from effsam_export.bundle.write import ENGINE_REASON, TIMES_REASON, nondeterministic_files

    graphs = {"components": [{"files": ["encoder.onnx"]}, {"files": ["decoder.onnx"]}]}
    assert nondeterministic_files(graphs, timed=False) == {}
    assert nondeterministic_files(graphs, timed=True) == {"report.html": TIMES_REASON}
    engines = {"components": [{"files": ["encoder.engine", "encoder.layers.json"]}]}
    assert nondeterministic_files(engines, timed=True) == {
        "report.html": TIMES_REASON,
        "bom.cdx.json": "holds the hash of the engines",
        "encoder.engine": ENGINE_REASON,
    }
