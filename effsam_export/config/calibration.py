"""Calibration recipes, read from TOML files or folders of images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export.config.toml import (
    data_dir,
    faults,
    is_name,
    is_of_type,
    range_faults,
    read_toml,
    refuse,
)
from effsam_export.config.value_range import AUTO, FORM, parse_range
from effsam_export.errors import UnknownNameError, UsageError, shown
from effsam_export.util.files import IS_A_DIRECTORY, fault_of_file, sha256_of
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from effsam_export.imaging.pixels import ValueRange

DEFAULT = "default"
MIN_SAMPLES = 5
"""Fewer samples give a warning: the accuracy was measured with 5 to 40 samples."""
MAX_SAMPLES = 100_000
MAX_PROMPTS = 1000
"""Maximum number of prompts for each sample."""
MAX_SEED = 2**32 - 1
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
KEYS = {"images": list, "num_samples": int, "seed": int, "crops": dict, "prompts": dict}
OPTIONAL_KEYS = {"range": str}
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
        value_range: Which values of the images become black and white.
    """

    name: str
    images: tuple[Path, ...]
    num_samples: int
    seed: int = 0
    smallest: float = 0.35
    flip: bool = True
    prompts_per_sample: int = 4
    value_range: ValueRange = AUTO

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
    if num_samples is not None and num_samples > MAX_SAMPLES:
        raise UsageError(f"--num-samples is {shown(num_samples)}, but can be {MAX_SAMPLES} at most")
    folder = Path(source)
    fault = fault_of_file(folder)
    if fault == IS_A_DIRECTORY:
        recipe = _from_folder(folder)
    elif source in names():
        recipe = _from_file(data_dir("calibration") / f"{source}.toml")
    elif source.endswith(".toml") and fault is None:
        recipe = _from_file(folder)
    elif source.endswith(".toml") or "/" in source or fault is None:
        raise UsageError(
            f"calibration `{shown(source)}` {fault or 'is neither a folder nor a TOML file'}",
            hint="give a folder of images, a TOML file or the name of a recipe",
        )
    else:
        raise UnknownNameError("calibration recipe", source, names())
    return recipe if num_samples is None else replace(recipe, num_samples=num_samples)


def _from_folder(folder: Path) -> CalibrationRecipe:
    try:
        images = tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES))
    except OSError as error:
        raise UsageError(f"calibration `{folder}` cannot be read: {reason_of(error)}") from error
    if not images:
        raise UsageError(
            f"no image in `{folder}`", hint=f"supported suffixes: {', '.join(SUFFIXES)}"
        )
    return CalibrationRecipe(
        name=folder.resolve().name, images=images, num_samples=max(20, len(images))
    )


def _from_file(path: Path) -> CalibrationRecipe:
    table = read_toml(path, "calibration file")
    given = {key: kind for key, kind in OPTIONAL_KEYS.items() if key in table}
    problems = faults(table, {**KEYS, **given}, "")
    crops, prompts = table.get("crops"), table.get("prompts")
    problems += faults(crops, CROP_KEYS, "crops.") if isinstance(crops, dict) else []
    problems += faults(prompts, PROMPT_KEYS, "prompts.") if isinstance(prompts, dict) else []
    problems += _value_faults(table)
    if problems:
        refuse("calibration file", path, problems)
    return CalibrationRecipe(
        name=path.stem,
        images=tuple(path.parent / name for name in table["images"]),
        num_samples=table["num_samples"],
        seed=table["seed"],
        smallest=float(table["crops"]["smallest"]),
        flip=table["crops"]["flip"],
        prompts_per_sample=table["prompts"]["per_sample"],
        value_range=parse_range(table.get("range", AUTO)) or AUTO,
    )


def _value_faults(table: Mapping[str, Any]) -> list[str]:
    """Return the values of a calibration file that are out of range; wrong types are left out."""
    problems = []
    images = table.get("images")
    if isinstance(images, list) and not (images and all(is_name(n) for n in images)):
        problems.append("`images` has to be a list of at least one path")
    values = table.get("range")
    if isinstance(values, str) and parse_range(values) is None:
        problems.append(f"`range` is not {FORM}")
    problems += range_faults(table, "num_samples", "", 1, MAX_SAMPLES)
    problems += range_faults(table, "seed", "", 0, MAX_SEED)
    crops = table.get("crops")
    smallest = crops.get("smallest") if isinstance(crops, dict) else None
    if isinstance(smallest, (int, float)) and is_of_type(smallest, float) and not 0 < smallest <= 1:
        problems.append("`crops.smallest` is not greater than 0 and at most 1")
    return problems + range_faults(table.get("prompts"), "per_sample", "prompts.", 1, MAX_PROMPTS)


def hashes(images: Iterable[Path]) -> dict[Path, str]:
    """Return the SHA-256 of each file that can be read. Pipes and devices may never end."""
    return {p: sha256_of(p) for p in images if fault_of_file(p) is None}
