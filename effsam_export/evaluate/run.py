"""Evaluate bundles on annotated images, image by image, beside the PyTorch reference."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export._version import __version__
from effsam_export.errors import UsageError
from effsam_export.evaluate import coco, record, reference
from effsam_export.evaluate.answers import answers_of
from effsam_export.evaluate.dataset import shipped
from effsam_export.evaluate.figures import measurements, results
from effsam_export.evaluate.log import FOLDER, AnswerLog, remove_unused
from effsam_export.evaluate.results import (
    Annotations,
    Evaluated,
    Evaluation,
    Reference,
)
from effsam_export.evaluate.subjects import subjects
from effsam_export.inference.predictor import Predictor
from effsam_export.util import machine
from effsam_export.util.files import sha256_of
from effsam_export.util.problems import Problems
from effsam_export.util.progress import ignore_event, stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from effsam_export.evaluate.answers import ImageAnswers, Segmenter
    from effsam_export.evaluate.dataset import Dataset
    from effsam_export.evaluate.prompts import PromptKind
    from effsam_export.evaluate.subjects import Subject
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.util.progress import OnEvent


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an evaluation measures.

    Attributes:
        prompts: The ways in which the objects are asked for.
        cache_dir: Folder in which the answers are kept, so that an interrupted evaluation goes on.
        coco: Annotation file in COCO's format; None for the package's.
        images: Folder of its images; None for the package's.
        crowds: Evaluate the annotations of crowds too.
        checkpoint: Weight file of the PyTorch reference; None for no reference.
        base, lora: The files that the export took as `--base` and `--lora`.
        limit: Maximum number of images, chosen by `seed`; None for all.
        seed: Of random points, of the choice of images and of the bootstrap.
        restart: Forget the answers of an earlier run.
        recorded: Record the results in the bundles' manifests.
    """

    prompts: tuple[PromptKind, ...]
    cache_dir: Path
    coco: Path | None = None
    images: Path | None = None
    crowds: bool = False
    checkpoint: Path | None = None
    base: Path | None = None
    lora: Path | None = None
    limit: int | None = None
    seed: int = 0
    restart: bool = False
    recorded: bool = False


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What all segmenters of an evaluation share."""

    settings: Settings
    dataset: Dataset
    hashes: tuple[str, ...]
    on_event: OnEvent

    def answers(
        self, name: str, key: Mapping[str, Any], open_segmenter: Callable[[ExitStack], Segmenter]
    ) -> list[ImageAnswers]:
        """Return the answers for all images; those of an earlier run are not asked for again.

        Args:
            name: Name of the segmenter, for the progress.
            key: Everything that its masks depend on besides the prompts.
            open_segmenter: Opens it; the stack closes it.
        """
        settings = self.settings
        whole = {
            "effsam": __version__,
            "annotations": self.dataset.sha256,
            "crowds": settings.crowds,
            "prompts": [kind.name for kind in settings.prompts],
            "seed": settings.seed,
            "segmenter": key,
        }
        log = AnswerLog(settings.cache_dir / FOLDER, whole)
        if settings.restart:
            log.forget()
        found: list[ImageAnswers] = []
        kept = 0
        with ExitStack() as stack, stage(f"evaluate {name}", self.on_event) as running:
            segmenter: Segmenter | None = None
            total = len(self.dataset.images)
            for image, sha256 in zip(self.dataset.images, self.hashes, strict=True):
                answers = log.get(image.id, sha256)
                kept += answers is not None
                if answers is None:
                    segmenter = segmenter or open_segmenter(stack)
                    answers = answers_of(segmenter, image, sha256, settings.prompts, settings.seed)
                    log.add(image.id, answers)
                found.append(answers)
                running.on_progress(len(found), total)
            running.detail = f"{total} images"
            if kept:
                running.detail += f", {kept} of them by an earlier run"
        return found


def evaluate(
    paths: Sequence[Path], settings: Settings, on_event: OnEvent = ignore_event
) -> Evaluation:
    """Evaluate bundles one after the other.

    Everything is checked before the first image is segmented.

    Args:
        paths: Directories of bundles, or packed ones.
        settings: What is measured.
        on_event: Called with each stage event.

    Raises:
        UsageError: The annotations, the images, the bundles, or the checkpoint have faults.
        CheckFailed: The checkpoint is not the bundle's.
        BundleError: A runtime fails on an image, or a bundle cannot record its results.
        ToolchainMissing: pycocotools, a runtime, or PyTorch is not installed.
    """
    _check(settings)
    with ExitStack() as stack:
        found = subjects(paths, settings.prompts, stack, recorded=settings.recorded)
        checkpoints = _checkpoints(found, settings)
        run = _run(settings, on_event)
        remove_unused(settings.cache_dir / FOLDER)
        references: dict[str, list[ImageAnswers]] = {}
        bundles = []
        for subject, checkpoint in zip(found, checkpoints, strict=True):
            beside = (
                None if checkpoint is None else _reference(run, subject, checkpoint, references)
            )
            bundles.append(_bundle(run, subject, checkpoint, beside))
        evaluation = _evaluation(run, tuple(bundles))
        if settings.recorded:
            for subject, evaluated in zip(found, bundles, strict=True):
                record.add(subject.path, evaluation, evaluated, subject.manifest_sha256)
    return evaluation


def _check(settings: Settings) -> None:
    """Raise an error for settings that are given without others."""
    problems = Problems()
    if (settings.coco is None) != (settings.images is None):
        problems.add(
            UsageError(
                "--coco and --images belong together",
                hint="give both, or neither for the package's",
            )
        )
    if settings.checkpoint is None and (settings.base is not None or settings.lora is not None):
        problems.add(
            UsageError("--base and --lora belong to a reference", hint="add --reference CHECKPOINT")
        )
    problems.raise_any("the evaluation cannot start")


def _checkpoints(found: Sequence[Subject], settings: Settings) -> list[Checkpoint | None]:
    """Return the reference's checkpoint for each bundle; None without a reference."""
    if settings.checkpoint is None:
        return [None] * len(found)
    checkpoints: list[Checkpoint | None] = []
    problems = Problems()
    for subject in found:
        with problems.gather():
            checkpoints.append(
                reference.checkpoint_of(
                    subject.bundle, settings.checkpoint, settings.base, settings.lora
                )
            )
    problems.raise_any("the reference cannot run")
    return checkpoints


def _run(settings: Settings, on_event: OnEvent) -> _Run:
    """Read the annotations and hash their images."""
    annotations, folder = shipped()
    with stage("annotations", on_event) as running:
        dataset = coco.load(
            settings.coco or annotations, settings.images or folder, crowds=settings.crowds
        ).limited(settings.limit, settings.seed)
        hashes = tuple(sha256_of(image.path) for image in dataset.images)
        running.detail = f"{dataset.count} objects in {len(dataset.images)} images"
    return _Run(settings=settings, dataset=dataset, hashes=hashes, on_event=on_event)


def _reference(
    run: _Run, subject: Subject, checkpoint: Checkpoint, known: dict[str, list[ImageAnswers]]
) -> list[ImageAnswers]:
    """Return PyTorch's answers; bundles of the same model share them."""
    key = reference.key_of(subject.bundle, checkpoint)
    name = repr(key)
    if name not in known:
        known[name] = run.answers(
            f"{subject.model.name} in PyTorch",
            key,
            lambda _: reference.opened(subject.bundle, checkpoint),
        )
    return known[name]


def _bundle(
    run: _Run,
    subject: Subject,
    checkpoint: Checkpoint | None,
    beside: Sequence[ImageAnswers] | None,
) -> Evaluated:
    """Evaluate one bundle."""
    manifest, bundle = subject.bundle.manifest, subject.bundle
    answers = run.answers(
        str(subject.path), subject.key, lambda stack: stack.enter_context(Predictor(bundle.path))
    )
    one_mask = subject.model.finds_instances or len(subject.model.masks.multimask) < 2
    found = measurements(run.dataset, answers, beside, ranked=not one_mask)
    names = [kind.name for kind in run.settings.prompts]
    return Evaluated(
        bundle=str(subject.path),
        model=subject.model.name,
        target=manifest["target"]["name"],
        precision=manifest["precision"]["requested"],
        runtime=subject.runtime,
        simulator=subject.simulator,
        images_per_second=None if subject.simulator else _speed(answers),
        reference=None
        if checkpoint is None or beside is None
        else Reference(
            file=checkpoint.path.name, sha256=checkpoint.sha256, images_per_second=_speed(beside)
        ),
        notes=tuple(_notes(run, subject)),
        results=results(found, names, len(run.dataset.images), run.settings.seed),
        measurements=tuple(found),
    )


def _speed(answers: Sequence[ImageAnswers]) -> float:
    """Return the number of images a second."""
    return len(answers) / max(sum(a.seconds for a in answers), 1e-9)


def _notes(run: _Run, subject: Subject) -> list[str]:
    notes = []
    if subject.simulator:
        notes.append(
            f"its runtime does not run on this machine: {subject.simulator} ran in its place, and "
            "its speed was not measured"
        )
    calibration = subject.bundle.manifest.get("int8", {}).get("calibration", {})
    calibrated = {image["sha256"] for image in calibration.get("images", ())}
    if count := sum(sha256 in calibrated for sha256 in run.hashes):
        notes.append(f"{count} of the images calibrated this bundle's INT8")
    return notes


def _evaluation(run: _Run, bundles: tuple[Evaluated, ...]) -> Evaluation:
    dataset, settings = run.dataset, run.settings
    return Evaluation(
        annotations=Annotations(
            file=dataset.file,
            sha256=dataset.sha256,
            shipped=settings.coco is None,
            images=len(dataset.images),
            objects=dataset.count,
            crowds=dataset.crowds,
            empty=dataset.empty,
            limit=settings.limit,
        ),
        prompts=tuple(kind.name for kind in settings.prompts),
        seed=settings.seed,
        machine=machine.describe(),
        bundles=bundles,
    )
