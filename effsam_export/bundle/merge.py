"""Put the graphs of several bundles of one model into one folder of an app."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from effsam_export import layouts
from effsam_export.bundle import read, staging
from effsam_export.errors import BundleError, UsageError, joined

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from effsam_export.bundle.read import Bundle
    from effsam_export.layouts import Layout
    from effsam_export.spec.targets import Precision

SAME = ("model", "checkpoint")
"""Keys of the manifest that all bundles have in common, besides the layout."""


def merge(paths: Sequence[Path], output: Path) -> tuple[str, ...]:
    """Write the app's folder with the graphs of all bundles, the licence and a README.

    Args:
        paths: Directories of two or more bundles, each in another precision.
        output: The folder, which must not exist or be empty.

    Returns:
        Paths of the files in the folder.

    Raises:
        BundleError: There is no bundle, or one is not intact.
        UsageError: They do not belong together, or their layout has one precision a folder.
        OutputError: The folder cannot be written, or there is something.
    """
    bundles = [read.read(path) for path in paths]
    layout = common_layout(bundles)
    problems = [f"`{b.path}`: {p}" for b in bundles for p in read.integrity(b)]
    if problems:
        raise BundleError(f"bundles are not intact: {joined(problems)}", hint=f"{read.COPY_AGAIN}")
    first = bundles[0]
    precisions: list[Precision] = [b.manifest["precision"]["requested"] for b in bundles]
    licence = first.manifest["model"]["licence"]["file"]
    texts = {
        **layout.files(first.model, precisions),
        licence: (first.path / licence).read_text("utf-8"),
        "README.md": readme(bundles, layout),
    }
    graphs = {f: b.path / f for b in bundles for c in b.manifest["components"] for f in c["files"]}
    with staging.staged(output) as work:
        for name, source in graphs.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, work / name)
        for name, text in texts.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(text, "utf-8", newline="\n")
    return tuple(sorted([*graphs, *texts]))


def common_layout(bundles: Sequence[Bundle]) -> Layout:
    """Return the layout of bundles that belong into one folder.

    Raises:
        UsageError: They do not; the message lists all reasons.
    """
    first, *others = bundles
    problems = []
    for bundle in bundles:
        if bundle.layout is None:
            problems.append(f"`{bundle.path}` is not in the layout of an app")
        elif not layouts.load(bundle.layout).MERGES:
            problems.append(f"a folder of {layouts.load(bundle.layout).APP} has one precision")
    for other in others:
        if other.layout != first.layout:
            problems.append(f"`{other.path}` has another layout than `{first.path}`")
        problems += [
            f"`{other.path}` has another {key} than `{first.path}`"
            for key in SAME
            if other.manifest[key] != first.manifest[key]
        ]
        if other.components != first.components:
            problems.append(f"`{other.path}` has other components than `{first.path}`")
    names = [b.manifest["precision"]["requested"] for b in bundles]
    problems += [f"two bundles are {n}" for n in sorted({*names}) if names.count(n) > 1]
    if problems:
        raise UsageError(
            joined(problems),
            hint="export one model for `--target transformers-js` in several precisions",
        )
    assert first.layout is not None
    return layouts.load(first.layout)


def readme(bundles: Sequence[Bundle], layout: Layout) -> str:
    """Return Markdown about the graphs of a folder: where each is from, and how it was checked."""
    model = bundles[0].manifest["model"]
    lines = [
        f"# {model['title']} for {layout.APP}",
        "",
        f"Licence of the weights: {model['licence']['spdx']} (`{model['licence']['file']}`).",
        "",
        *layout.USE,
        "",
        "| precision | files | min mask IoU with PyTorch |",
        "|---|---|---|",
        *(_row(b.manifest) for b in bundles),
        "",
    ]
    return "\n".join(lines)


def _row(manifest: dict[str, Any]) -> str:
    files = ", ".join(f"`{f}`" for c in manifest["components"] for f in c["files"])
    iou = manifest["parity"]["min_mask_iou"]
    shown = "-" if iou is None else f"{iou:.4f} on {manifest['parity']['cases']} prompts"
    return f"| {manifest['precision']['requested']} | {files} | {shown} |"
