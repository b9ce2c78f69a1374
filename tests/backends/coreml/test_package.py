"""Packages with equal contents have equal bytes."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")

from effsam_export.backends.coreml import package as coreml_package
from effsam_export.backends.coreml import sdk as coreml_sdk
from effsam_export.backends.coreml.convert import Conversion, save
from effsam_export.errors import BundleError
from effsam_export.spec.tensors import TensorSpec
from tests.backends.coreml import tools

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.backend

TENSORS = (*tools.decoder(4).inputs, *tools.decoder(4).outputs)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package as coremltools saves it."""
    folder = tmp_path_factory.mktemp("raw")
    program = tools.decoder_graph(folder).program
    assert program is not None
    conversion = Conversion(
        component=tools.decoder(4),
        precision="fp16",
        deployment_target="iOS16",
        image_input=False,
        recipe=(),
    )
    save(program, conversion, folder / "decoder.mlpackage")
    return folder / "decoder.mlpackage"


@pytest.fixture
def package(raw: Path, tmp_path: Path) -> Path:
    return shutil.copytree(raw, tmp_path / raw.name)


def normalise(package: Path, **about: str) -> None:
    coreml_package.normalise(package, tensors=TENSORS, description="tiny", about=about)


def test_coremltools_writes_dates_and_a_debug_file(raw: Path) -> None:
    """If this fails, coremltools has changed and a part of the module is not needed."""
    assert coreml_package.DATE in coreml_package.read_spec(raw).description.metadata.userDefined
    assert (raw / coreml_package.DEBUG_HANDLES).is_file()


def test_both_dates_are_removed(package: Path) -> None:
    normalise(package)
    spec = coreml_package.read_spec(package)
    kept = spec.description.metadata.userDefined
    assert coreml_package.DATE not in kept
    assert kept["com.github.apple.coremltools.version"]
    assert b"conversion_date" not in (package / coreml_package.MODEL).read_bytes()


def test_build_info_is_sorted(package: Path) -> None:
    normalise(package)
    info = coreml_package.read_spec(package).mlProgram.attributes["buildInfo"]
    keys = [
        e.key.immediateValue.tensor.strings.values[0] for e in info.immediateValue.dictionary.values
    ]
    assert keys == sorted(keys)
    assert len(keys) >= 2


def test_debug_file_is_removed(package: Path) -> None:
    normalise(package)
    assert not (package / coreml_package.DEBUG_HANDLES).exists()


def test_files_are_readable_by_all(package: Path) -> None:
    normalise(package)
    assert {oct(f.stat().st_mode & 0o777) for f in coreml_package.files_of(package)} == {"0o644"}


def test_item_names_are_uuids(package: Path) -> None:
    normalise(package)
    manifest = json.loads((package / "Manifest.json").read_text("utf-8"))
    items = manifest["itemInfoEntries"]
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) for name in items)
    assert items[manifest["rootModelIdentifier"]]["name"] == "model.mlmodel"
    assert sorted(i["name"] for i in items.values()) == ["model.mlmodel", "weights"]
    assert all((package / "Data" / i["path"]).exists() for i in items.values())


def test_coremltools_still_opens_it(package: Path) -> None:
    normalise(package)
    from coremltools.libmodelpackage import ModelPackage

    assert ModelPackage.isValid(str(package))
    spec = coreml_sdk.load().utils.load_spec(str(package))
    assert [f.name for f in spec.description.output] == ["masks", "iou"]


def test_item_names_depend_on_the_contents(package: Path, raw: Path, tmp_path: Path) -> None:
    other = shutil.copytree(raw, tmp_path / "other.mlpackage")
    normalise(package, version="1")
    normalise(other, version="2")
    one, two = (
        {i["name"]: name for name, i in json.loads(text)["itemInfoEntries"].items()}
        for text in ((p / "Manifest.json").read_text("utf-8") for p in (package, other))
    )
    assert one["weights"] == two["weights"]
    assert one["model.mlmodel"] != two["model.mlmodel"]


def test_a_second_call_changes_nothing(package: Path) -> None:
    normalise(package, version="1")
    before = [f.read_bytes() for f in coreml_package.files_of(package)]
    normalise(package, version="1")
    assert [f.read_bytes() for f in coreml_package.files_of(package)] == before


def test_tensor_without_a_description_raises(package: Path) -> None:
    strangers = (TensorSpec(name="pixels", shape=(1,)),)
    with pytest.raises(KeyError, match="point_coords"):
        coreml_package.normalise(package, tensors=strangers, description="tiny", about={})


def test_package_of_files(tmp_path: Path) -> None:
    manifest = tmp_path / "a.mlpackage" / "Manifest.json"
    assert coreml_package.package_of((manifest, tmp_path / "b")) == manifest.parent


@pytest.mark.parametrize("names", [(), ("encoder.onnx",)], ids=["none", "another format"])
def test_files_without_a_manifest_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        coreml_package.package_of(tuple(tmp_path / n for n in names))
    assert caught.value.message == "a Core ML artefact has no package manifest"
