"""Read a bundle, check its files against its manifest, and open its graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export import backends, layouts, models
from effsam_export.bundle import consistency, paths, session
from effsam_export.bundle.manifest import (
    MANIFEST,
    MANIFEST_VERSION,
    MAX_MANIFEST_BYTES,
    current,
    load,
)
from effsam_export.errors import BundleError, CheckpointError, joined, shown
from effsam_export.models import batching, fixed, image_sizes
from effsam_export.spec.stages import Artifact
from effsam_export.util.files import sha256_of
from effsam_export.util.reasons import reason_of
from effsam_export.weights.mask_tokens import in_number

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from effsam_export.backends import ArtifactSession
    from effsam_export.spec.model import ModelSpec

SIGNATURE = f"{MANIFEST}.sig"
"""File of the signature, in a signed bundle."""
MAX_SIGNATURE_BYTES = 4096
COPY_AGAIN = "copy it again from where it was exported"
PYTHON_CACHE = "__pycache__"
"""Folder that Python makes beside code that it runs, such as the code in a packed bundle."""


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
        """The exported model, with its options, size, batch, masks, slots and layout."""
        entry = self.manifest["model"]
        model = models.configured(models.get(entry["name"]), entry["options"])
        if self.layout is not None:
            # Layouts have one size and SAM's masks; the manifest has those of the app.
            fitted = image_sizes.with_fitted_tables(model)
            return layouts.in_layout(fitted, self.layout)
        model = batching.of_manifest(image_sizes.of_manifest(model, self.manifest), self.manifest)
        masks = self.manifest["masks"]
        count = len({*masks["single"], *masks["multimask"]})
        outputs = [t for c in self.manifest["components"] for t in c["outputs"]]
        # Where the manifest contradicts itself, its masks are held to the model's own.
        if all(t["shape"][1:2] == [count] for t in outputs if t["name"] == "low_res_masks"):
            model = in_number(model, count)
        return fixed.for_options(model, self.manifest["target"]["options"])

    @property
    def layout(self) -> str | None:
        """The app whose inputs, outputs and files the bundle has; None for our own."""
        name: str | None = self.manifest["target"].get("layout")
        return name

    @property
    def simulator(self) -> str:
        """What replaces the bundle's runtime on this machine; empty if that runtime is here."""
        target = self.manifest["target"]
        return backends.load(target["backend"]).simulator(target["options"])

    @property
    def components(self) -> tuple[str, ...]:
        """Names of its components."""
        return tuple(c["name"] for c in self.manifest["components"])

    @property
    def checkpoint_key(self) -> str | None:
        """Which weights of its checkpoint's file it was exported from; None if not recorded."""
        entry = self.manifest["checkpoint"]
        parts = (str(entry.get("key", "")), str(entry.get("prefix", "")).rstrip("."))
        return ".".join(part for part in parts if part) if "key" in entry else None

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
        BundleError: There is no bundle, or its manifest is broken, a link, or has an unreadable
            version.
    """
    file = path / MANIFEST
    written = load(_content(path, file), str(file))
    manifest = current(written)
    if manifest["target"]["backend"] not in backends.BACKENDS:
        raise BundleError(
            f"bundle `{path}` is for backend `{shown(manifest['target']['backend'])}`, "
            "which this effsam does not know",
            hint="upgrade effsam-export",
        )
    layout = manifest["target"].get("layout")
    if layout is not None and layout not in layouts.LAYOUTS:
        raise BundleError(
            f"bundle `{path}` has layout `{shown(layout)}`, which this effsam does not know",
            hint="upgrade effsam-export",
        )
    return Bundle(path=path, manifest=manifest, manifest_version=int(written["manifest_version"]))


def _content(path: Path, file: Path) -> bytes:
    """Return the bytes of a bundle's manifest.

    Raises:
        BundleError: It is missing, a link, or cannot be read.
    """
    try:
        if not path.is_dir() or not file.is_file():
            raise BundleError(
                f"`{path}` is not a bundle: there is no `{MANIFEST}`"
                if path.is_dir()
                else f"bundle `{path}` does not exist",
                hint="`effsam export MODEL --target TARGET` writes one",
            )
        if file.is_symlink():
            raise BundleError(f"`{file}` is a link", hint=f"a bundle has no links: {COPY_AGAIN}")
        with file.open("rb") as opened:
            return opened.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"`{file}` cannot be read: {reason_of(error)}") from error


def integrity(bundle: Bundle) -> tuple[str, ...]:
    """Return a sentence for each file that is missing, a link, not listed, or has other bytes."""
    listed = {e["path"]: e for e in bundle.manifest["files"]}
    needed = set(consistency.used_files(bundle.manifest))
    problems = [f"`{p}` is used but not listed" for p in sorted(needed - {*listed})]
    problems += [p for entry in listed.values() if (p := file_problem(bundle, entry))]
    signature = bundle.path / SIGNATURE
    if signature.is_symlink():
        problems.append(f"`{SIGNATURE}` is a link")
    elif signature.is_file() and signature.stat().st_size > MAX_SIGNATURE_BYTES:
        problems.append(f"`{SIGNATURE}` has {signature.stat().st_size} bytes, want 64")
    # A runtime loads files beside a graph by name, for example `encoder.onnx.data`.
    there = {
        p.relative_to(bundle.path).as_posix()
        for p in bundle.path.rglob("*")
        if p.is_symlink() or not p.is_dir()
    }
    extra = there - {*listed} - needed - {MANIFEST, SIGNATURE}
    problems += dict.fromkeys(map(_unlisted, sorted(extra)))
    return tuple(problems)


def _unlisted(path: str) -> str:
    """Return a sentence about a file that the manifest does not list, or about its folder."""
    *folders, _ = path.split("/")
    if PYTHON_CACHE not in folders:
        return f"`{shown(path)}` is not in the manifest"
    folder = "/".join(folders[: folders.index(PYTHON_CACHE) + 1])
    return f"`{shown(folder)}` is not in the manifest: Python caches code there, delete the folder"


def file_problem(bundle: Bundle, entry: Mapping[str, Any]) -> str | None:
    """Return why a listed file is not the one of the manifest, as a sentence; None if it is.

    Args:
        bundle: The bundle.
        entry: The file's entry in `files`.
    """
    name = str(entry["path"])
    path = bundle.path / name
    try:
        if link := paths.link_in(bundle.path, name):
            return f"`{link}` is a link"
        if not path.is_file():
            return f"`{name}` is missing"
        size = path.stat().st_size
        if size != entry["size"]:
            return f"`{name}` has {size} bytes, want {entry['size']}"
        if sha256_of(path) != entry["sha256"]:
            return f"`{name}` has another sha256 than the manifest"
    except OSError as error:
        return f"`{name}` cannot be read: {reason_of(error)}"
    except CheckpointError as error:
        return error.message
    return None


def check_component(bundle: Bundle, component: str) -> None:
    """Check the files of a component, and those that its runtime could load beside them.

    Raises:
        BundleError: A file is missing, a link, not listed, or has other bytes.
    """
    listed = {e["path"]: e for e in bundle.manifest["files"]}
    names = [f.relative_to(bundle.path).as_posix() for f in bundle.artifact(component).files]
    # Named like the graph, as `encoder.onnx.data`, `encoder.engine` or in `encoder.mlpackage`.
    folder, name = bundle.path, names[0].split("/")[0]
    if "." not in name:
        # A folder of graphs, as `onnx/vision_encoder.onnx`.
        folder, name = folder / name, names[0].split("/")[1]
    for path in folder.glob(f"{name.split('.')[0]}.*"):
        inner = path.rglob("*") if path.is_dir() and not path.is_symlink() else (path,)
        names += [p.relative_to(bundle.path).as_posix() for p in inner if not p.is_dir()]
    problems = []
    for name in sorted(set(names)):
        if name in listed:
            problems += [p] if (p := file_problem(bundle, listed[name])) else []
        else:
            problems.append(f"`{shown(name)}` is not in the manifest")
    if problems:
        raise BundleError(
            f"bundle `{bundle.path}` is not intact: {joined(problems)}",
            hint=f"{COPY_AGAIN}; `effsam verify` lists everything that is wrong",
        )


def open_session(bundle: Bundle, component: str, threads: int | None = None) -> ArtifactSession:
    """Check the files of one component, and open it in the runtime of the bundle's backend.

    Args:
        bundle: The bundle.
        component: Name of the component.
        threads: Threads of a CPU runtime; None for those of the target, or the runtime's own.

    Raises:
        BundleError: The bundle does not hold the component, its files are not those of the
            manifest, or the runtime cannot open them. A run raises it too, if the runtime fails or
            its outputs are not those of the model.
        ToolchainMissing: The runtime is not installed.
    """
    check_component(bundle, component)
    model = bundle.model
    spec = next((c for c in model.components if c.name == component), None)
    if spec is None:
        raise BundleError(f"`{model.name}` has no {component}, which bundle `{bundle.path}` holds")
    return session.opened(bundle.artifact(component), spec, threads)
