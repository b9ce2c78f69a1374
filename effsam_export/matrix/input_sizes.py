"""The sizes of input in a build file: `image_size`, a table of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export import models
from effsam_export.config.toml import is_name
from effsam_export.errors import shown
from effsam_export.models import image_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_SIZES = 100
"""Maximum number of sizes of one model."""


def is_table(value: object) -> bool:
    """Return whether every value of a table is a size or a list of sizes; other types pass."""
    if not isinstance(value, dict):
        return True  # The type of the key is checked with that of the others.
    rows = [v if isinstance(v, list) else [v] for v in value.values()]
    return all(0 < len(row) <= MAX_SIZES and all(_is_size(v) for v in row) for row in rows)


def _is_size(value: object) -> bool:
    return is_name(value) or (isinstance(value, int) and not isinstance(value, bool))


def of_model(table: Mapping[str, Any], model: str) -> list[str]:
    """Return the sizes of a model's input as text; one empty text if the file names none."""
    value = table.get("image_size", {}).get(model, "")
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def problems(model: str, sizes: Sequence[str]) -> list[str]:
    """Return a sentence for each size that a model cannot have."""
    spec = models.get(model)
    found = []
    for text in filter(None, sizes):
        size = image_sizes.parsed(text)
        if size is None:
            found.append(f"image_size of `{model}` is `{shown(text)}`, not a size in pixels")
        elif fault := image_sizes.size_fault(spec, size):
            found.append(fault[0])
    return found
