"""Calibration recipes: TOML files and folders of photographs, checked before any work."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export.config.toml import data_dir, faults, read_toml
from effsam_export.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT = "default"
FLOOR = 5
"""Samples below which a calibration is warned about.

From 5 to 40 the masks of MobileSAM on 12 other photographs show no trend (mean IoU 0.9947, 0.9924,
0.9953, 0.9924 with 5, 12, 20, 40: `benchmarks/results/int8.md`); fewer were not tried."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
KEYS = {"images": list, "num_samples": int, "seed": int, "crops": dict, "prompts": dict}
CROP_KEYS = {"smallest": float, "flip": bool}
PROMPT_KEYS = {"per_sample": int}


@dataclass(frozen=True, kw_only=True)
class CalibrationRecipe:
    """Which samples a quantizer sees.

    Attributes:
        images: Files, each taken whole once, in this order.
        num_samples: In all; those past the photographs are crops of them.
        seed: Of the crops' places and the prompts.
        smallest: Smallest side of a crop, as a share of the photograph's.
        flip: Mirror half of the crops.
        prompts_per_sample: Prompts for each sample, where a decoder is calibrated.
    """

    name: str
    images: tuple[Path, ...]
    num_samples: int
    seed: int = 0
    smallest: float = 0.35
    flip: bool = True
    prompts_per_sample: int = 4

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before relying on it, as sentences."""
        if self.num_samples >= FLOOR:
            return ()
        return (
            f"{self.num_samples} calibration samples are few: fewer than {FLOOR} were never judged",
        )


def names() -> tuple[str, ...]:
    """Recipes that ship."""
    files = data_dir("calibration").glob("*.toml")
    return tuple(sorted(p.stem for p in files if p.stem != "parity"))


def load(source: str = DEFAULT, num_samples: int | None = None) -> CalibrationRecipe:
    """A recipe by name, from a TOML file, or of all the photographs in a folder.

    Args:
        source: A shipped recipe's name, a path ending in `.toml`, or a folder.
        num_samples: In the place of the recipe's own number; of a folder's, one a photograph,
            and at least 20.

    Raises:
        UnknownNameError: No such recipe.
        UsageError: Every fault of the file or folder in one message.
    """
    if num_samples is not None and num_samples < 1:
        raise UsageError(f"--num-samples is {num_samples}, want at least 1")
    folder = Path(source)
    if folder.is_dir():
        recipe = _of_folder(folder)
    else:
        path = folder if source.endswith(".toml") else None
        path = path or data_dir("calibration") / f"{source}.toml"
        if not path.is_file():
            if source.endswith(".toml") or "/" in source:
                raise UsageError(
                    f"calibration `{source}` does not exist",
                    hint="give a folder of photographs, a TOML file or a recipe's name",
                )
            raise UnknownNameError("calibration recipe", source, names())
        recipe = _of_file(path)
    return recipe if num_samples is None else replace(recipe, num_samples=num_samples)


def _of_folder(folder: Path) -> CalibrationRecipe:
    images = tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES))
    if not images:
        raise UsageError(
            f"no photograph in `{folder}`", hint=f"it takes files ending in {', '.join(SUFFIXES)}"
        )
    return CalibrationRecipe(
        name=folder.resolve().name, images=images, num_samples=max(20, len(images))
    )


def _of_file(path: Path) -> CalibrationRecipe:
    table = read_toml(path)
    problems = faults(table, KEYS, "")
    crops, prompts = table.get("crops"), table.get("prompts")
    problems += faults(crops, CROP_KEYS, "crops.") if isinstance(crops, dict) else []
    problems += faults(prompts, PROMPT_KEYS, "prompts.") if isinstance(prompts, dict) else []
    if not problems:
        problems = _value_faults(table)
    if problems:
        raise UsageError(f"calibration file `{path.name}`: {'; '.join(problems)}")
    return CalibrationRecipe(
        name=path.stem,
        images=tuple(path.parent / name for name in table["images"]),
        num_samples=table["num_samples"],
        seed=table["seed"],
        smallest=float(table["crops"]["smallest"]),
        flip=table["crops"]["flip"],
        prompts_per_sample=table["prompts"]["per_sample"],
    )


def _value_faults(table: Mapping[str, Any]) -> list[str]:
    problems = []
    if not table["images"] or not all(isinstance(n, str) for n in table["images"]):
        problems.append("`images` wants paths of photographs, at least one")
    if table["num_samples"] < 1:
        problems.append("`num_samples` is under 1")
    if table["seed"] < 0:
        problems.append("`seed` is negative")
    if not 0 < table["crops"]["smallest"] <= 1:
        problems.append("`crops.smallest` is not over 0 and at most 1")
    if table["prompts"]["per_sample"] < 1:
        problems.append("`prompts.per_sample` is under 1")
    return problems


def hashes(images: Iterable[Path]) -> dict[Path, str]:
    """sha256 of the bytes of each file that is there."""
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in images if p.is_file()}
