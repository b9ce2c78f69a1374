"""The bundles of a benchmark, read and checked before the first one is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export import backends
from effsam_export.bundle import archive, read
from effsam_export.errors import BundleError, EffsamError, ToolchainMissing
from effsam_export.spec.slots import slots_of
from effsam_export.util import installed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from effsam_export.bundle.read import Bundle
    from effsam_export.spec.model import ModelSpec

ON_CPU = {
    "onnx": ("provider", "CPUExecutionProvider"),
    "openvino": ("device", "CPU"),
    "tflite": ("delegate", ""),
}
"""Backend -> target option, and its value where the runtime has a number of CPU threads."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One bundle of a benchmark.

    Attributes:
        name: Path of the bundle as the user gave it.
        path: Its directory, which is a temporary one for a packed bundle.
        runtime: Package of its runtime, with the installed version.
        threads: Number of CPU threads; None where the runtime chooses it.
        prompts_per_call: Largest number of prompts of one call of the decoder; None for any
            number, 0 without a decoder.
        images_per_call: Number of images in one call of the encoder.
        bytes: Size of the files that a runtime opens.
        obstacle: Why it cannot be timed on this machine; empty if it can.
    """

    name: str
    path: Path
    model: str
    target: str
    precision: str
    components: tuple[str, ...]
    runtime: str
    threads: int | None
    prompts_per_call: int | None
    bytes: int
    images_per_call: int = 1
    obstacle: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the figures of this bundle leave out or mean, as sentences without a full stop."""
        if self.obstacle:
            return (f"not timed: {self.obstacle}",)
        found = []
        if self.images_per_call > 1:
            found.append(f"a call of the encoder takes {self.images_per_call} images, and is timed")
        if "segmenter" in self.components:
            return (*found, "one graph, which is the encoder here, and no decoder")
        if self.prompts_per_call == 0:
            return (*found, "no decoder in the bundle, so no masks")
        if self.components == ("decoder",):
            found.append("no encoder in the bundle: the decoder runs on a random embedding")
        if self.prompts_per_call == 1:
            found.append("one prompt a call: 8 and 64 prompts are 8 and 64 calls")
        elif self.prompts_per_call is not None:
            found.append(f"at most {self.prompts_per_call} prompts a call: more take several calls")
        return tuple(found)


def subjects(paths: Sequence[Path], threads: int | None, stack: ExitStack) -> tuple[Subject, ...]:
    """Read the bundles of a benchmark.

    Args:
        paths: Directories of bundles, or packed ones.
        threads: Number of CPU threads; None for those of the targets and the runtimes.
        stack: Removes the directories of packed bundles.

    Raises:
        BundleError: Some cannot be read; the message names each of them.
    """
    results = [_subject_or_error(path, threads, stack) for path in paths]
    problems = [r for r in results if isinstance(r, EffsamError)]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise BundleError(
            f"{len(problems)} of {len(paths)} bundles cannot be read:",
            lines=[p.message for p in problems],
            hint=problems[0].hint,
        )
    return tuple(r for r in results if isinstance(r, Subject))


def _subject_or_error(path: Path, threads: int | None, stack: ExitStack) -> Subject | EffsamError:
    try:
        return subject(path, stack.enter_context(archive.opened(path)), threads)
    except EffsamError as error:
        return error


def subject(given: Path, directory: Path, threads: int | None) -> Subject:
    """Return the description of one bundle; its graphs are not opened."""
    bundle = read.read(directory)
    manifest, model = bundle.manifest, bundle.model
    target = manifest["target"]
    package = backends.BACKENDS[target["backend"]].packages[0]
    files = {f for c in manifest["components"] for f in c["files"]}
    return Subject(
        name=str(given),
        path=directory.resolve(),
        model=model.name,
        target=target["name"],
        precision=manifest["precision"]["requested"],
        components=bundle.components,
        runtime=f"{package.replace('_', '-')} {installed.version_of(package)}",
        threads=_threads(target, threads),
        prompts_per_call=_prompts_per_call(model, bundle),
        bytes=sum(e["size"] for e in manifest["files"] if e["path"] in files),
        images_per_call=slots_of(model.components[0]),
        obstacle=_obstacle(bundle),
    )


def _threads(target: dict[str, object], asked: int | None) -> int | None:
    options = target["options"]
    assert isinstance(options, dict)
    name, value = ON_CPU.get(str(target["backend"]), ("", None))
    if value is None or options.get(name, value) != value:
        return None
    return asked or options.get("num_threads")


def _prompts_per_call(model: ModelSpec, bundle: Bundle) -> int | None:
    if "decoder" not in bundle.components:
        return 0
    if not any("prompts" in t.shape for t in model.component("decoder").inputs):
        return 1
    limit = bundle.manifest["target"]["options"].get("max_prompts")
    return None if limit is None else int(limit)


def _obstacle(bundle: Bundle) -> str:
    try:
        simulator = bundle.simulator
    except ToolchainMissing as error:
        return error.message
    if simulator:
        return f"its runtime does not run on this machine, only its simulator ({simulator})"
    return ""
