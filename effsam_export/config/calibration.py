"""Calibration recipes, read from TOML files or folders of images."""

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
MIN_SAMPLES = 5
"""Fewer samples give a warning: the accuracy was measured with 5 to 40 samples."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
KEYS = {"images": list, "num_samples": int, "seed": int, "crops": dict, "prompts": dict}
CROP_KEYS = {"smallest": float, "flip": bool}
PROMPT_KEYS = {"per_sample": int}


@dataclass(frozen=True, kw_only=True)
class CalibrationRecipe:
    """Which samples calibrate a quantized model.

    Attributes:
        images: Image files. Each whole image is one sample, in this order.
        num_samples: Total number of samples; those after the whole images are crops of them.
        seed: Random seed of the crops and prompts.
        smallest: Minimum side of a crop, as a fraction of the image's side.
        flip: Whether to mirror half of the crops.
        prompts_per_sample: Number of prompts for each sample of a decoder.
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
        """Warnings about the recipe, as sentences."""
        if self.num_samples >= MIN_SAMPLES:
            return ()
        return (
            f"INT8 accuracy with fewer than {MIN_SAMPLES} calibration samples is unmeasured: "
            f"{self.num_samples} given",
        )


def names() -> tuple[str, ...]:
    """Return the names of the recipes in this package."""
    files = data_dir("calibration").glob("*.toml")
    return tuple(sorted(p.stem for p in files if p.stem != "parity"))


def load(source: str = DEFAULT, num_samples: int | None = None) -> CalibrationRecipe:
    """Return a recipe by name, from a TOML file, or for all images of a folder.

    Args:
        source: Name of a recipe in this package, a path ending in `.toml`, or a folder.
        num_samples: Replaces the recipe's number. The default for a folder is the number of its
            images, at least 20.

    Raises:
        UnknownNameError: The recipe does not exist.
        UsageError: The message lists every fault of the file or folder.
    """
    if num_samples is not None and num_samples < 1:
        raise UsageError(f"--num-samples is {num_samples}, but has to be at least 1")
    folder = Path(source)
    if folder.is_dir():
        recipe = _from_folder(folder)
    else:
        path = folder if source.endswith(".toml") else None
        path = path or data_dir("calibration") / f"{source}.toml"
        if not path.is_file():
            if source.endswith(".toml") or "/" in source:
                raise UsageError(
                    f"calibration `{source}` does not exist",
                    hint="give a folder of images, a TOML file or the name of a recipe",
                )
            raise UnknownNameError("calibration recipe", source, names())
        recipe = _from_file(path)
    return recipe if num_samples is None else replace(recipe, num_samples=num_samples)


def _from_folder(folder: Path) -> CalibrationRecipe:
    images = tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES))
    if not images:
        raise UsageError(
            f"no image in `{folder}`", hint=f"supported suffixes: {', '.join(SUFFIXES)}"
        )
    return CalibrationRecipe(
        name=folder.resolve().name, images=images, num_samples=max(20, len(images))
    )


def _from_file(path: Path) -> CalibrationRecipe:
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
        problems.append("`images` has to be a list of at least one path")
    if table["num_samples"] < 1:
        problems.append("`num_samples` is less than 1")
    if table["seed"] < 0:
        problems.append("`seed` is negative")
    if not 0 < table["crops"]["smallest"] <= 1:
        problems.append("`crops.smallest` is not greater than 0 and at most 1")
    if table["prompts"]["per_sample"] < 1:
        problems.append("`prompts.per_sample` is less than 1")
    return problems


def hashes(images: Iterable[Path]) -> dict[Path, str]:
    """Return the SHA-256 of each file that exists."""
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in images if p.is_file()}
