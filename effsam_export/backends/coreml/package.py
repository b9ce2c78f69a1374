"""A Core ML package (`.mlpackage`, a directory) with nothing in it that changes by the hour.

coremltools names the items of a package by random numbers, stamps the date of the conversion on
it, and leaves a file for another toolchain. Here a package is a function of what it holds.
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
"""Written by coremltools for ExecuTorch: operations by the number of the node they came from."""
DATE = "com.github.apple.coremltools.conversion_date"


def package_of(files: tuple[Path, ...]) -> Path:
    """The package that files of an artefact make up; its manifest comes first.

    Raises:
        BundleError: They are no package.
    """
    if not files or files[0].name != MANIFEST:
        raise BundleError("a Core ML artefact has no package manifest")
    return files[0].parent


def files_of(package: Path) -> tuple[Path, ...]:
    """Every file of a package, the manifest first, the others by path."""
    first = package / MANIFEST
    others = {p for p in package.rglob("*") if p.is_file()} - {first}
    return (first, *sorted(others))


def normalise(
    package: Path,
    *,
    tensors: Iterable[TensorSpec],
    described: str,
    about: Mapping[str, str],
) -> None:
    """Describe a package that coremltools has just saved, and drop what is random or dated.

    Args:
        package: The `.mlpackage` directory, changed in place.
        tensors: Inputs and outputs, whose descriptions Xcode shows.
        described: One line on the model.
        about: Facts for the user-defined metadata; `origin`, `licence` and `version` also fill
            the fields Core ML has for author, licence and version.
    """
    (package / DEBUG_HANDLES).unlink(missing_ok=True)
    spec = read_spec(package)
    _describe(spec.description, tensors, described, about)
    _undate(spec)
    model = package / MODEL
    model.write_bytes(spec.SerializeToString(deterministic=True))
    model.chmod(0o644)  # written through a private temporary file
    _renumber(package)


def read_spec(package: Path) -> Any:  # noqa: ANN401 - protobuf of a package without types
    """The specification of a model, a protobuf message."""
    ct = coreml_sdk.load()
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString((package / MODEL).read_bytes())
    return spec


def _describe(
    description: Any,  # noqa: ANN401
    tensors: Iterable[TensorSpec],
    described: str,
    about: Mapping[str, str],
) -> None:
    texts = {t.name: t.description for t in tensors}
    # Several functions: each has tensors of its own, and the model has none.
    for owner in [description, *description.functions]:
        for feature in [*owner.input, *owner.output]:
            feature.shortDescription = texts[feature.name]
    metadata = description.metadata
    metadata.shortDescription = described
    metadata.author = about.get("origin", "")
    metadata.license = about.get("licence", "")
    metadata.versionString = about.get("version", "")
    for key, value in about.items():
        metadata.userDefined[f"effsam.{key}"] = value


def _undate(spec: Any) -> None:  # noqa: ANN401
    """Take the date out of both places, and sort what was written in the order of a hash table."""
    spec.description.metadata.userDefined.pop(DATE, None)
    entries = spec.mlProgram.attributes["buildInfo"].immediateValue.dictionary.values
    kept = sorted((e for e in entries if _key(e) != DATE), key=_key)
    del entries[:]
    entries.extend(kept)


def _key(entry: Any) -> str:  # noqa: ANN401
    return str(entry.key.immediateValue.tensor.strings.values[0])


def _renumber(package: Path) -> None:
    """Name the items of a package by their contents instead of by random numbers."""
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
    """A UUID from the names and bytes of a file, or of all files of a directory."""
    digest = hashlib.sha256()
    for file in sorted(p for p in [item, *item.rglob("*")] if p.is_file()):
        digest.update(file.relative_to(item.parent).as_posix().encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return str(uuid.UUID(bytes=digest.digest()[:16]))
