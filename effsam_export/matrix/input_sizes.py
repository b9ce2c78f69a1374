"""The inputs of models in a build file: `image_size` and `batch`, tables by model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export import models
from effsam_export.config.toml import is_name
from effsam_export.errors import shown
from effsam_export.models import batching, image_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.spec.targets import TargetProfile

MAX_VALUES = 100
"""Maximum number of sizes, or of batches, of one model."""
TABLES = {
    "image_size": "a size, or a list of sizes",
    "batch": "a number of images or `dynamic`, or a list of them",
}
"""Key -> what each model has there."""


def table_problems(table: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each of the tables that is not one."""
    return [
        f"`{key}` needs {what}, for each name"
        for key, what in TABLES.items()
        if not _is_table(table.get(key, {}))
    ]


def _is_table(value: object) -> bool:
    """Return whether every value of a table is a number, a text or a list; other types pass."""
    if not isinstance(value, dict):
        return True  # The type of the key is checked with that of the others.
    rows = [v if isinstance(v, list) else [v] for v in value.values()]
    return all(0 < len(row) <= MAX_VALUES and all(_is_entry(v) for v in row) for row in rows)


def _is_entry(value: object) -> bool:
    return is_name(value) or (isinstance(value, int) and not isinstance(value, bool))


def of_model(table: Mapping[str, Any], key: str, model: str) -> list[str]:
    """Return a model's entries in a table as text; one empty text if the file has none."""
    value = table.get(key, {}).get(model, "")
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def problems(model: str, sizes: Sequence[str], batches: Sequence[str]) -> list[str]:
    """Return a sentence for each size and batch that a model cannot have."""
    spec = models.get(model)
    found = []
    for text in filter(None, sizes):
        size = image_sizes.parsed(text)
        if size is None:
            found.append(f"image_size of `{model}` is `{shown(text)}`, not a size in pixels")
        elif fault := image_sizes.size_fault(spec, size):
            found.append(fault[0])
    for text in filter(None, batches):
        batch = batching.parsed(text)
        if batch is None:
            found.append(f"batch of `{model}` is `{shown(text)}`, not a number of images")
        elif fault := batching.batch_fault(spec, batch):
            found.append(fault[0])
    return found


def target_problem(text: str, target: TargetProfile) -> str | None:
    """Return why a target cannot have a batch, as a sentence; None if it can."""
    batch = batching.parsed(text)
    fault = None if batch is None else batching.target_fault(batch, target)
    return None if fault is None else fault[0]
