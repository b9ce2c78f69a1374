"""The files that a run writes: where they are, what would be wrong about them, and their content.

An output is a file for a run on one image, or a folder with files named after the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.errors import OutputError
from effsam_export.imaging import overlay
from effsam_export.inference import embeddings, mask_files, overlay_many, overlay_objects
from effsam_export.inference.overlay_objects import DrawnObject
from effsam_export.util.files import require_output
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from effsam_export.inference.run_records import ImageResult
    from effsam_export.util.problems import Problems


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a run writes; None for what it does not.

    Attributes:
        overlay: Picture of the masks over the image, or a folder of pictures.
        masks: Masks in a file, or a folder of files.
        embedding: Embedding in a file, or a folder of files.
        several: The run is on several images, or on a folder.
    """

    overlay: Path | None = None
    masks: Path | None = None
    embedding: Path | None = None
    several: bool = False

    @property
    def named(self) -> dict[str, Path]:
        """The outputs by their options."""
        given = {
            "--output": self.overlay,
            "--masks": self.masks,
            "--save-embedding": self.embedding,
        }
        return {option: path for option, path in given.items() if path is not None}


def is_folder(path: Path) -> bool:
    """Return whether an output is a folder: it is one already, or its name has no suffix."""
    return path.is_dir() or not path.suffix


def check(outputs: Outputs, images: Sequence[Path], problems: Problems) -> None:
    """Keep an error for each output that cannot be written, or would replace an input.

    Args:
        outputs: The outputs.
        images: The input images, some of which may not exist.
        problems: Receives the errors.
    """
    for option, path in outputs.named.items():
        with problems.gather():
            _check_path(option, path, outputs.several)
        with problems.gather():
            _check_input(path, images)
    if outputs.overlay is not None and not is_folder(outputs.overlay):
        with problems.gather():
            overlay.check_suffix(outputs.overlay)
    if outputs.masks is not None and not is_folder(outputs.masks):
        with problems.gather():
            mask_files.check_suffix(outputs.masks)
    if outputs.embedding is not None and not is_folder(outputs.embedding):
        with problems.gather():
            embeddings.check_suffix(outputs.embedding)
    paths = [path.absolute() for path in outputs.named.values()]
    if len(set(paths)) < len(paths):
        problems.add(
            OutputError(
                f"{' and '.join(outputs.named)} are the same path", hint="choose another name"
            )
        )


def _check_path(option: str, path: Path, several: bool) -> None:
    """Raise an error if the path cannot be written, or is a file where a folder is needed."""
    require_output(path, directory=is_folder(path))
    if is_folder(path):
        if path.exists() and not path.is_dir():
            raise OutputError(
                f"{option} `{path}` is a file without suffix, and not a folder",
                hint="choose another name",
            )
    elif several:
        raise OutputError(
            f"{option} `{path}` is one file, but there can be several images",
            hint="give a folder: the path of one, or a name without suffix",
        )


def _check_input(path: Path, images: Sequence[Path]) -> None:
    """Raise an error if an output is an input image, or the folder of one."""
    for image in images:
        if is_folder(path):
            if path.is_dir() and image.parent.is_dir() and path.samefile(image.parent):
                raise OutputError(
                    f"`{path}` is the folder of an input image, which could be overwritten",
                    hint="choose another folder",
                )
        elif path.exists() and image.exists() and path.samefile(image):
            raise OutputError(f"`{path}` is the input image", hint="choose another name")


def write(result: ImageResult, outputs: Outputs, encoder: str = "") -> list[Path]:
    """Write the outputs of one image; return the files, or the folders of several.

    Args:
        result: The masks and the embedding.
        outputs: Where they are written.
        encoder: Hash of the encoder, for the embedding.

    Raises:
        OutputError: A file cannot be written.
    """
    written = []
    name = result.task.name
    if outputs.overlay is not None:
        path = outputs.overlay
        if is_folder(path):
            _make_folder(path)
            path = path / f"{name}.png"
        overlay.save(drawn(result), path)
        written.append(path)
    if outputs.masks is not None:
        path = outputs.masks
        if is_folder(path):
            _make_folder(path)
        mask_files.save(result, path, is_folder=is_folder(path))
        written.append(path)
    if outputs.embedding is not None and result.embedding is not None:
        path = outputs.embedding
        if is_folder(path):
            _make_folder(path)
            path = path / f"{name}{embeddings.SUFFIX}"
        embeddings.save(path, result.embedding, result.decoded.pixels, encoder)
        written.append(outputs.embedding)
    return written


def drawn(result: ImageResult) -> NDArray[np.uint8]:
    """Return the overlay of one image: the best mask of each prompt, or all generated masks."""
    pixels, prompts = result.decoded.pixels, result.task.prompts
    if not prompts:
        return overlay_many.draw(pixels, result.masks)
    best = mask_files.numbered(result.masks)
    if len(prompts) == 1:
        prompt = prompts[0].prompt
        return overlay.draw(
            pixels,
            best[1].decoded(),
            points=[(p.x, p.y, p.label) for p in prompt.points],
            boxes=[] if prompt.box is None else [prompt.box],
        )
    return overlay_objects.draw(
        pixels,
        [
            DrawnObject(number=n, found=best[n], prompt=item.prompt)
            for n, item in enumerate(prompts, start=1)
        ],
    )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"folder `{path}` cannot be created: {reason_of(error)}", hint="choose another name"
        ) from error
