"""Find the files of a `.mlpackage` and parse the protobuf of its model."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

from effsam_export.errors import BundleError, ToolchainMissing
from effsam_export.util import json_text

if TYPE_CHECKING:
    from pathlib import Path

Proto = Any
"""A protobuf message. coremltools has no types for its schema."""

MODEL_PATH = "@model_path"
"""Prefix of weight file names, for the directory of the model file."""


def model_file(package: Path) -> Path:
    """Return the path of the model file that the package's manifest names.

    Raises:
        BundleError: The directory is not a package, or the file is missing.
    """
    try:
        manifest = json_text.load(package / "Manifest.json", max_bytes=1_000_000)
        entry = str(manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"])
        found: Path = package / "Data" / entry
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"`{package.name}` is not a Core ML package: its manifest is missing or not valid"
        ) from (error)
    if entry.startswith("/") or ".." in entry.split("/"):
        raise BundleError(f"the manifest of `{package.name}` names a file outside the package")
    if not found.is_file():
        raise BundleError(f"`{package.name}` has no file `{entry}`, which its manifest names")
    return found


def weights_path(model: Path, file_name: str) -> Path:
    """Return the path of a weight file.

    Raises:
        BundleError: The path is outside the directory of the model file.
    """
    prefix, _, rest = file_name.partition("/")
    parts = rest.split("/")
    if prefix != MODEL_PATH or not rest or ".." in parts or "" in parts:
        raise BundleError(f"a constant is in `{file_name}`, outside the package")
    return model.parent.joinpath(*parts)


def parse(model: Path) -> Proto:
    """Parse the model file to a `Model_pb2.Model`.

    Raises:
        BundleError: The file cannot be read, or is not the protobuf of a model.
        ToolchainMissing: coremltools, which has the schema, is not installed.
    """
    parsed = _schema().Model()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        parsed.ParseFromString(model.read_bytes())
    except (OSError, DecodeError) as error:
        raise BundleError(f"`{model.name}` cannot be read: {error}") from error
    return parsed


def _schema() -> Proto:
    """Import the protobuf modules of coremltools without its output on the terminal."""
    before = logging.root.manager.disable
    # All loggers: coremltools sets the level of its own logger during the import.
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            # coremltools warns about frameworks that it could convert from.
            warnings.simplefilter("ignore")
            from coremltools.proto import Model_pb2
    except ImportError as error:
        raise ToolchainMissing("reading a Core ML package", "coremltools", "coreml") from error
    finally:
        logging.disable(before)
    return Model_pb2
