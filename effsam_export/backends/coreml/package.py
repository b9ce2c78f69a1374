"""Make Core ML packages (`.mlpackage` directories) reproducible, and describe them.

coremltools gives the items of a package random names, stores the date of the conversion, and adds a
file for ExecuTorch. These functions remove all three.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any

from effsam_export.backends.coreml import sdk as coreml_sdk
from effsam_export.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from effsam_export.spec.tensors import TensorSpec

MANIFEST = "Manifest.json"
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
DEBUG_HANDLES = "executorch_debug_handle_mapping.json"
"""Written by coremltools for ExecuTorch: number of an FX node -> operations made from it."""
DATE = "com.github.apple.coremltools.conversion_date"


def package_of(files: tuple[Path, ...]) -> Path:
    """Return the package directory of an artefact's files, of which the manifest is the first.

    Raises:
        BundleError: The first file is not the manifest of a package.
    """
    if not files or files[0].name != MANIFEST:
        raise BundleError("a Core ML artefact has no package manifest")
    return files[0].parent


def files_of(package: Path) -> tuple[Path, ...]:
    """Return every file of a package: the manifest first, the others sorted by path."""
    first = package / MANIFEST
    others = {p for p in package.rglob("*") if p.is_file()} - {first}
    return (first, *sorted(others))


def normalise(
    package: Path,
    *,
    tensors: Iterable[TensorSpec],
    description: str,
    about: Mapping[str, str],
) -> None:
    """Describe a package that coremltools has saved, and remove random names and dates.

    Args:
        package: The `.mlpackage` directory, changed in place.
        tensors: Inputs and outputs, whose descriptions Xcode shows.
        description: One line about the model.
        about: User-defined metadata. `origin`, `licence` and `version` also fill Core ML's own
            fields for author, licence and version.
    """
    (package / DEBUG_HANDLES).unlink(missing_ok=True)
    spec = read_spec(package)
    _describe(spec.description, tensors, description, about)
    _remove_dates(spec)
    model = package / MODEL
    model.write_bytes(spec.SerializeToString(deterministic=True))
    model.chmod(0o644)  # written through a private temporary file
    _name_items_by_contents(package)


def read_spec(package: Path) -> Any:  # noqa: ANN401 - protobuf of a package without types
    """Read the specification of a model, a protobuf message."""
    ct = coreml_sdk.load()
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    return spec


def _describe(
    model: Any,  # noqa: ANN401
    tensors: Iterable[TensorSpec],
    description: str,
    about: Mapping[str, str],
) -> None:
    texts = {t.name: t.description for t in tensors}
    # In a package of several functions each function has its tensors, and the model has none.
    for owner in [model, *model.functions]:
        for feature in [*owner.input, *owner.output]:
            feature.shortDescription = texts[feature.name]
    metadata = model.metadata
    metadata.shortDescription = description
    metadata.author = about.get("origin", "")
    metadata.license = about.get("licence", "")
    metadata.versionString = about.get("version", "")
    for key, value in about.items():
        metadata.userDefined[f"effsam.{key}"] = value


def _remove_dates(spec: Any) -> None:  # noqa: ANN401
    """Remove the date from the metadata and the build info, and sort the build info."""
    spec.description.metadata.userDefined.pop(DATE, None)
    entries = spec.mlProgram.attributes["buildInfo"].immediateValue.dictionary.values
    dateless = sorted((e for e in entries if _key(e) != DATE), key=_key)
    del entries[:]
    entries.extend(dateless)


def _key(entry: Any) -> str:  # noqa: ANN401
    return str(entry.key.immediateValue.tensor.strings.values[0])


def _name_items_by_contents(package: Path) -> None:
    """Name the items of a package by their contents instead of random numbers."""
    path = package / MANIFEST
    manifest = json.loads(path.read_text("utf-8"))
    names = {
        old: _name_by_contents(package / "Data" / item["path"])
        for old, item in manifest["itemInfoEntries"].items()
    }
    manifest["itemInfoEntries"] = {
        names[old]: item for old, item in manifest["itemInfoEntries"].items()
    }
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", "utf-8")


def _name_by_contents(item: Path) -> str:
    """Return a UUID from the names and bytes of a file, or of all files of a directory."""
    digest = hashlib.sha256()
    for file in sorted(p for p in [item, *item.rglob("*")] if p.is_file()):
        digest.update(file.relative_to(item.parent).as_posix().encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return str(uuid.UUID(bytes=digest.digest()[:16]))
