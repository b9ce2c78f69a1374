"""What an export costs: time, memory and size, measured once and stored as a table.

`benchmarks/export_costs.py` writes the table from measured results, and a test compares the two.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from effsam_export.models.costs import COSTS

PATH = Path(__file__).with_name("export_costs.csv")
COLUMNS = ("model", "backend", "precision", "seconds", "memory_mb", "size_mb")
BASIS = "measured once, on two server cores, with the model's own image size and default options"
BYTES_PER_PARAMETER = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
SAME_GRAPHS = {"tensorrt": "onnx"}
"""Backend -> the one whose graphs it ships."""


@dataclass(frozen=True, kw_only=True)
class ExportCost:
    """The measured cost of an export; None where it was not measured.

    Attributes:
        seconds: Wall time.
        memory_mb: Peak resident memory, in MB of 1e6 bytes.
        size_mb: Size of the graphs, in MB of 1e6 bytes; counted from the parameters where it was
            not measured.
    """

    seconds: int | None = None
    memory_mb: int | None = None
    size_mb: int | None = None


def cost_of(model: str, backend: str, precision: str) -> ExportCost:
    """Return the cost of an export with the model's own image size and the default options."""
    wanted = [model, SAME_GRAPHS.get(backend, backend), precision]
    with PATH.open(encoding="utf-8", newline="") as file:
        row = next((row for row in csv.reader(file) if row[:3] == wanted), [""] * 6)
    seconds, memory, size = (int(cell) if cell else None for cell in row[3:])
    if size is None and model in COSTS:
        size = COSTS[model].parameters * BYTES_PER_PARAMETER[precision] // 1_000_000
    return ExportCost(seconds=seconds, memory_mb=memory, size_mb=size)
