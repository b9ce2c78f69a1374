"""Read a bundle, check its files against its manifest, and open its graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export import backends, models
from effsam_export.bundle.manifest import MANIFEST, MANIFEST_VERSION, current, load
from effsam_export.errors import BundleError
from effsam_export.models import fixed
from effsam_export.spec.stages import Artifact
from effsam_export.util.files import sha256_of

if TYPE_CHECKING:
    from pathlib import Path

    from effsam_export.backends import ArtifactSession
    from effsam_export.spec.model import ModelSpec

SIGNATURE = f"{MANIFEST}.sig"
"""File of the signature, in a signed bundle."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle on disk with a valid manifest; its files are not yet checked.

    Attributes:
        manifest: In the current version.
        manifest_version: The version of the file on disk.
    """

    path: Path
    manifest: dict[str, Any]
    manifest_version: int = MANIFEST_VERSION

    @property
    def model(self) -> ModelSpec:
        """The model it was exported from, with its options and fixed shapes."""
        entry = self.manifest["model"]
        model = models.configured(models.get(entry["name"]), entry["options"])
        return fixed.for_options(model, self.manifest["target"]["options"])

    @property
    def simulator(self) -> str:
        """What replaces the bundle's runtime on this machine; empty if that runtime is here."""
        target = self.manifest["target"]
        return backends.load(target["backend"]).simulator(target["options"])

    @property
    def components(self) -> tuple[str, ...]:
        """Names of its components."""
        return tuple(c["name"] for c in self.manifest["components"])

    def artifact(self, component: str) -> Artifact:
        """Return the artefact of a component.

        Raises:
            BundleError: The bundle does not hold the component.
        """
        for entry in self.manifest["components"]:
            if entry["name"] == component:
                return Artifact(
                    component=component,
                    backend=self.manifest["target"]["backend"],
                    precision=self.manifest["precision"]["requested"],
                    files=tuple(self.path / f for f in entry["files"]),
                    tensors_by_dtype=self.manifest["precision"]["elements_by_dtype"][component],
                    ops=self.manifest["precision"]["ops_by_type"][component],
                    versions=self.manifest["tools"],
                    options=self.manifest["target"]["options"],
                )
        raise BundleError(
            f"bundle `{self.path}` holds no {component}",
            hint="export it with --component all",
        )

    def source(self, component: str) -> Path:
        """Return the FP32 ONNX file that a component was converted from."""
        entry = next(c for c in self.manifest["components"] if c["name"] == component)
        return self.path / str(entry["source"])


def read(path: Path) -> Bundle:
    """Read and validate the manifest of a bundle; its files are not checked.

    Raises:
        BundleError: There is no bundle, or its manifest is broken or has an unreadable version.
    """
    file = path / MANIFEST
    if not path.is_dir() or not file.is_file():
        raise BundleError(
            f"`{path}` is not a bundle: there is no `{MANIFEST}`"
            if path.is_dir()
            else f"bundle `{path}` does not exist",
            hint="`effsam export MODEL --target TARGET` writes one",
        )
    written = load(file.read_bytes(), str(file))
    manifest = current(written)
    if manifest["target"]["backend"] not in backends.BACKENDS:
        raise BundleError(
            f"bundle `{path}` is for backend `{manifest['target']['backend']}`, "
            "which this effsam does not know",
            hint="upgrade effsam-export",
        )
    return Bundle(path=path, manifest=manifest, manifest_version=int(written["manifest_version"]))


def integrity(bundle: Bundle) -> tuple[str, ...]:
    """Return a sentence for each file that is missing, a link, not listed, or has other bytes."""
    problems = []
    listed = {e["path"] for e in bundle.manifest["files"]}
    needed = {f for c in bundle.manifest["components"] for f in [*c["files"], c["source"]]}
    problems += [f"`{p}` is used but not listed" for p in sorted(needed - listed)]
    for entry in bundle.manifest["files"]:
        path = bundle.path / entry["path"]
        if path.is_symlink() or not path.is_file():
            problems.append(f"`{entry['path']}` is {'a link' if path.is_symlink() else 'missing'}")
        elif path.stat().st_size != entry["size"]:
            problems.append(
                f"`{entry['path']}` has {path.stat().st_size} bytes, want {entry['size']}"
            )
        elif sha256_of(path) != entry["sha256"]:
            problems.append(f"`{entry['path']}` has another sha256 than the manifest")
    # A runtime loads files beside a graph by name, for example `encoder.onnx.data`.
    there = {
        p.relative_to(bundle.path).as_posix()
        for p in bundle.path.rglob("*")
        if p.is_symlink() or not p.is_dir()
    }
    extra = there - listed - needed - {MANIFEST, SIGNATURE}
    problems += [f"`{p}` is not in the manifest" for p in sorted(extra)]
    return tuple(problems)


def open_session(bundle: Bundle, component: str) -> ArtifactSession:
    """Open one component in the runtime of the bundle's backend.

    Raises:
        BundleError: The bundle does not hold the component, or its files are missing.
        ToolchainMissing: The runtime is not installed.
    """
    artifact = bundle.artifact(component)
    missing = [p.name for p in artifact.files if not p.is_file()]
    if missing:
        raise BundleError(
            f"bundle `{bundle.path}` lacks {', '.join(f'`{m}`' for m in missing)}",
            hint="copy it again; `effsam verify` lists everything that is wrong",
        )
    return backends.load(artifact.backend).open_session(artifact)
