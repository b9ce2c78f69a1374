"""Compare our exports with upstream-style ONNX exports of the same weights and eager PyTorch.

`python -m benchmarks.compare --checkpoint FILE [--output DIR] [--repeats N] [--json FILE]`

Prints ratios and checks no limits, because times depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import machine
from benchmarks.exports import KINDS, MODEL, UPSTREAM, WHOLE, run_all
from benchmarks.timing import figure, ratio, table
from effsam_export.util.timing import SETTLE_S, interleave

if TYPE_CHECKING:
    from benchmarks.contenders import Group, Inputs
    from benchmarks.exports import ExportCost
    from effsam_export.models.sam.module import Sam
    from effsam_export.spec.model import ModelSpec

REPEATS = 15
RESULTS = Path(__file__).parent / "results"


def main(argv: list[str] | None = None) -> None:
    """Export, time and compare; print tables, and write JSON with `--json`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="MobileSAM's weights")
    parser.add_argument("--output", type=Path, help="keep the exports there")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="rounds that are counted")
    parser.add_argument("--json", help="file for the figures; a bare name goes to results/")
    parser.add_argument("--image", type=Path, help="image [default: the first evaluation image]")
    parser.add_argument("--upstream-encoder", type=Path, help="a real samexporter encoder")
    parser.add_argument("--upstream-decoder", type=Path, help="a real samexporter decoder")
    args = parser.parse_args(argv)
    place = nullcontext(args.output) if args.output else tempfile.TemporaryDirectory()
    with place as directory:
        document = compare(args, Path(directory).resolve())
    if args.json:
        path = result_path(args.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        print(f"\nwrote {path}")


def compare(args: argparse.Namespace, output: Path) -> dict[str, Any]:
    """Run everything, print the tables, and return the figures for the JSON document."""
    about = machine.describe()
    # First, while this process is small and has loaded no torch.
    costs = run_all(args.checkpoint.resolve(), output, (*KINDS, WHOLE))

    # Only now: see above.
    import torch

    from benchmarks import contenders
    from effsam_export import models
    from effsam_export.config.parity import load_parity_images
    from effsam_export.models.sam.components import as_sam
    from effsam_export.weights import checkpoint, own_file

    spec = models.get(MODEL)
    sam = as_sam(
        checkpoint.load(spec, own_file.checkpoint_from_file(args.checkpoint, spec.weights))
    )
    image = args.image or load_parity_images()[0].path
    inputs = contenders.prepare(spec, sam, image)
    about["threads"] = {
        "torch": torch.get_num_threads(),
        "onnxruntime": "default (one per core)",
        "openvino": contenders.openvino_threads(output / "openvino-fp32" / "encoder.xml"),
    }
    print(describe(about))
    print(export_table(costs))
    groups = [
        run_group(group, args.repeats) for group in build_groups(args, spec, sam, inputs, output)
    ]
    return {
        "machine": about,
        "image": image.name,
        "original_size": list(contenders.ORIGINAL),
        "repeats": args.repeats,
        "settle_s": SETTLE_S,
        "upstream": {
            "encoder": "the user's" if args.upstream_encoder else UPSTREAM,
            "decoder": "the user's" if args.upstream_decoder else UPSTREAM,
        },
        "exports": export_rows(costs),
        "groups": groups,
    }


def build_groups(
    args: argparse.Namespace, spec: ModelSpec, sam: Sam, inputs: Inputs, output: Path
) -> list[Group]:
    """Open all contenders."""
    from benchmarks import contenders

    return [
        contenders.encoders(spec, sam, inputs, output, args.upstream_encoder),
        *contenders.decoders(spec, sam, inputs, output, args.upstream_decoder),
    ]


def run_group(group: Group, repeats: int) -> dict[str, Any]:
    """Time one group and compare its outputs with eager PyTorch; print and return the figures."""
    import numpy as np

    print(f"timing {group.title} ...", file=sys.stderr, flush=True)
    reference = np.array(group.contenders[0].call()[group.compared])
    errors = {
        c.name: float(np.abs(np.asarray(c.call()[group.compared]) - reference).max())
        for c in group.contenders
    }
    taken = interleave({c.name: c.call for c in group.contenders}, repeats)
    eager = taken[group.contenders[0].name]
    rows: list[dict[str, Any]] = []
    for c in group.contenders:
        mine, theirs = taken[c.name], taken[c.upstream] if c.upstream else None
        rows.append(
            {
                "name": c.name,
                "median_ms": 1e3 * mine.median_s,
                "least_ms": 1e3 * mine.minimum_s,
                "to_eager": ratio(mine.median_s, eager.median_s),
                "to_eager_least": ratio(mine.minimum_s, eager.minimum_s),
                "to_upstream": ratio(mine.median_s, theirs.median_s if theirs else None),
                "to_upstream_least": ratio(mine.minimum_s, theirs.minimum_s if theirs else None),
                "max_abs_error": errors[c.name],
            }
        )
    head = ["", "median ms", "min ms", "/ eager", "/ upstream", "(by min)", "max abs error"]
    cells = [
        [
            r["name"],
            figure(r["median_ms"], 1),
            figure(r["least_ms"], 1),
            figure(r["to_eager"]),
            figure(r["to_upstream"]),
            figure(r["to_upstream_least"]),
            f"{r['max_abs_error']:.1e}",
        ]
        for r in rows
    ]
    print(f"\n{group.title} (error of `{group.compared}` against eager)\n{table(head, cells)}")
    return {"title": group.title, "compared": group.compared, "contenders": rows}


def describe(about: dict[str, Any]) -> str:
    """Return the machine and the rules of the comparison as text."""
    return (
        f"{about['cpu']}, {about['cores']} cores, {' '.join(about['flags'])}\n"
        f"threads: {', '.join(f'{k} {v}' for k, v in about['threads'].items())}\n"
        f"versions: {', '.join(f'{k} {v}' for k, v in about['versions'].items())}\n"
        "Ratios are time / time (or size / size): below 1 is faster (or smaller). `/ upstream` "
        "compares\nwithin one runtime."
    )


def export_rows(costs: list[ExportCost]) -> list[dict[str, Any]]:
    """Return the figures of the exports, also as multiples of the upstream-style export's."""
    base = asdict(next(c for c in costs if c.kind == UPSTREAM))
    return [
        {**found, "to_upstream": {k: ratio(found[k], base[k]) for k in found if k != "kind"}}
        for found in map(asdict, costs)
    ]


def export_table(costs: list[ExportCost]) -> str:
    """Return time, memory and size of the exports as a table."""
    columns = (
        ("wall s", "wall_s", 1.0, 1),
        ("work s", "work_s", 1.0, 1),
        ("peak MB", "peak_bytes", 1e6, 0),
        ("encoder MB", "encoder_bytes", 1e6, 1),
        ("decoder MB", "decoder_bytes", 1e6, 1),
    )
    head = [""]
    for title, *_ in columns:
        head += [title, "/ up"]
    rows = []
    for row in export_rows(costs):
        cells = [row["kind"]]
        for _, key, unit, digits in columns:
            cells += [figure(row[key] / unit, digits), figure(row["to_upstream"][key])]
        rows.append(cells)
    return (
        "\nexport, each in its own process, encoder and decoder (`effsam-export`: with the parity "
        f"check and the bundle)\n{table(head, rows)}"
    )


def result_path(name: str) -> Path:
    """Return the path for `--json NAME`: a bare name goes to `benchmarks/results/`."""
    path = Path(name)
    return RESULTS / f"{name}.json" if path.name == name and not path.suffix else path


if __name__ == "__main__":
    main()
