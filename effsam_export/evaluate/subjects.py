"""The bundles of an evaluation, read and checked before the first one is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export import backends
from effsam_export.bundle import archive, read
from effsam_export.bundle.manifest import MANIFEST
from effsam_export.errors import PromptError, joined
from effsam_export.evaluate import record
from effsam_export.evaluate.prompts import FORMS
from effsam_export.util import installed
from effsam_export.util.files import sha256_of
from effsam_export.util.problems import Problems

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from effsam_export.bundle.read import Bundle
    from effsam_export.evaluate.prompts import PromptKind
    from effsam_export.spec.model import ModelSpec

CONTRACT = ("components", "preprocess", "prompts", "masks", "target")
"""Parts of a manifest that decide a bundle's masks, with the files of its graphs."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One bundle of an evaluation.

    Attributes:
        path: As the user gave it.
        manifest_sha256: Hash of the manifest.
        runtime: Package of its runtime, with the installed version.
        simulator: What replaces the runtime on this machine; empty if it is here.
    """

    path: Path
    bundle: Bundle
    manifest_sha256: str
    model: ModelSpec
    runtime: str
    simulator: str

    @property
    def key(self) -> dict[str, Any]:
        """Everything that the bundle's masks depend on, for a JSON document."""
        manifest = self.bundle.manifest
        used = {file for component in manifest["components"] for file in component["files"]}
        return {
            **{part: manifest[part] for part in CONTRACT},
            "files": {e["path"]: e["sha256"] for e in manifest["files"] if e["path"] in used},
            "runtime": self.runtime,
            "simulator": self.simulator,
        }


def subjects(
    paths: Sequence[Path], kinds: Sequence[PromptKind], stack: ExitStack, *, recorded: bool
) -> tuple[Subject, ...]:
    """Read the bundles of an evaluation.

    Args:
        paths: Directories of bundles, or packed ones.
        kinds: The prompts that they are asked with.
        stack: Removes the directories of packed bundles.
        recorded: The results are to be recorded in the bundles' manifests.

    Raises:
        BundleError: A bundle cannot be read, is not intact, lacks a component, or cannot record
            results.
        PromptError: A model does not support a kind of prompt.
        ToolchainMissing: A runtime is not installed.
        UsageError: Several of these; the message lists them.
    """
    found: list[Subject] = []
    problems = Problems()
    for path in dict.fromkeys(paths):
        with problems.gather():
            directory = stack.enter_context(archive.opened(path))
            found.append(_subject(path, read.read(directory), kinds))
        if recorded:
            with problems.gather():
                record.check(path)
    problems.raise_any("the evaluation cannot start")
    return tuple(found)


def _subject(path: Path, bundle: Bundle, kinds: Sequence[PromptKind]) -> Subject:
    model = bundle.model
    for component in model.components:
        read.check_component(bundle, component.name)
    faults = [(kind.name, kind.fault(model.prompts)) for kind in kinds]
    refused = [f"`{kind}`: {fault}" for kind, fault in faults if fault]
    if refused:
        raise PromptError(
            f"bundle `{path}` cannot be asked with {joined(refused)}",
            hint=f"choose others with --prompts: {FORMS}",
        )
    package = backends.BACKENDS[bundle.manifest["target"]["backend"]].packages[0]
    return Subject(
        path=path,
        bundle=bundle,
        manifest_sha256=sha256_of(bundle.path / MANIFEST),
        model=model,
        simulator=bundle.simulator,
        runtime=f"{package.replace('_', '-')} {installed.version_of(package)}",
    )
