"""The TFLite backend on small programs: names, counts, errors, and merged files."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_litert")
import torch
from torch import Tensor, nn

from effsam_export.backends import receipt
from effsam_export.backends.tflite import backend as tflite
from effsam_export.backends.tflite import file as tflite_file
from effsam_export.errors import CheckFailed, UsageError
from tests.backends.tflite.tools import (
    COMPONENT,
    PROMPTS,
    WEIGHT,
    WIDTH,
    Layers,
    component,
    feeds,
    save_program,
    target,
    wanted,
)

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.spec.model import ComponentSpec
    from effsam_export.spec.stages import Artifact, Graph
    from effsam_export.spec.targets import Precision

pytestmark = pytest.mark.backend

TARGETS: tuple[tuple[str, Precision], ...] = (
    ("tflite", "fp32"),
    ("tflite", "fp16"),
    ("android-cpu", "fp16"),
    ("android-gpu", "fp16"),
)
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-2}
every_target = pytest.mark.parametrize(("name", "precision"), TARGETS)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The traced layers."""
    return save_program(Layers(), COMPONENT, tmp_path_factory.mktemp("traced") / "decoder.pt2")


@pytest.fixture(scope="module")
def lowered(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The layers in each target and precision, by `target-precision`."""
    found = {}
    for name, precision in TARGETS:
        folder = tmp_path_factory.mktemp(f"{name}-{precision}")
        found[f"{name}-{precision}"] = tflite.lower(graph, target(name, precision), folder)
    return found


@every_target
def test_fields_of_the_artifact(
    lowered: dict[str, Artifact], name: str, precision: Precision
) -> None:
    artifact = lowered[f"{name}-{precision}"]
    assert (artifact.component, artifact.backend) == ("decoder", "tflite")
    assert artifact.precision == precision
    assert artifact.options == target(name, precision).options
    assert set(artifact.versions) == {"ai_edge_litert", "litert_torch"}
    assert all(artifact.versions.values())
    assert [f.name for f in artifact.files] == ["decoder.tflite"]
    assert list(artifact.files[0].parent.iterdir()) == list(artifact.files)


@every_target
def test_receipt_is_of_the_file(
    lowered: dict[str, Artifact], name: str, precision: Precision
) -> None:
    artifact = lowered[f"{name}-{precision}"]
    model = tflite_file.read(artifact.files[0])
    assert artifact.tensors_by_dtype == tflite_file.count_constants(model)
    assert artifact.ops == tflite_file.count_operators(model)
    dtype, other = {"fp32": ("float32", "float16"), "fp16": ("float16", "float32")}[precision]
    assert artifact.tensors_by_dtype[dtype] >= WEIGHT.size
    assert artifact.tensors_by_dtype.get(other, 0) <= 4
    assert artifact.ops["TANH"] == 1
    assert ("DEQUANTIZE" in artifact.ops) == (precision == "fp16")


@every_target
def test_file_keeps_the_contracts_names(
    lowered: dict[str, Artifact], name: str, precision: Precision
) -> None:
    model = tflite_file.read(lowered[f"{name}-{precision}"].files[0])
    (signature,) = model.signatureDefs
    assert signature.signatureKey == b"decoder"
    assert {m.name for m in signature.inputs} == {b"tokens", b"flags"}
    assert {m.name for m in signature.outputs} == {b"masks", b"iou"}


@every_target
def test_numbers_names_and_dtypes(
    lowered: dict[str, Artifact], name: str, precision: Precision
) -> None:
    found = tflite.open_session(lowered[f"{name}-{precision}"]).run(feeds())
    assert list(found) == ["masks", "iou"]
    for key, value in wanted(feeds()).items():
        assert found[key].dtype == np.float32
        assert found[key].shape == value.shape
        np.testing.assert_allclose(found[key], value, atol=TOLERANCE[precision])


@every_target
def test_outputs_are_not_overwritten_by_the_next_run(
    lowered: dict[str, Artifact], name: str, precision: Precision
) -> None:
    session = tflite.open_session(lowered[f"{name}-{precision}"])
    given = {k: np.asfortranarray(v) for k, v in feeds().items()}
    first = session.run(given)["masks"]
    before = first.copy()
    session.run({k: -v for k, v in given.items()})
    np.testing.assert_array_equal(first, before)


def test_opens_from_another_folder(lowered: dict[str, Artifact], tmp_path: Path) -> None:
    artifact = lowered["tflite-fp32"]
    copy = tmp_path / "another.tflite"
    shutil.copyfile(artifact.files[0], copy)
    moved = replace(artifact, files=(copy,))
    found = tflite.open_session(moved).run(feeds())
    np.testing.assert_allclose(found["masks"], wanted(feeds())["masks"], atol=1e-5)


@every_target
def test_equal_bytes_every_time(
    graph: Graph, lowered: dict[str, Artifact], name: str, precision: Precision, tmp_path: Path
) -> None:
    again = tflite.lower(graph, target(name, precision), tmp_path)
    before = lowered[f"{name}-{precision}"]
    assert again.files[0].read_bytes() == before.files[0].read_bytes()


def test_the_traced_program_is_not_changed(graph: Graph, tmp_path: Path) -> None:
    assert graph.program is not None
    before = graph.program.read_bytes()
    tflite.lower(graph, target("tflite", "fp16"), tmp_path)
    assert graph.program.read_bytes() == before


def test_no_path_or_class_of_the_user_is_in_the_file(lowered: dict[str, Artifact]) -> None:
    content = lowered["tflite-fp32"].files[0].read_bytes()
    assert os.fsencode(os.path.dirname(tflite.__file__)) not in content  # noqa: PTH120
    assert b".pt2" not in content


# ------------------------------------------------------------------ refusals


def test_dynamic_dimensions_are_refused(graph: Graph, tmp_path: Path) -> None:
    open_ones = component(
        {"tokens": ("prompts", WIDTH), "flags": ("prompts",), "points": ("prompts", "points")},
        {"masks": ("prompts", WIDTH)},
    )
    with pytest.raises(UsageError) as caught:
        tflite.lower(replace(graph, component=open_ones), target("tflite", "fp32"), tmp_path)
    assert caught.value.message == (
        "decoder: TFLite takes fixed shapes only, and this graph has dynamic dimensions: "
        "`prompts`, `points`"
    )
    assert caught.value.hint == (
        "set the target option `slots = 8`, the number of points per prompt"
    )
    assert list(tmp_path.iterdir()) == []


class Windows(nn.Module):
    """Split a map into windows through six dimensions."""

    def forward(self, image: Tensor) -> Tensor:
        x = image.view(1, 4, 7, 4, 7, 8).transpose(2, 3) * 2
        return x.reshape(16, 7, 7, 8)


WINDOWS = component({"image": (1, 28, 28, 8)}, {"windows": (16, 7, 7, 8)}, "encoder")


def test_rank_above_the_limit_is_refused(tmp_path: Path) -> None:
    graph = save_program(Windows(), WINDOWS, tmp_path / "encoder.pt2")
    with pytest.raises(CheckFailed) as caught:
        tflite.lower(graph, target("tflite", "fp32", max_rank="4"), tmp_path)
    first, *faults = caught.value.message.split("\n  ")
    assert first == "encoder: target `tflite` cannot run this graph:"
    assert any(
        f.startswith("rank 6 at TRANSPOSE: `") and f.endswith("` of shape 1x4x7x4x7x8")
        for f in faults
    )
    assert len(faults) <= tflite.SHOWN + 1


def test_any_rank_is_allowed_without_a_limit(tmp_path: Path) -> None:
    graph = save_program(Windows(), WINDOWS, tmp_path / "encoder.pt2")
    artifact = tflite.lower(graph, target("tflite", "fp32"), tmp_path)
    image = np.random.default_rng(0).random((1, 28, 28, 8), np.float32)
    found = tflite.open_session(artifact).run({"image": image})["windows"]
    np.testing.assert_array_equal(found, Windows()(torch.from_numpy(image)).numpy())


def test_forbidden_operators_are_refused(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed) as caught:
        tflite.lower(graph, target("tflite", "fp32", forbidden_ops="GELU TANH"), tmp_path)
    head, fault = caught.value.message.split("\n  ")
    assert head == "decoder: target `tflite` cannot run this graph:"
    assert fault.startswith("forbidden `TANH` with output `")
    assert fault.endswith(f"` of shape {PROMPTS}x{WIDTH}")


class Picks(nn.Module):
    """Gather single values."""

    rows: Tensor
    columns: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.tensor([5, 0, 3]))
        self.register_buffer("columns", torch.tensor([1, 3, 2]))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[self.rows, self.columns]


def test_operators_without_gpu_support_are_refused(tmp_path: Path) -> None:
    spec = component({"tokens": (6, 4)}, {"picked": (3,)})
    graph = save_program(Picks(), spec, tmp_path / "decoder.pt2")
    with pytest.raises(CheckFailed) as caught:
        tflite.lower(graph, target("android-gpu", "fp16"), tmp_path)
    assert caught.value.message == (
        "decoder: target `android-gpu` cannot run this graph:\n"
        "  not supported on the GPU: `GATHER_ND` with output `decoder_picked_output` of shape 3"
    )


def test_many_faults_are_counted(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed) as caught:
        tflite.lower(graph, target("tflite", "fp32", max_rank="1"), tmp_path)
    faults = caught.value.message.split("\n  ")[1:]
    assert len(faults) == tflite.SHOWN + 1
    assert faults[-1].startswith("and ")
    assert faults[-1].endswith(" more")


def test_a_file_that_stayed_fp32_is_refused(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tflite_file, "store_constants_in_fp16", lambda model: None)
    with pytest.raises(CheckFailed) as caught:
        tflite.lower(graph, target("tflite", "fp16"), tmp_path)
    assert caught.value.message == (
        f"decoder: the precision is fp16, but the file holds {WEIGHT.size} float32 "
        f"(0.00% float16, minimum {receipt.MIN_SHARE:.0%})"
    )


def test_constants_over_2_gb_are_refused(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tflite_file, "bytes_of_constants", lambda model: 2_560_000_000)
    with pytest.raises(CheckFailed) as caught:
        tflite.lower(graph, target("tflite", "fp32"), tmp_path)
    assert caught.value.message == (
        "decoder: a .tflite file has at most 2 GB, and the constants have 2.6 GB"
    )
    assert caught.value.hint == "export in FP16 (`--fp16`) or INT8 (`--int8`)"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_constants_over_2_gb_are_refused_before_conversion(
    graph: Graph, precision: Precision, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*_: object) -> bytes:
        raise AssertionError("the converter ran")

    assert graph.program is not None
    monkeypatch.setattr(tflite, "MAX_BYTES", graph.program.stat().st_size - 1)
    monkeypatch.setattr("effsam_export.backends.tflite.convert.convert", never)
    with pytest.raises(
        CheckFailed, match=r"the converter first writes an FP32 \.tflite file"
    ) as caught:
        tflite.lower(graph, target("tflite", precision), tmp_path)
    assert caught.value.hint == "choose another target, or a smaller encoder"
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ one file for all


def pair(folder: Path, name: str, precision: Precision, single: str) -> tuple[Artifact, ...]:
    """An encoder and a decoder, lowered and combined."""
    chosen = target(name, precision, single_file=single)
    specs: list[ComponentSpec] = [
        replace(COMPONENT, name="encoder", inputs=COMPONENT.inputs[::-1]),
        COMPONENT,
    ]
    artifacts = []
    for spec, module in zip(specs, (Swapped(), Layers()), strict=True):
        graph = save_program(module, spec, folder / f"{spec.name}.pt2")
        assert graph.program is not None
        artifacts.append(tflite.lower(graph, chosen, folder))
        graph.program.unlink()
    return tflite.combine(artifacts, specs, chosen, folder)


class Swapped(nn.Module):
    """The layers with their inputs the other way round, and their masks doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, flags: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        masks, iou = self.layers(tokens, flags)
        return masks * 2, iou


@pytest.mark.parametrize(("name", "precision"), [TARGETS[0], TARGETS[-1]])
def test_both_signatures_of_one_file(name: str, precision: Precision, tmp_path: Path) -> None:
    artifacts = pair(tmp_path, name, precision, "true")
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]
    assert [a.files for a in artifacts] == [(tmp_path / "model.tflite",)] * 2
    assert [a.component for a in artifacts] == ["encoder", "decoder"]
    for artifact, factor in zip(artifacts, (2, 1), strict=True):
        found = tflite.open_session(artifact).run(feeds())
        assert list(found) == ["masks", "iou"]
        masks = wanted(feeds())["masks"] * factor
        np.testing.assert_allclose(found["masks"], masks, atol=2 * TOLERANCE[precision])


def test_two_files_without_single_file(tmp_path: Path) -> None:
    artifacts = pair(tmp_path, "tflite", "fp32", "false")
    assert [a.files[0].name for a in artifacts] == ["encoder.tflite", "decoder.tflite"]
    assert sorted(tmp_path.iterdir()) == sorted(a.files[0] for a in artifacts)


def test_one_component_stays_in_its_file(lowered: dict[str, Artifact], tmp_path: Path) -> None:
    chosen = target("tflite", "fp32", single_file="true")
    artifact = lowered["tflite-fp32"]
    assert tflite.combine([artifact], [COMPONENT], chosen, tmp_path) == (artifact,)
    assert artifact.files[0].is_file()


class Turned(nn.Module):
    """Layers whose weights are not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        size = TURNED
        weights = [torch.randn(size, size, generator=generator) / size**0.5 for _ in range(4)]
        self.layers = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in weights)
        for layer, weight in zip(self.layers, weights, strict=True):
            layer.weight = nn.Parameter(weight.T)

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = torch.tanh(layer(tokens))
        return tokens


TURNED = 512
"""A weight has a megabyte, so that freed memory is reused at the same address."""


@pytest.mark.filterwarnings("ignore:No complete tensor")
def test_constants_that_are_not_contiguous_stay_distinct(tmp_path: Path) -> None:
    spec = component({"tokens": (2, TURNED)}, {"masks": (2, TURNED)})
    module = Turned().eval()
    traced = save_program(module, spec, tmp_path / "decoder.pt2")
    kept = torch.export.load(tmp_path / "decoder.pt2").state_dict["layers.0.weight"]
    assert not kept.is_contiguous()
    artifact = tflite.lower(traced, target("tflite", "fp32"), tmp_path)
    given = torch.randn(2, TURNED, generator=torch.Generator().manual_seed(4))
    found = tflite.open_session(artifact).run({"tokens": given.numpy()})["masks"]
    np.testing.assert_allclose(found, module(given).detach().numpy(), atol=1e-5)
