"""A user's own weight file, or folder with one, as a checkpoint."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from effsam_export.errors import CheckpointError, UsageError, shown
from effsam_export.spec.stages import Checkpoint, LoraFile
from effsam_export.util.files import reading, sha256_of
from effsam_export.weights import lora_config
from effsam_export.weights.source import INDEX_SUFFIX, shards_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from effsam_export.spec.model import WeightFile

AGAIN = "download the file itself instead of the page about it"
STATE_DICT = "give the PyTorch checkpoint that it was made from"
OTHER_FORMATS: tuple[tuple[int, bytes, str, str], ...] = (
    # Position and bytes (lower case) by which a file is recognised, what it is, what to do.
    (0, b"version https://git-lfs", "a git-lfs pointer instead of the weights",
     "run `git lfs pull` in the repository it came from"),
    (0, b"<!doctype html", "a web page", AGAIN),
    (0, b"<html", "a web page", AGAIN),
    (0, b"<?xml", "an XML document, such as an OpenVINO model", STATE_DICT),
    (4, b"tfl3", "a TFLite model", STATE_DICT),
    (0, b"gguf", "a GGUF file", STATE_DICT),
    (0, b"\x89hdf", "an HDF5 file (Keras)", STATE_DICT),
    (0, b"ftrt", "a TensorRT engine", STATE_DICT),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first, and name the weight file in it"),
    (0, b"\xfd7zxz", "an xz archive", "unpack it first, and name the weight file in it"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", "unpack it first, and name the weight file in it"),
)  # fmt: skip
ONNX_HEADS = (b"\x08", b"\x12")
"""First byte of an ONNX file: the field of its version, or of its producer's name."""
ONNX_PRODUCERS = (b"pytorch", b"onnx")
OTHER_FOLDERS = {
    # File in a folder -> what the folder is.
    "Manifest.json": "a Core ML package",
    "manifest.json": "a bundle, which is exported already",
    "saved_model.pb": "a TensorFlow model",
}
IN_FOLDERS = (
    # Names of `save_pretrained` and of accelerate, in the order of transformers.
    *("model.safetensors", f"model.safetensors{INDEX_SUFFIX}"),
    *("pytorch_model.bin", f"pytorch_model.bin{INDEX_SUFFIX}"),
)
ADAPTER_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def own_checkpoint(
    weights: WeightFile | None,
    file: Path | None,
    key: str | None,
    base: Path | None,
    lora: Path | None,
    lora_alpha: float | None,
) -> Checkpoint | None:
    """Return the user's checkpoint with its key, base and adapter; None if there is no file.

    Raises:
        CheckpointError: A file is not a weight file.
        UsageError: Another argument is given without it, or an alpha without an adapter.
    """
    if lora_alpha is not None and (lora is None or not math.isfinite(lora_alpha)):
        raise UsageError("--lora-alpha is the finite number of an adapter", hint="add --lora FILE")
    if file is not None:
        return checkpoint_from_file(
            file, weights, key=key, base=base, lora=lora, lora_alpha=lora_alpha
        )
    given = {"--checkpoint-key": key, "--base": base, "--lora": lora}
    alone = [name for name, value in given.items() if value is not None]
    if alone:
        raise UsageError(
            f"{' and '.join(alone)}: for a file of your own only", hint="add --checkpoint FILE"
        )
    return None


def checkpoint_from_file(
    path: Path,
    weights: WeightFile | None,
    *,
    key: str | None = None,
    base: Path | None = None,
    lora: Path | None = None,
    lora_alpha: float | None = None,
) -> Checkpoint:
    """Return a user's file as a checkpoint; official if it has the hash pinned in `weights`.

    Args:
        path: A weight file, an index of shards (`*.index.json`), or a folder with one of these.
        weights: The authors' file of the model.
        key: Which weights of a file with several.
        base: A whole checkpoint that supplies the parts which `path` lacks.
        lora: A LoRA adapter, or its folder.
        lora_alpha: Its alpha, where its file has none.

    Raises:
        CheckpointError: The file is missing, cannot be read, or is not a weight file by its first
            bytes; or a folder has no weight file or several.
    """
    if path.is_dir():
        path = weight_file_in(path)
    if path.exists() and not path.is_file():
        raise CheckpointError(f"`{path}` is not a regular file", hint="name the weight file")
    if not path.is_file():
        hint = "check the path"
        if weights is not None and weights.sources:
            hint += ", or leave `--checkpoint` out to fetch the authors' file"
        raise CheckpointError(f"there is no checkpoint at `{path}`", hint=hint)
    with reading(path), path.open("rb") as file:
        head = file.read(64)
    refuse_other_formats(path, head)
    digest = sha256_of_weights(path)
    official = weights is not None and digest == weights.sha256 and base is None and lora is None
    return Checkpoint(
        path=path,
        sha256=digest,
        official=official,
        key=key,
        base=None if base is None else checkpoint_from_file(base, weights),
        lora=None if lora is None else lora_from_file(lora, lora_alpha),
    )


def lora_from_file(path: Path, alpha: float | None) -> LoraFile:
    """Return a LoRA adapter, which is a weight file or PEFT's folder.

    Its hash is that of the lines `<sha256>  <file name>` of the weight file and, if it lies beside
    it, of `adapter_config.json`.

    Raises:
        CheckpointError: There is no weight file, or it cannot be read.
    """
    if path.is_dir():
        found = [path / n for n in ADAPTER_NAMES if (path / n).is_file()]
        if not found:
            raise CheckpointError(
                f"`{path}` has no {' or '.join(ADAPTER_NAMES)}", hint="name the adapter's file"
            )
        path = found[0]
    if not path.is_file():
        raise CheckpointError(f"there is no LoRA adapter at `{path}`", hint="check the path")
    with reading(path), path.open("rb") as file:
        refuse_other_formats(path, file.read(64))
    files = [path, path.with_name(lora_config.FILE_NAME)]
    return LoraFile(path=path, sha256=_sha256_of([f for f in files if f.is_file()]), alpha=alpha)


def refuse_other_formats(path: Path, head: bytes) -> None:
    """Check the first bytes of a file against formats that are no weight file.

    Raises:
        CheckpointError: It is empty, or of one of them; the hint says what to do instead.
    """
    text = head.lstrip().lower()
    if not text:
        raise CheckpointError(f"`{path}` is empty", hint="download it again")
    for position, mark, what, hint in OTHER_FORMATS:
        # Text formats may start with white space.
        found = text if position == 0 else head.lower()[position:]
        if found.startswith(mark):
            raise CheckpointError(f"`{path}` is {what}", hint=hint)
    is_named = path.suffix.lower() == ".onnx" or any(p in head for p in ONNX_PRODUCERS)
    if head.startswith(ONNX_HEADS) and is_named:
        raise CheckpointError(f"`{path}` is an ONNX model", hint=STATE_DICT)


def weight_file_in(folder: Path) -> Path:
    """Return the weight file of a folder, or the index of its shards.

    Raises:
        CheckpointError: There is none, or several, or the folder is of another kind.
    """
    with reading(folder):
        files = sorted(p for p in folder.iterdir() if p.is_file())
    names = {p.name: p for p in files}
    if "adapter_config.json" in names:
        raise CheckpointError(
            f"`{folder}` is a PEFT adapter, which changes the weights of another file",
            hint="give that file with --checkpoint, and this folder with --lora",
        )
    for name, what in OTHER_FOLDERS.items():
        if name in names:
            raise CheckpointError(f"`{folder}` is {what}", hint=STATE_DICT)
    for name in IN_FOLDERS:
        if name in names:
            return names[name]
    found = [p for p in files if p.suffix.lower() in SUFFIXES]
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(
            f"`{folder}` is a directory with {len(found)} weight files",
            hint=f"name one of them, as `{shown(found[0].name)}`",
        )
    shards = "distributed" if any(p.suffix == ".distcp" for p in files) else ""
    hint = "name the weight file in it"
    if shards:
        hint = "join its shards first (torch.distributed.checkpoint.format_utils)"
    raise CheckpointError(f"`{folder}` is a directory, not a checkpoint", hint=hint)


def sha256_of_weights(path: Path) -> str:
    """Return the SHA-256 of a weight file.

    For an index it is that of the lines `<sha256>  <file name>` of its shards, sorted by name, as
    `sha256sum` prints them.
    """
    if not path.name.endswith(INDEX_SUFFIX):
        return sha256_of(path)
    return _sha256_of(shards_of(path))


def _sha256_of(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the lines that `sha256sum` prints for files in one folder."""
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
