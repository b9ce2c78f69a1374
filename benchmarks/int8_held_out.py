"""INT8 bundles of MobileSAM on held-out prompts, with what a search found.

`python -m benchmarks.int8_held_out BUNDLE... --checkpoint FILE`. Compares the masks of each bundle
with PyTorch's on the 40 prompts of `benchmarks/evaluation`, which no search and no gate sees.
Prints a Markdown table and checks no limits.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.timing import figure
from effsam_export import models
from effsam_export.bundle import read
from effsam_export.config import targets as profiles
from effsam_export.config.parity import load_parity_images
from effsam_export.models import fixed
from effsam_export.parity.cached import MemoryCache, cached_reference
from effsam_export.parity.check import check
from effsam_export.parity.comparison import Sides
from effsam_export.parity.evaluation_set import EvaluationSet
from effsam_export.spec.targets import Gates
from effsam_export.weights import checkpoint as loading
from effsam_export.weights import own_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

MODEL = "mobile-sam"
FILES = ("held_out.toml", "golden.toml")
HEAD = (
    *("target", "recipe", "W8A8", "weight-only", "FP16", "tried", "predicted dB", "of FP32's size"),
    *("mean IoU", "min IoU", "ranking changes"),
)


def row(
    path: Path, module: nn.Module, folder: Path, answers: Mapping[str, MemoryCache]
) -> list[str]:
    """Return the row of one bundle; PyTorch's answers are computed once for all bundles."""
    bundle = read.read(path)
    manifest = bundle.manifest
    target = profiles.load_target(manifest["target"]["name"], "int8")
    sessions = {name: read.open_session(bundle, name) for name in bundle.components}
    images = [image for file in FILES for image in load_parity_images(folder / file)]
    model = fixed.for_options(models.get(MODEL), target.options)
    components = tuple(cached_reference(c, answers[c.name]) for c in model.components)
    report = check(
        replace(model, components=components),
        Sides(module=module, sources=sessions, artifacts=sessions, simulator=bundle.simulator),
        EvaluationSet(images=tuple(images)),
        target=target.name,
        precision="int8",
        gates=Gates(mask_iou=0.0, score_error=1.0, cosine=0.0),
    ).report
    search: Mapping[str, Any] | None = manifest["int8"].get("search")
    name = f"{target.name} (simulated)" if bundle.simulator else target.name
    return [
        name,
        *found(search),
        figure(size_share(bundle), 3),
        figure(report.mean_iou, 4),
        figure(report.min_iou, 4),
        str(sum(d.ranking_counts for d in report.decisions)),
    ]


def found(search: Mapping[str, Any] | None) -> list[str]:
    """Return what a search found: layers by treatment, recipes tried, and the predicted SQNR."""
    if search is None:
        return ["by hand", "-", "-", "-", "-", "-"]
    chosen = next((s for s in search["steps"] if s["chosen"]), None)
    counts = [layer["treatment"] for layer in search["layers"]]
    return [
        f"search for {search['optimize']}",
        *(str(counts.count(t)) for t in ("w8a8", "weight_only", "keep_float")),
        str(len(search["steps"])),
        "-" if chosen is None else figure(chosen["predicted_db"], 1),
    ]


def size_share(bundle: read.Bundle) -> float:
    """Return the size of a bundle's encoder as a share of its FP32 source's."""
    source = bundle.source("encoder")
    stored = sum(file_size(f) for f in bundle.artifact("encoder").files)
    return stored / file_size(source)


def file_size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return path.stat().st_size


def main(argv: list[str] | None = None) -> None:
    """Measure the bundles and print a table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--checkpoint", type=Path, required=True, help="MobileSAM's weights")
    parser.add_argument(
        "--evaluation",
        type=Path,
        default=Path(__file__).parent / "evaluation",
        help="folder with the images and `held_out.toml`, `golden.toml`",
    )
    given = parser.parse_args(argv)
    module = loading.load(models.get(MODEL), own_file.checkpoint_from_file(given.checkpoint, None))
    answers: dict[str, MemoryCache] = {c.name: MemoryCache() for c in models.get(MODEL).components}
    print(f"| {' | '.join(HEAD)} |")
    print(f"| --- | --- |{' ---: |' * (len(HEAD) - 2)}")
    for path in given.bundles:
        print(f"| {' | '.join(row(path, module, given.evaluation, answers))} |", flush=True)


if __name__ == "__main__":
    main()
