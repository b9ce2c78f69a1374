"""Evaluation images and prompts of the parity check, read from a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.config.toml import data_dir, faults, is_name, is_number_list, read_toml, refuse
from effsam_export.config.value_range import AUTO, FORM, parse_range
from effsam_export.errors import shown
from effsam_export.spec.prompts import MAX_POINTS, MAX_SIDE, Point, Prompt
from effsam_export.util.names import file_key, file_name_fault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.imaging.pixels import ValueRange

"""Characters of a prompt's name, which becomes a part of file names."""
IMAGE_KEYS = {"file": str, "prompts": list}
OPTIONAL_IMAGE_KEYS = {"range": str}


@dataclass(frozen=True, kw_only=True)
class ParityCase:
    """One prompt on one evaluation image, in pixels of the original image.

    Attributes:
        mask_from: Name of an earlier case on the same image. The logits of its best mask are this
            prompt's mask input.
    """

    name: str
    prompt: Prompt
    mask_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class ParityImage:
    """An evaluation image and its prompts.

    Attributes:
        value_range: Which values of the image become black and white.
    """

    path: Path
    cases: tuple[ParityCase, ...]
    value_range: ValueRange = AUTO


def load_parity_images(path: Path | None = None) -> tuple[ParityImage, ...]:
    """Return the evaluation images and prompts of a parity file, or of the package's own.

    Raises:
        UsageError: The file does not exist, or the message lists all its faults.
    """
    path = path or data_dir("calibration") / "parity.toml"
    table = read_toml(path, "parity file")
    images, problems = [], faults(table, {"images": list}, "")
    rows = table.get("images")
    for row in rows if isinstance(rows, list) else ():
        given = {k: v for k, v in OPTIONAL_IMAGE_KEYS.items() if isinstance(row, dict) and k in row}
        wrong = faults(row, {**IMAGE_KEYS, **given}, "images.")
        if wrong:
            problems += wrong
            continue
        where = f"image `{shown(row['file'])}`"
        if not is_name(row["file"]):
            problems.append(f"{where} is not a path")
        if not row["prompts"]:
            problems.append(f"{where} has no prompt")
        values = parse_range(row.get("range", AUTO))
        if values is None:
            problems.append(f"{where} has a `range` that is not {FORM}")
        cases, seen = [], dict[str, str]()
        for entry in row["prompts"]:
            fault = _case_fault(entry, seen)
            if fault:
                problems.append(f"{where}: {fault}")
                continue
            seen[file_key(entry["name"])] = entry["name"]
            cases.append(_case(entry))
        images.append(
            ParityImage(
                path=path.parent / row["file"],
                cases=tuple(cases),
                value_range=values or AUTO,
            )
        )
    if not images and not problems:
        problems.append("`images` is empty")
    if problems:
        refuse("parity file", path, problems)
    return tuple(images)


def _case_fault(entry: object, seen: Mapping[str, str]) -> str | None:
    """Return what is wrong with one prompt of a parity file, or None.

    Args:
        entry: The prompt.
        seen: Key of each earlier name of the image (`file_key`) -> the name.
    """
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(name, str) or file_key(name) in seen:
        return f"prompt name `{shown(name)}` is missing or used twice"
    # A bundle has a file with the name of a prompt.
    if fault := file_name_fault(name):
        return f"prompt name `{shown(name)}` {fault}"
    if set(entry) - {"name", "points", "box", "mask_from"}:
        return f"prompt `{name}` has a key that is not `name`, `points`, `box` or `mask_from`"
    if "mask_from" in entry and entry["mask_from"] not in list(seen.values()):
        source = shown(entry["mask_from"])
        return f"prompt `{name}` takes its mask from `{source}`, which is not an earlier prompt"
    points = entry.get("points", [])
    fine = isinstance(points, list) and all(is_number_list(p, 3) and p[2] in (0, 1) for p in points)
    if not fine or ("box" in entry and not is_number_list(entry["box"], 4)):
        return f"prompt `{name}` needs points as [x, y, label] and a box as [x0, y0, x1, y1]"
    if len(points) > MAX_POINTS:
        return f"prompt `{name}` has {len(points)} points, more than {MAX_POINTS}"
    if not all(abs(v) <= MAX_SIDE for some in (*points, entry.get("box", [])) for v in some):
        return f"prompt `{name}` has a coordinate over {MAX_SIDE}, more than an image has pixels"
    if not points and "box" not in entry:
        return f"prompt `{name}` has no point and no box"
    return None


def _case(entry: Mapping[str, Any]) -> ParityCase:
    """Return the case of one checked prompt."""
    box = entry.get("box")
    return ParityCase(
        name=entry["name"],
        prompt=Prompt(
            points=tuple(Point(x=x, y=y, label=label) for x, y, label in entry.get("points", [])),
            box=None if box is None else (box[0], box[1], box[2], box[3]),
        ),
        mask_from=entry.get("mask_from"),
    )
