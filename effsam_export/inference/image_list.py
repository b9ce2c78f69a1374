"""The images of a run: files and folders from the command line, and names for what they give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import ImageError
from effsam_export.util.files import IS_A_DIRECTORY, fault_of_file
from effsam_export.util.names import FORBIDDEN, file_key, file_name_fault
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

SUFFIXES = (*(".jpg", ".jpeg", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),)
"""Endings of the files that a folder is searched for."""
MAX_IMAGES = 100_000
MAX_STEM_BYTES = 80
"""Bytes of an image's name in the name of an output, which may have 100."""


def expand(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the image files of files and folders, each once.

    A folder gives its own images by name, without those of its subfolders and hidden files.

    Raises:
        ImageError: A folder cannot be read or holds no image, or there are too many images.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        is_folder = fault_of_file(path) == IS_A_DIRECTORY
        for image in _images_of(path) if is_folder else (path,):
            found.setdefault(image.absolute(), image)
    if len(found) > MAX_IMAGES:
        raise ImageError(
            f"there are {len(found)} images, the limit is {MAX_IMAGES}",
            hint="run them in several commands",
        )
    return tuple(found.values())


def are_several(paths: Sequence[Path]) -> bool:
    """Return whether paths stand for any number of images: they are several, or a folder."""
    return len(paths) > 1 or any(fault_of_file(path) == IS_A_DIRECTORY for path in paths)


def _images_of(folder: Path) -> list[Path]:
    try:
        images = sorted(
            p
            for p in folder.iterdir()
            if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
        )
    except OSError as error:
        raise ImageError(f"folder `{folder}` cannot be read: {reason_of(error)}") from error
    if not images:
        raise ImageError(
            f"there is no image in folder `{folder}`",
            hint=f"its images have to end in {', '.join(SUFFIXES)}",
        )
    return images


def output_names(images: Iterable[Path]) -> list[str]:
    """Return a name without suffix for the outputs of each image, all of them different.

    A name is the image's own, without its suffix and without characters that some system does not
    allow. Images with equal names, as in two folders, get `_2`, `_3` and so on.
    """
    names: list[str] = []
    taken: set[str] = set()
    for image in images:
        stem = _allowed(image.stem)
        name, number = stem, 1
        while file_key(name) in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(file_key(name))
        names.append(name)
    return names


def _allowed(stem: str) -> str:
    """Return a stem that is a file name on every system."""
    text = "".join(c if c.isprintable() and c not in FORBIDDEN else "_" for c in stem)
    text = text.encode("utf-8", "replace")[:MAX_STEM_BYTES].decode("utf-8", "ignore")
    text = text.strip(". ")
    return f"image_{text}".strip(". ") if file_name_fault(text) else text
