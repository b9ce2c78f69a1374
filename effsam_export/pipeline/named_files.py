"""Give the graphs of an export the names that an app looks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from effsam_export import layouts
from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.bundle.manifest import Exported
    from effsam_export.spec.targets import TargetProfile


def in_layout(exported: list[Exported], target: TargetProfile, work: Path) -> list[Exported]:
    """Move the graphs to the paths of the target's layout; unchanged without a layout.

    Args:
        exported: The components.
        target: The target.
        work: The staged bundle, in which the graphs lie.

    Raises:
        UsageError: A graph that gets another name has its weights in a second file.
    """
    if target.layout is None:
        return exported
    layout = layouts.load(target.layout)
    names = layout.paths(target.precision)
    moved = []
    for entry in exported:
        first, *others = entry.artifact.files
        path = work / names[entry.artifact.component]
        if path != first:
            if others:
                raise UsageError(
                    f"{layout.APP} takes each graph as one file, and the "
                    f"{entry.artifact.component} has over 2 GB",
                    hint="give --precision fp16, or export a smaller model",
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            first.rename(path)
        artifact = replace(entry.artifact, files=(path, *others))
        moved.append(replace(entry, artifact=artifact))
    return moved
