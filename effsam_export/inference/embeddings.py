"""Keep the embedding of an image in a file, and take it for the same image and encoder only."""

from __future__ import annotations

import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export.errors import ImageError, OutputError, joined, shown
from effsam_export.imaging import arrays
from effsam_export.util import json_text
from effsam_export.util.files import fault_of_file, write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.bundle.read import Bundle
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.tensors import Array, Feeds, Float32, TensorSpec

SUFFIX = ".npz"
VERSION = 1
MAX_ABOUT_BYTES = 10_000
HINT = "give a file that `effsam run --save-embedding` wrote for this bundle and image"


def encoder_sha256(bundle: Bundle) -> str:
    """Return a hash of what an embedding depends on beside the image.

    That is the preprocessing, and the files of the encoder by their hashes in the manifest.
    """
    manifest = bundle.manifest
    files = {e["path"]: e["sha256"] for e in manifest["files"]}
    used = [c["files"] for c in manifest["components"] if c["name"] == "encoder"]
    names = [name for some in used for name in some]
    content = [manifest["preprocess"], sorted(files.get(name, "") for name in names)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def image_sha256(pixels: NDArray[np.uint8]) -> str:
    """Return a hash of the pixels uint8 HxWx3 of an image, and of their number."""
    digest = hashlib.sha256(json.dumps(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def check_suffix(path: Path) -> None:
    """Check the name of a file of an embedding.

    Raises:
        OutputError: It does not end in `SUFFIX`.
    """
    if path.suffix.lower() != SUFFIX:
        raise OutputError(
            f"embedding file `{path}` does not end in `{SUFFIX}`",
            hint=f"end the name in {SUFFIX}, or give a folder for a file of each image",
        )


def save(path: Path, embedding: Feeds, pixels: NDArray[np.uint8], encoder: str) -> None:
    """Write the embedding of an image as a .npz file, atomically.

    It holds the encoder's outputs by name, and in `about` a JSON document with the hashes of the
    image and the encoder as bytes.

    Args:
        path: The file.
        embedding: The encoder's outputs.
        pixels: The image, uint8 HxWx3 RGB.
        encoder: Hash of the encoder, see `encoder_sha256`.

    Raises:
        OutputError: The file cannot be written.
    """
    about = {
        "version": VERSION,
        "encoder_sha256": encoder,
        "image_sha256": image_sha256(pixels),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
    }
    data = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    np.savez(data, **{**embedding, "about": text})  # type: ignore[arg-type]
    write_whole(path, data.getvalue())


def check(path: Path, size: tuple[int, int], encoder: str) -> str:
    """Check that a file is for an image of (height, width) and an encoder.

    Returns:
        The hash of its image.

    Raises:
        ImageError: The file cannot be read, or is for another encoder or size.
    """
    about = _about(path)
    problems = []
    if about.get("encoder_sha256") != encoder:
        problems.append("was made by the encoder of another bundle")
    found = (about.get("height"), about.get("width"))
    if found != size:
        problems.append(
            f"is for an image of {shown(found[1])}x{shown(found[0])} pixels, not of "
            f"{size[1]}x{size[0]}"
        )
    if problems:
        raise ImageError(f"embedding file `{path}` {joined(problems)}", hint=HINT)
    return str(about.get("image_sha256"))


def load(path: Path, pixels: NDArray[np.uint8], model: ModelSpec, encoder: str) -> Feeds:
    """Return the embedding of an image from a file: the encoder's outputs by name.

    Args:
        path: A file that `save` wrote.
        pixels: The image, uint8 HxWx3 RGB.
        model: The model, for the shape of the embedding.
        encoder: Hash of the encoder, see `encoder_sha256`.

    Raises:
        ImageError: The file cannot be read, is for another image or encoder, or holds no finite
            FP32 embedding of the model's shape.
    """
    size = (pixels.shape[0], pixels.shape[1])
    if check(path, size, encoder) != image_sha256(pixels):
        raise ImageError(f"embedding file `{path}` is for another image", hint=HINT)
    return {t.name: _output(path, t) for t in model.component("encoder").outputs}


def _output(path: Path, tensor: TensorSpec) -> Float32:
    values = _member(path, tensor.name, arrays.MAX_BYTES)
    if values.shape != tuple(tensor.shape):
        raise ImageError(
            f"embedding file `{path}` holds an array of shape {list(values.shape)}, "
            f"want {list(tensor.shape)}",
            hint=HINT,
        )
    try:
        return arrays.to_float32(values)
    except ValueError as error:
        raise ImageError(f"embedding file `{path}` holds {error}", hint=HINT) from error


def _about(path: Path) -> dict[str, Any]:
    """Return what a file says of its embedding."""
    content = _member(path, "about", MAX_ABOUT_BYTES)
    try:
        about = json_text.loads(content.astype(np.uint8).tobytes(), max_bytes=MAX_ABOUT_BYTES)
    except ValueError as error:
        raise ImageError(
            f"embedding file `{path}` cannot be read: {shown(error)}", hint=HINT
        ) from error
    if not isinstance(about, dict) or about.get("version") != VERSION:
        raise ImageError(f"embedding file `{path}` has no version {VERSION}", hint=HINT)
    return about


def _member(path: Path, name: str, max_bytes: int) -> Array:
    if fault := fault_of_file(path):
        raise ImageError(f"embedding file `{path}` {fault}", hint=HINT)
    try:
        values = arrays.read_member(path, name, max_bytes)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"embedding file `{path}` cannot be read: {shown(error)}", hint=HINT
        ) from error
    if values is None:
        raise ImageError(f"embedding file `{path}` has no `{name}`", hint=HINT)
    return values
