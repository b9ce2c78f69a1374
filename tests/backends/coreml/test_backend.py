"""The Core ML backend on a tiny program: contents and results of the package."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")
import torch

from effsam_export import __version__
from effsam_export.backends.coreml import backend as coreml
from effsam_export.backends.coreml import package as coreml_package
from effsam_export.backends.coreml import receipt as coreml_receipt
from effsam_export.backends.coreml.convert import Origin
from effsam_export.backends.coreml.mil import read
from effsam_export.backends.coreml.precision import Fp32Nodes
from effsam_export.errors import CheckFailed, EffsamError, UnknownNameError, UsageError
from effsam_export.spec.model import KeepFp32
from tests.backends.coreml import tools

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import Precision

pytestmark = pytest.mark.backend

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-2}
every_precision = pytest.mark.parametrize("precision", PRECISIONS)

NORM = KeepFp32(
    component="decoder", modules=("norm",), reason="It squares.", source="made up for tests"
)
HEAD = KeepFp32(
    component="decoder",
    modules=("head", "head.*"),
    ops=("linear",),
    reason="It adds up.",
    source="made up for tests",
)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return tools.decoder_graph(tmp_path_factory.mktemp("program"))


# ------------------------------------------------------------------ the artefact


@every_precision
def test_fields_of_the_artifact(graph: Graph, precision: Precision, tmp_path: Path) -> None:
    artifact = tools.lower(graph, tmp_path / "out", precision)
    assert (artifact.component, artifact.backend) == ("decoder", "coreml")
    assert artifact.precision == precision
    assert artifact.options == tools.target(precision).options
    assert set(artifact.versions) == {"coremltools"}
    assert all(artifact.versions.values())


def test_files_are_all_of_the_package_the_manifest_first(graph: Graph, tmp_path: Path) -> None:
    files = tools.lower(graph, tmp_path / "out").files
    assert [f.relative_to(tmp_path / "out").as_posix() for f in files] == [
        "decoder.mlpackage/Manifest.json",
        "decoder.mlpackage/Data/com.apple.CoreML/model.mlmodel",
        "decoder.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
    ]
    assert set(files) == {p for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert coreml_package.package_of(files) == tmp_path / "out/decoder.mlpackage"


@every_precision
def test_numbers_names_and_dtypes(graph: Graph, precision: Precision, tmp_path: Path) -> None:
    session = coreml.open_session(tools.lower(graph, tmp_path / "out", precision))
    found = session.run(tools.as_arrays(tools.decoder_feeds(4)))
    assert list(found) == ["masks", "iou"]
    with torch.inference_mode():
        wanted = tools.Decoder().eval()(*tools.decoder_feeds(4).values())
    for value, want in zip(found.values(), wanted, strict=True):
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, want.numpy(), atol=TOLERANCE[precision])


@every_precision
def test_contract_of_the_saved_file(graph: Graph, precision: Precision, tmp_path: Path) -> None:
    artifact = tools.lower(graph, tmp_path / "out", precision)
    program = read.load(coreml_package.package_of(artifact.files))
    assert [(f.name, str(f.type)) for f in program.inputs] == [
        ("point_coords", "float32 [1, 4, 2]"),
        ("point_labels", "float32 [1, 4]"),
    ]
    assert [(f.name, str(f.type)) for f in program.outputs] == [
        ("masks", f"float32 [1, {tools.MASKS}]"),
        ("iou", "float32 [1]"),
    ]


@pytest.mark.parametrize(
    ("system", "version", "opset"),
    [("iOS16", 7, "CoreML6"), ("iOS17", 8, "CoreML7"), ("iOS18", 9, "CoreML8")],
)
def test_oldest_system(graph: Graph, system: str, version: int, opset: str, tmp_path: Path) -> None:
    artifact = tools.lower(graph, tmp_path / "out", deployment_target=system)
    package = coreml_package.package_of(artifact.files)
    assert coreml_package.read_spec(package).specificationVersion == version
    assert read.load(package).opset == opset


@every_precision
def test_equal_bytes_every_time(graph: Graph, precision: Precision, tmp_path: Path) -> None:
    one, two = (tools.lower(graph, tmp_path / name, precision) for name in ("one", "two"))
    assert [f.read_bytes() for f in one.files] == [f.read_bytes() for f in two.files]


def test_the_traced_program_is_not_changed(graph: Graph, tmp_path: Path) -> None:
    assert graph.program is not None
    before = graph.program.read_bytes()
    tools.lower(graph, tmp_path / "out")
    assert graph.program.read_bytes() == before


def test_terminal_stays_quiet(
    graph: Graph, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tools.lower(graph, tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_simulator_is_named_without_core_ml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert coreml.simulator({}) == "an evaluator of the saved ML program"
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert coreml.simulator({}) == ""


# ------------------------------------------------------------------ what Xcode shows


def test_metadata(tmp_path: Path) -> None:
    facts = {
        "model": "tiny-sam",
        "title": "Tiny SAM",
        "origin": "https://example.org/tiny",
        "licence": "Apache-2.0",
        "checkpoint_sha256": "ab" * 32,
        "contract_version": "3",
    }
    graph = tools.decoder_graph(tmp_path, recipe=(NORM,), about=facts)
    artifact = tools.lower(graph, tmp_path / "out")
    shown = coreml_package.read_spec(coreml_package.package_of(artifact.files)).description
    assert shown.metadata.shortDescription == "Tiny SAM: decoder, fp16"
    assert shown.metadata.author == "https://example.org/tiny"
    assert shown.metadata.license == "Apache-2.0"
    assert shown.metadata.versionString == __version__
    ours = {k: v for k, v in shown.metadata.userDefined.items() if k.startswith("effsam.")}
    assert ours == {
        **{f"effsam.{k}": v for k, v in facts.items()},
        "effsam.version": __version__,
        "effsam.component": "decoder",
        "effsam.precision": "fp16",
        "effsam.kept_fp32": "`norm` of the decoder",
        "effsam.target": "coreml",
    }


def test_metadata_without_facts_on_the_model(graph: Graph, tmp_path: Path) -> None:
    artifact = tools.lower(graph, tmp_path / "out", "fp32")
    shown = coreml_package.read_spec(coreml_package.package_of(artifact.files)).description.metadata
    assert shown.shortDescription == "Segment Anything: decoder, fp32"
    assert (shown.author, shown.license) == ("", "")
    assert shown.userDefined["effsam.kept_fp32"] == ""


def test_descriptions_of_inputs_and_outputs(graph: Graph, tmp_path: Path) -> None:
    artifact = tools.lower(graph, tmp_path / "out")
    shown = coreml_package.read_spec(coreml_package.package_of(artifact.files)).description
    assert {f.name: f.shortDescription for f in [*shown.input, *shown.output]} == {
        "point_coords": "(x, y) in pixels",
        "point_labels": "1 foreground",
        "masks": "logits",
        "iou": "predicted quality",
    }


# ------------------------------------------------------------------ precision


def in_fp32(artifact_files: tuple[Path, ...]) -> dict[str, int]:
    """Return the kinds of operations with a float32 result, without casts and constants."""
    program = read.load(coreml_package.package_of(artifact_files))
    kinds = [
        op.kind
        for op in program.operations
        if op.kind not in ("const", "cast") and op.outputs[0].type.dtype == "float32"
    ]
    return {k: kinds.count(k) for k in kinds}


def test_fp16_computes_nothing_in_fp32(graph: Graph, tmp_path: Path) -> None:
    artifact = tools.lower(graph, tmp_path / "out")
    assert in_fp32(artifact.files) == {}
    assert artifact.tensors_by_dtype["float16"] > tools.WIDTH * tools.MASKS
    assert artifact.tensors_by_dtype.get("float32", 0) == 0
    assert artifact.ops["linear"] == 3
    assert not any(k.endswith("float32") for k in artifact.ops)


def test_fp32_computes_everything_in_fp32(graph: Graph, tmp_path: Path) -> None:
    artifact = tools.lower(graph, tmp_path / "out", "fp32")
    assert "float16" not in artifact.tensors_by_dtype
    assert artifact.ops["linear"] == 3
    assert "cast" not in artifact.ops


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [
        ((NORM,), {"layer_norm": 1}),
        ((HEAD,), {"linear": 2}),
        ((NORM, HEAD), {"layer_norm": 1, "linear": 2}),
    ],
    ids=["a module", "an operation of modules", "both"],
)
def test_recipe_keeps_exactly_its_operations(
    recipe: tuple[KeepFp32, ...], kept: dict[str, int], graph: Graph, tmp_path: Path
) -> None:
    artifact = tools.lower(replace(graph, recipe=recipe), tmp_path / "out")
    assert in_fp32(artifact.files) == kept
    assert {k: n for k, n in artifact.ops.items() if k.endswith(" float32")} == {
        f"{kind} float32": n for kind, n in kept.items()
    }


def test_recipe_keeps_the_constants_of_its_operations(graph: Graph, tmp_path: Path) -> None:
    artifact = tools.lower(replace(graph, recipe=(HEAD,)), tmp_path / "out")
    inner = (tools.WIDTH + 1) * tools.WIDTH
    assert artifact.tensors_by_dtype["float32"] == inner + (tools.WIDTH + 1) * tools.MASKS


def test_recipe_makes_the_result_better(graph: Graph, tmp_path: Path) -> None:
    feeds = tools.decoder_feeds(4)
    with torch.inference_mode():
        wanted = tools.Decoder().eval()(*feeds.values())[0].numpy()
    errors = [
        np.abs(
            coreml.open_session(tools.lower(replace(graph, recipe=recipe), tmp_path / name)).run(
                tools.as_arrays(feeds)
            )["masks"]
            - wanted
        ).max()
        for name, recipe in (("all", ()), ("kept", (NORM, HEAD)))
    ]
    assert errors[1] < errors[0]


def test_recipe_has_no_effect_in_fp32(graph: Graph, tmp_path: Path) -> None:
    plain, with_recipe = (
        tools.lower(replace(graph, recipe=recipe), tmp_path / name, "fp32")
        for name, recipe in (("plain", ()), ("asked", (NORM,)))
    )
    assert [f.read_bytes() for f in plain.files] == [f.read_bytes() for f in with_recipe.files]


def test_recipe_that_selects_nothing_is_refused(graph: Graph, tmp_path: Path) -> None:
    rotten = replace(NORM, modules=("norm1",))
    with pytest.raises(UsageError) as caught:
        tools.lower(replace(graph, recipe=(rotten,)), tmp_path / "out")
    assert caught.value.message == (
        "the FP16 recipe selects nothing in the graph by `norm1` of the decoder"
    )


def test_a_file_that_stayed_fp32_is_refused(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fp32Nodes, "may_cast", lambda self, op: False)
    with pytest.raises(CheckFailed) as caught:
        tools.lower(graph, tmp_path / "out")
    assert caught.value.message.startswith("decoder: the precision is fp16, but the file holds ")
    assert caught.value.message.endswith("(0.00% float16, minimum 99%)")


def test_a_file_without_the_fp32_operations_of_the_recipe_is_refused(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fp32Nodes, "may_cast", lambda self, op: True)
    with pytest.raises(CheckFailed) as caught:
        tools.lower(replace(graph, recipe=(NORM,)), tmp_path / "out")
    assert caught.value.message == (
        "decoder: `layer_norm_cast_fp16` computes in fp16, and the recipe keeps it in fp32"
    )


def test_an_fp32_operation_outside_the_recipe_is_refused(graph: Graph, tmp_path: Path) -> None:
    artifact = tools.lower(replace(graph, recipe=(NORM,)), tmp_path / "out")
    package = coreml_package.package_of(artifact.files)
    nothing = Fp32Nodes(handles=frozenset(), nodes=())
    with pytest.raises(CheckFailed) as caught:
        coreml_receipt.check_fp32_operations(
            "decoder", read.load(package), Origin(fp32=nothing, operations=frozenset())
        )
    assert caught.value.message == (
        "decoder: `layer_norm` (layer_norm) computes in fp32, and no recipe keeps it there"
    )


class Far(tools.Decoder):
    """Adds and subtracts a constant that overflows FP16."""

    def forward(
        self, point_coords: torch.Tensor, point_labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        masks, iou = super().forward(point_coords, point_labels)
        return masks, (iou + 1e5) - 1e5


def test_constant_that_overflows_fp16_stays_fp32_and_is_counted(tmp_path: Path) -> None:
    program = tools.write_program(Far().eval(), tools.decoder(4), tmp_path / "far.pt2")
    graph = replace(tools.decoder_graph(tmp_path), program=program)
    artifact = tools.lower(graph, tmp_path / "out")
    apart = {k: n for k, n in artifact.ops.items() if k.endswith("float32")}
    assert apart in ({"add float32": 2}, {"add float32": 1, "sub float32": 1})
    found = coreml.open_session(artifact).run(tools.as_arrays(tools.decoder_feeds(4)))
    assert math.isfinite(float(found["iou"][0]))


# ------------------------------------------------------------------ refusals


def test_dynamic_shapes_are_refused(tmp_path: Path) -> None:
    graph = tools.decoder_graph(tmp_path, slots="points")
    with pytest.raises(UsageError) as caught:
        tools.lower(graph, tmp_path / "out")
    assert caught.value.message == (
        "Core ML takes fixed shapes only, and the decoder has inputs with dynamic shapes: "
        "`point_coords`, `point_labels`"
    )
    assert caught.value.hint == (
        "set the target option `slots = 8`, the number of points per prompt"
    )
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "message", "hint"),
    [
        ("deployment_target", "iOS71", "unknown deployment target `iOS71`", "`iOS1"),
        ("compute_units", "CPU_AND_ANE", "unknown compute units `CPU_AND_ANE`", "`CPU_AND_NE`"),
    ],
)
def test_options_that_do_not_exist(
    graph: Graph, option: str, value: str, message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(UnknownNameError) as caught:
        tools.lower(graph, tmp_path / "out", "fp16", **{option: value})
    assert caught.value.message == message
    assert hint in str(caught.value.hint)
    assert isinstance(caught.value, EffsamError)


def test_defaults_of_the_options() -> None:
    assert coreml.parse_options({}) == coreml.CoremlOptions(
        deployment_target="iOS16", compute_units="ALL", image_input=False
    )
