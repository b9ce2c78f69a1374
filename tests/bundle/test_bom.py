"""The bill of materials: valid by its standard's own schema, and the same for the same bundle."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export import __version__
from effsam_export.bundle import bom
from effsam_export.errors import ToolchainMissing
from tests.bundle import fake

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("cyclonedx")


@pytest.fixture
def manifest(tmp_path: Path) -> dict[str, Any]:
    found = fake.manifest_of(fake.write(tmp_path / "tiny"))
    found["tools"] = {"effsam-export": __version__, "torch": "2.13.0"}
    return found


def test_it_is_valid_cyclonedx(manifest: dict[str, Any]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(bom.text(manifest)) is None
    broken = bom.text(manifest).replace('"machine-learning-model"', '"model"')
    assert validator.validate_str(broken) is not None


def test_it_names_the_model_the_weights_and_the_tools(manifest: dict[str, Any]) -> None:
    found = json.loads(bom.text(manifest))
    model = found["metadata"]["component"]
    assert (model["name"], model["type"]) == ("tiny-sam", "machine-learning-model")
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    properties = {p["name"]: p["value"] for p in model["properties"]}
    assert properties["effsam:target"] == "onnx"
    assert properties["effsam:state"] == "verified"
    assert "effsam:simulator" not in properties
    hashes = {c["name"]: c["hashes"][0]["content"] for c in found["components"]}
    listed = {e["path"]: e["sha256"] for e in manifest["files"] if e["role"] in bom.SHIPPED}
    checkpoint = manifest["checkpoint"]
    assert hashes == {checkpoint["file_name"]: checkpoint["sha256"], **listed}
    tools = {t["name"]: t["version"] for t in found["metadata"]["tools"]["components"]}
    assert tools == manifest["tools"]


def test_each_file_depends_on_the_weights(manifest: dict[str, Any]) -> None:
    found = json.loads(bom.text(manifest))
    needs = {d["ref"]: d.get("dependsOn", []) for d in found["dependencies"]}
    assert needs["file:encoder.onnx"] == ["checkpoint"]
    assert needs["model"] == sorted(n for n in needs if n.startswith("file:"))


def test_nothing_in_it_is_random_or_a_time(manifest: dict[str, Any]) -> None:
    text = bom.text(manifest)
    assert text == bom.text(manifest)
    assert "timestamp" not in text
    # Where an export measures times, its report is another one each time.
    report = next(e for e in manifest["files"] if e["path"] == "report.html")
    report["sha256"] = "f" * 64
    assert text == bom.text(manifest)


def test_other_weights_have_another_number(manifest: dict[str, Any]) -> None:
    first = json.loads(bom.text(manifest))["serialNumber"]
    manifest["checkpoint"]["sha256"] = "f" * 64
    assert json.loads(bom.text(manifest))["serialNumber"] != first


@pytest.mark.parametrize("spdx", ["LicenseRef-S-Lab-1.0", "NOASSERTION"])
def test_a_licence_outside_the_list_is_named(manifest: dict[str, Any], spdx: str) -> None:
    manifest["model"]["licence"]["spdx"] = spdx
    model = json.loads(bom.text(manifest))["metadata"]["component"]
    assert model["licenses"] == [{"license": {"name": spdx}}]


def test_the_library_is_missing(manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx.model", None)
    with pytest.raises(ToolchainMissing, match="`cyclonedx-python-lib`"):
        bom.text(manifest)
