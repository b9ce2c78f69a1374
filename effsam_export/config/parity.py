"""Evaluation images and prompts for parity, from a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.config.toml import data_dir, faults, is_number_list, read_toml
from effsam_export.errors import UsageError
from effsam_export.spec.prompts import Point, Prompt

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

IMAGE_KEYS = {"file": str, "prompts": list}


@dataclass(frozen=True, kw_only=True)
class ParityCase:
    """One prompt on one photograph, in original-image pixels.

    Attributes:
        mask_from: Name of an earlier case on the same photograph whose best mask is fed back.
    """

    name: str
    prompt: Prompt
    mask_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class ParityImage:
    """A photograph and the prompts it is judged with."""

    path: Path
    cases: tuple[ParityCase, ...]


def load_parity_images(path: Path | None = None) -> tuple[ParityImage, ...]:
    """The photographs and prompts parity is judged on: the shipped set, or a user's own file.

    Raises:
        UsageError: Every fault of the file in one message.
    """
    path = path or data_dir("calibration") / "parity.toml"
    if not path.is_file():
        raise UsageError(f"parity file `{path}` does not exist")
    table = read_toml(path)
    images, problems = [], faults(table, {"images": list}, "")
    rows = table.get("images")
    for row in rows if isinstance(rows, list) else ():
        wrong = faults(row, IMAGE_KEYS, "images.")
        if wrong:
            problems += wrong
            continue
        where = f"image `{row['file']}`"
        if not row["prompts"]:
            problems.append(f"{where} has no prompt")
        cases, seen = [], set[str]()
        for entry in row["prompts"]:
            fault = _case_fault(entry, seen)
            if fault:
                problems.append(f"{where}: {fault}")
                continue
            seen.add(entry["name"])
            cases.append(_case(entry))
        images.append(ParityImage(path=path.parent / row["file"], cases=tuple(cases)))
    if not images and not problems:
        problems.append("`images` is empty")
    if problems:
        raise UsageError(f"parity file `{path.name}`: {'; '.join(problems)}")
    return tuple(images)


def _case_fault(entry: object, seen: set[str]) -> str | None:
    """What is wrong with one prompt of a parity file, or None."""
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(name, str) or name in seen:
        return f"prompt name `{name}` is missing or used twice"
    if set(entry) - {"name", "points", "box", "mask_from"}:
        return f"prompt `{name}` has a key that is not `name`, `points`, `box` or `mask_from`"
    if "mask_from" in entry and entry["mask_from"] not in list(seen):
        return f"prompt `{name}` feeds back `{entry['mask_from']}`, which is not above it"
    points = entry.get("points", [])
    fine = isinstance(points, list) and all(is_number_list(p, 3) and p[2] in (0, 1) for p in points)
    if not fine or ("box" in entry and not is_number_list(entry["box"], 4)):
        return f"prompt `{name}` wants points as [x, y, label] and a box as [x0, y0, x1, y1]"
    if not points and "box" not in entry:
        return f"prompt `{name}` has no point and no box"
    return None


def _case(entry: Mapping[str, Any]) -> ParityCase:
    """One checked prompt of a parity file."""
    box = entry.get("box")
    return ParityCase(
        name=entry["name"],
        prompt=Prompt(
            points=tuple(Point(x=x, y=y, label=label) for x, y, label in entry.get("points", [])),
            box=None if box is None else (box[0], box[1], box[2], box[3]),
        ),
        mask_from=entry.get("mask_from"),
    )
