"""The benchmarks compare what they say they compare. No test checks a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks import compare, equal_builds, exports, int8, machine, startup, timing
from benchmarks.exports import ExportCost
from effsam_export.config import int8_recipe
from effsam_export.imaging import images
from effsam_export.models.sam.components import SAM_MASKS, SAM_PREPROCESS
from effsam_export.spec.sizes import sides

if TYPE_CHECKING:
    from effsam_export.models.sam.module import Sam

IMAGE_SIZE = 256
"""A quarter of the real one: the same arithmetic, with windows that still need padding."""


# ------------------------------------------------------------------ upstream-style forms


@pytest.fixture(scope="module")
def sam() -> Sam:
    """MobileSAM for small images, with random weights and batch statistics."""
    import torch

    from effsam_export.models.sam.module import Sam
    from effsam_export.models.tiny_vit import TinyViT

    module = Sam(
        TinyViT(), replace(SAM_PREPROCESS, image_size=IMAGE_SIZE, prompt_size=IMAGE_SIZE)
    ).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            fan_in = max(1, value[0].numel()) if value.dim() > 1 else 1
            scaled = noise * (fan_in**-0.5 if value.dim() > 1 else 0.1)
            offset = 1.0 if name.endswith(("running_var", "bn.weight")) else 0.0
            value.copy_(scaled + offset if value.dim() > 1 else scaled.abs() + offset)
    return module


@pytest.mark.backend
def test_upstream_encoder_is_the_reference(sam: Sam) -> None:
    import torch

    from benchmarks.upstream import UpstreamEncoder

    image = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = sam.encode(255 * image)
        found = UpstreamEncoder(sam).eval()(sam.preprocess(255 * image))
    assert wanted.std() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.backend
@pytest.mark.parametrize("original", [(120, 180), (300, 100), (77, 77)])
@pytest.mark.parametrize("with_mask", [False, True])
def test_upstream_decoder_is_the_reference(
    sam: Sam, original: tuple[int, int], with_mask: bool
) -> None:
    import torch

    from benchmarks.upstream import UpstreamDecoder

    random = torch.Generator().manual_seed(2)
    side, _ = sides(sam.embedding_size)
    embedding = torch.randn(1, 256, side, side, generator=random)
    mask = torch.randn(1, 1, 4 * side, 4 * side, generator=random)
    coords, labels = torch.tensor([[[30.0, 40.0], [90.0, 11.0]]]), torch.tensor([[1, 0]])
    with torch.inference_mode():
        wanted, scores = sam.decode(embedding, (coords, labels), None, mask if with_mask else None)
        masks, iou, low_res = UpstreamDecoder(sam).eval()(
            embedding,
            torch.cat([coords, torch.zeros(1, 1, 2)], dim=1),
            torch.tensor([[1.0, 0.0, -1.0]]),
            mask,
            torch.tensor([float(with_mask)]),
            torch.tensor(original, dtype=torch.float32),
        )
    assert wanted.std() > 1e-3
    torch.testing.assert_close(low_res, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(iou, scores, rtol=1e-4, atol=1e-4)
    frame = images.frame_of(
        original, replace(SAM_PREPROCESS, image_size=IMAGE_SIZE, prompt_size=IMAGE_SIZE)
    )
    assert masks.shape == (1, 4, *original)
    upscaled = images.upscale_masks(wanted[0].numpy(), frame, SAM_MASKS)
    np.testing.assert_allclose(masks[0].numpy(), upscaled, rtol=1e-3, atol=1e-3)


@pytest.mark.backend
def test_upstream_files_have_upstreams_interface(sam: Sam, tmp_path: Path) -> None:
    import onnx

    from benchmarks import upstream

    encoder = onnx.load(upstream.export_encoder(sam, tmp_path))
    decoder = onnx.load(upstream.export_decoder(sam, tmp_path))
    for model in (encoder, decoder):
        assert [o.version for o in model.opset_import if not o.domain] == [18]
    assert [i.name for i in encoder.graph.input] == ["input_image"]
    assert [o.name for o in encoder.graph.output] == ["image_embeddings"]
    names = ["image_embeddings", "point_coords", "point_labels", "mask_input"]
    assert [i.name for i in decoder.graph.input] == [*names, "has_mask_input", "orig_im_size"]
    outputs = [o.name for o in decoder.graph.output]
    assert outputs == ["masks", "iou_predictions", "low_res_masks"]
    # What the comparison is about: the repeated image and the resize are in upstream's graph.
    kinds = {n.op_type for n in decoder.graph.node}
    assert {"OneHot", "Tile", "Resize"} <= kinds


# ------------------------------------------------------------------ arithmetic


def test_no_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        startup.measure({}, 0)


@pytest.mark.parametrize(
    ("value", "base", "wanted"),
    [(3.0, 2.0, 1.5), (1.0, 4.0, 0.25), (1.0, None, None), (1.0, 0.0, None)],
)
def test_ratio(value: float, base: float | None, wanted: float | None) -> None:
    assert timing.ratio(value, base) == wanted


def test_table() -> None:
    rows = [["ours", timing.figure(1.234)], ["upstream-style", timing.figure(None)]]
    assert timing.table(["", "/ up"], rows).splitlines() == [
        "                / up",
        "--------------  ----",
        "ours            1.23",
        "upstream-style     -",
    ]


def cost(kind: str, scale: int) -> ExportCost:
    return ExportCost(
        kind=kind,
        wall_s=10.0 * scale,
        work_s=5.0 * scale,
        peak_bytes=10**9 * scale,
        encoder_bytes=28_000_000,
        decoder_bytes=16_000_000 * scale,
    )


def test_export_ratios_are_to_upstream() -> None:
    costs = [cost(exports.UPSTREAM, 2), cost("onnx-fp32", 1)]
    first, second = compare.export_rows(costs)
    assert set(first["to_upstream"].values()) == {1.0}
    assert second["to_upstream"] == {
        "wall_s": 0.5,
        "work_s": 0.5,
        "peak_bytes": 0.5,
        "encoder_bytes": 1.0,
        "decoder_bytes": 0.5,
    }
    assert "onnx-fp32" in compare.export_table(costs)
    assert json.loads(json.dumps(compare.export_rows(costs))) == [first, second]


def test_result_path() -> None:
    assert compare.result_path("laptop") == compare.RESULTS / "laptop.json"
    assert compare.result_path("x.json") == Path("x.json")
    assert compare.result_path("/tmp/x") == Path("/tmp/x")


def test_machine_is_described() -> None:
    about = machine.describe()
    assert about["cpu"]
    assert about["cores"] >= 1
    assert about["versions"]["numpy"] == np.__version__
    assert json.loads(json.dumps(about)) == about


# ------------------------------------------------------------------ start-up


def test_measure_trivial_commands() -> None:
    medians = startup.measure(
        {
            "quick": [sys.executable, "-c", ""],
            "slow": [sys.executable, "-c", "import time; time.sleep(1)"],
        },
        rounds=1,
    )
    assert list(medians) == ["quick", "slow"]
    assert medians["slow"] >= 1.0


def test_measure_reports_a_failing_command() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        startup.measure({"fails": [sys.executable, "-c", "raise SystemExit(3)"]}, rounds=1)


def test_startup_commands() -> None:
    assert next(iter(startup.commands())) == startup.BASE
    assert startup.commands("b")["effsam inspect"][-2:] == ("inspect", "b")


# ------------------------------------------------------------------ INT8


def test_the_curve_takes_the_shipped_recipe_apart() -> None:
    best = int8_recipe.load("mobile-sam").recipe("encoder", "onnx")
    variants = int8.variants()
    counts = {n for name, (n, recipe) in variants.items() if recipe == best}
    assert counts == {5, 12, 20, 40}
    assert {recipe.method for _, recipe in variants.values()} == {"minmax", "percentile", "mse"}
    shorter = [
        recipe
        for name, (_, recipe) in variants.items()
        if len(recipe.overrides) == len(best.overrides) - 1
    ]
    assert len(shorter) == len(best.overrides)
    for entry in best.overrides:
        (without,) = [r for r in shorter if entry not in r.overrides]
        assert [e for e in best.overrides if e != entry] == list(without.overrides)
    assert variants["no overrides"][1].overrides == ()
    assert variants["recipe, nearest rounding"][1].rounding == "nearest"
    assert variants["recipe, no equalization"][1].equalize == ()
    assert not variants["recipe, neither"][1].prepares_weights
    assert variants["recipe, weight-only"][1].scheme == "weight_only"


# ------------------------------------------------------------------ builds


def test_files_that_differ_are_told_apart_by_what_the_manifest_names(
    exported_tiny: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(exported_tiny, other)
    assert equal_builds.differing(exported_tiny, other) == ([], [])
    path = other / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    for entry in manifest["files"]:
        if entry["path"] in ("report.html", "parity.json"):
            entry["sha256"] = "0" * 64
    del manifest["nondeterministic_files"]
    path.write_text(json.dumps(manifest), "utf-8")
    # The report of the first names itself, because it holds latencies.
    assert equal_builds.differing(exported_tiny, other) == (["report.html"], ["parity.json"])
    assert equal_builds.differing(other, exported_tiny) == ([], ["parity.json", "report.html"])
