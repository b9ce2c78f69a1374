"""The files of a `.mlpackage`, and the protobuf of its model."""

from __future__ import annotations

import json
import logging
import warnings
from typing import TYPE_CHECKING, Any

from effsam_export.errors import BundleError, ToolchainMissing

if TYPE_CHECKING:
    from pathlib import Path

Proto = Any
"""A protobuf message. coremltools ships no types for its schema."""

MODEL_PATH = "@model_path"
"""How constants name the folder of the model's own file."""


def model_file(package: Path) -> Path:
    """The file with the program, as the package's manifest names it.

    Raises:
        BundleError: Not a package, or its manifest names no file.
    """
    try:
        manifest = json.loads((package / "Manifest.json").read_text("utf-8"))
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        found: Path = package / "Data" / str(entry)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"`{package.name}` is not a Core ML package: no usable manifest") from (
            error
        )
    if not found.is_file():
        raise BundleError(f"`{package.name}` lacks `{entry}`, which its manifest names")
    return found


def weights_path(model: Path, file_name: str) -> Path:
    """Where a constant's file is.

    Raises:
        BundleError: It would be outside the folder of the model.
    """
    prefix, _, rest = file_name.partition("/")
    parts = rest.split("/")
    if prefix != MODEL_PATH or not rest or ".." in parts or "" in parts:
        raise BundleError(f"a constant is in `{file_name}`, outside the package")
    return model.parent.joinpath(*parts)


def parse(model: Path) -> Proto:
    """The model's protobuf, a `Model_pb2.Model`.

    Raises:
        BundleError: The file cannot be read, or is not a protobuf of a model.
        ToolchainMissing: coremltools, which holds the schema, is not installed.
    """
    parsed = _schema().Model()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        parsed.ParseFromString(model.read_bytes())
    except (OSError, DecodeError) as error:
        raise BundleError(f"`{model.name}` cannot be read: {error}") from error
    return parsed


def _schema() -> Proto:
    """The generated protobuf modules, whose package tells the terminal what it lacks."""
    before = logging.root.manager.disable
    # Of all loggers: coremltools sets the level of its own during the import.
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            # It imports every framework it could convert from; none is used here.
            warnings.simplefilter("ignore")
            from coremltools.proto import Model_pb2
    except ImportError as error:
        raise ToolchainMissing("reading a Core ML package", "coremltools", "coreml") from error
    finally:
        logging.disable(before)
    return Model_pb2
