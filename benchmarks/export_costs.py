"""Write what exports cost, as `effsam export --dry-run` shows it, from the results of other runs.

`python -m benchmarks.export_costs` writes `effsam_export/models/export_costs.csv`.

Sizes are those of the graphs that `matrix` and `int8` measured. Times and memory are those of
`builds`, where exports of one model share traces; for ONNX in FP32 the time is that of `systems`,
which runs one export at a time.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from effsam_export import models
from effsam_export.models.export_costs import COLUMNS, PATH

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = (
    *("matrix-2cores", "mobile-sam-targets", "int8-2cores", "int8-2cores-epyc"),
    *("int8-mobile-sam", "int8-golden"),
)
BUILDS = "build-2cores"
SYSTEMS = "systems-2cores"
TARGETS = ("onnx", "openvino", "coreml", "tflite", "tensorrt-rtx")
PRECISIONS = ("fp32", "fp16", "int8")
MB = 1_000_000


def load(name: str) -> Any:  # noqa: ANN401 - JSON
    """Return a document of results."""
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def rounded(value: float) -> int:
    """Return a positive number with two significant digits."""
    digits = len(str(int(value)))
    return int(round(value, min(0, 2 - digits)))


def rows() -> list[list[str]]:
    """Return the rows of the table; a cell is empty where nothing was measured."""
    sizes: dict[tuple[str, str, str], float] = {}
    for name in SIZES:
        for cell in load(name)["cells"]:
            if cell["bytes"]:
                sizes[cell["model"], cell["target"], cell["precision"]] = cell["bytes"] / MB
    times: dict[tuple[str, str, str], tuple[float, float]] = {}
    for build in load(BUILDS)["builds"]:
        for cell in build["cells"]:
            # A refused cell ended before its work; one of time 0 found the disk full.
            if cell["state"] != "refused" and cell["seconds"]:
                key = build["model"], cell["target"], cell["precision"]
                times.setdefault(key, (cell["seconds"], cell["peak_mb"]))
    for row in load(SYSTEMS)["rows"]:
        key = row["model"], "onnx", "fp32"
        memory = times[key][1] if key in times else row["peak_bytes"] / MB
        times[key] = row["export_s"], memory
    found = []
    for name in models.names():
        for target in TARGETS:
            for precision in PRECISIONS:
                key = name, target, precision
                cells = [*times.get(key, ("", "")), sizes.get(key, "")]
                found.append([*key, *("" if c == "" else str(rounded(float(c))) for c in cells)])
    return found


def text() -> str:
    """Return the file's content."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([COLUMNS, *rows()])
    return file.getvalue()


if __name__ == "__main__":
    PATH.write_text(text(), "utf-8")
