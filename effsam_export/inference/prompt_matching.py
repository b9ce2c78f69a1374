"""Find the image that each prompt of a file is for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from effsam_export.errors import PromptError, joined, shown
from effsam_export.inference.run_records import ObjectPrompt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effsam_export.inference.prompt_files import PromptFile

MAX_NAMED = 5
"""Images that a note names."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The prompts of a file by image.

    Attributes:
        prompts: In the order of the file; empty for an image without a prompt.
        names: The file's name for an image; absent where it has none.
        notes: What is left out, as sentences.
    """

    prompts: Mapping[Path, Sequence[ObjectPrompt]]
    names: Mapping[Path, str]
    notes: tuple[str, ...]


def assign(file: PromptFile, images: Sequence[Path]) -> Assignment:
    """Find the image of each prompt.

    A name fits an image whose path ends with it, as `a.jpg` and `cats/a.jpg` fit
    `photos/cats/a.jpg`. Of several such images, the one beside the prompts file is taken. A prompt
    without a name is for every image.

    Raises:
        PromptError: A name fits no image or several; only a COCO file may have more images than
            the run.
    """
    by_name: dict[str, list[Path]] = {}
    for image in images:
        by_name.setdefault(image.name, []).append(image)
    named = dict.fromkeys(e.image for e in file.entries if e.image is not None)
    found: dict[str, Path] = {}
    absent, problems = [], []
    for name in named:
        fitting = _fitting(name, by_name, file.path.parent)
        if len(fitting) == 1:
            found[name] = fitting[0]
        elif fitting:
            problems.append(f"`{shown(name)}` fits {len(fitting)} images")
        else:
            absent.append(name)
    if absent and not file.is_coco:
        problems += [f"image `{shown(name)}` is not among the images" for name in absent]
    elif absent and len(absent) == len(named):
        problems.append("none of its images is among the images")
    if problems:
        raise PromptError(
            f"prompts file `{file.path}`: {joined(problems)}",
            hint="give the images, or their folder; a name in the file is the end of a path",
        )
    prompts: dict[Path, list[ObjectPrompt]] = {image: [] for image in images}
    for entry in file.entries:
        item = ObjectPrompt(prompt=entry.prompt, category=entry.category)
        if entry.image is None:
            for image in images:
                prompts[image].append(item)
        elif entry.image in found:
            prompts[found[entry.image]].append(item)
    empty = [str(image) for image, items in prompts.items() if not items]
    notes = [f"{_count(empty)} without a prompt in `{file.path}`, left out"] if empty else []
    if absent:
        notes.append(f"{_count(absent)} of `{file.path}` not among the images, left out")
    names = {image: name for name, image in reversed(found.items())}
    return Assignment(prompts=prompts, names=names, notes=tuple(notes))


def _fitting(name: str, by_name: dict[str, list[Path]], folder: Path) -> list[Path]:
    """Return the images that a name of a prompts file in a folder fits."""
    parts = tuple(p for p in PurePosixPath(name.replace("\\", "/")).parts if p != ".")
    if not parts or "\0" in name:
        return []
    candidates = by_name.get(parts[-1], [])
    exact = {os.path.normpath(Path.cwd() / folder / Path(*parts))}
    beside = [c for c in candidates if os.path.normpath(c.absolute()) in exact]
    ending = [c for c in candidates if c.absolute().parts[-len(parts) :] == parts]
    return beside or ending


def _count(names: Sequence[str]) -> str:
    some = ", ".join(shown(name) for name in names[:MAX_NAMED])
    more = ", ..." if len(names) > MAX_NAMED else ""
    return f"{len(names)} image{'s' if len(names) > 1 else ''} ({some}{more})"
