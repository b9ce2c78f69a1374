"""Check everything that a run is asked for, before a model is opened."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from effsam_export.errors import PromptError, UsageError
from effsam_export.imaging.decode import image_size
from effsam_export.imaging.images import SUPPORT_HINT, check_prompt, frame_of
from effsam_export.inference import (
    embeddings,
    image_list,
    mask_prompts,
    normalized,
    outputs,
    prompt_files,
    prompt_matching,
    runner,
)
from effsam_export.inference.run_records import OBJECT, ImageTask, ObjectPrompt
from effsam_export.spec.prompts import MAX_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from effsam_export.bundle.read import Bundle
    from effsam_export.inference.outputs import Outputs
    from effsam_export.inference.run_records import RunSettings
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.prompts import Prompt
    from effsam_export.util.problems import Problems

LOOK_NORMALIZED = (
    "all coordinates are from 0 to 1, and are taken as pixels: give --normalized if they are "
    "fractions of the image's width and height"
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run is asked for.

    Attributes:
        bundle: The bundle; None if it cannot be read.
        images: Image files and folders.
        settings: What is the same for all images.
        outputs: What is written.
        prompts: The prompts for each image.
        prompt_file: File of prompts, in place of `prompts`.
        normalized: Coordinates are fractions of an image's width and height, not pixels.
        mask_input: File of the mask of the only prompt.
        embedding: File with the embedding of the only image, or folder with a file of each.
    """

    bundle: Bundle | None
    images: tuple[Path, ...]
    settings: RunSettings
    outputs: Outputs
    prompts: tuple[Prompt, ...] = ()
    prompt_file: Path | None = None
    normalized: bool = False
    mask_input: Path | None = None
    embedding: Path | None = None

    @property
    def model(self) -> ModelSpec | None:
        """The bundle's model."""
        return None if self.bundle is None else self.bundle.model


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does.

    Attributes:
        tasks: The images with their prompts.
        categories: Names of the prompts' categories with their numbers.
        notes: What the user should know before it begins, as sentences.
    """

    tasks: tuple[ImageTask, ...] = ()
    categories: Mapping[str, int] = field(default_factory=lambda: {OBJECT: 1})
    notes: tuple[str, ...] = ()


def plan(request: Request, problems: Problems) -> Plan:
    """Return what a run does, and keep an error for whatever is wrong."""
    paths: tuple[Path, ...] = ()
    with problems.gather():
        paths = image_list.expand(request.images)
    outputs.check(request.outputs, paths, problems)
    if request.model is not None and request.settings.single_mask:
        with problems.gather():
            runner.require_single_mask(request.model)
    keeps = request.outputs.embedding is not None or request.embedding is not None
    if request.model is not None and keeps and request.model.finds_instances:
        problems.add(
            UsageError(
                f"`{request.model.name}` finds instances, and has no embedding",
                hint="leave out --save-embedding and --embedding",
            )
        )
    found = Plan(tasks=_tasks(paths, problems))
    if request.prompt_file is not None:
        with problems.gather():
            found = _with_file(found, request.prompt_file, paths)
    else:
        prompts = tuple(ObjectPrompt(prompt=p) for p in request.prompts)
        found = replace(found, tasks=tuple(replace(t, prompts=prompts) for t in found.tasks))
    if request.normalized:
        tasks = tuple(_in_pixels(task, problems, several=len(paths) > 1) for task in found.tasks)
        found = replace(found, tasks=tasks)
    elif normalized.look_normalized(i.prompt for task in found.tasks for i in task.prompts):
        found = replace(found, notes=(*found.notes, LOOK_NORMALIZED))
    if request.model is not None and request.mask_input is not None:
        tasks = found.tasks
        # Without its mask, a prompt is not the one that was meant.
        found = replace(found, tasks=())
        with problems.gather():
            found = replace(found, tasks=_with_mask(tasks, request.mask_input, request.model))
    if request.embedding is not None:
        tasks = tuple(_with_embedding(task, request, problems) for task in found.tasks)
        found = replace(found, tasks=tasks)
    if request.model is not None:
        for task in found.tasks:
            _check_prompts(task, request.model, problems, several=len(paths) > 1)
    return found


def _tasks(paths: Sequence[Path], problems: Problems) -> tuple[ImageTask, ...]:
    """Return the images that can be read, without prompts."""
    counts = Counter(path.name for path in paths)
    tasks: list[ImageTask] = []
    for path, name in zip(paths, image_list.output_names(paths), strict=True):
        with problems.gather():
            tasks.append(
                ImageTask(
                    path=path,
                    name=name,
                    size=image_size(path),
                    # Images with equal names in different folders keep their folders.
                    file_name=path.name if counts[path.name] == 1 else path.as_posix(),
                    image_id=len(tasks) + 1,
                )
            )
    return tuple(tasks)


def _with_file(found: Plan, path: Path, images: Sequence[Path]) -> Plan:
    """Return the plan with the prompts of a file, and without the images that it has none for.

    Raises:
        PromptError: The file is wrong, or its images are not those of the run.
    """
    file = prompt_files.load(path)
    assigned = prompt_matching.assign(file, images)
    tasks = []
    for task in found.tasks:
        prompts = tuple(assigned.prompts[task.path])
        if len(prompts) > MAX_POINTS:
            raise PromptError(
                f"prompts file `{path}` has {len(prompts)} prompts for image `{task.path}`",
                hint=f"give an image {MAX_POINTS} prompts at most",
            )
        name = assigned.names.get(task.path, task.file_name)
        own = replace(task, prompts=prompts)
        if file.is_coco and prompts:
            own = replace(own, file_name=name, image_id=file.image_ids[name])
        tasks += [own] if prompts else []
    return Plan(
        tasks=tuple(tasks),
        categories=file.categories,
        notes=(*found.notes, *assigned.notes),
    )


def _in_pixels(task: ImageTask, problems: Problems, *, several: bool) -> ImageTask:
    """Return an image whose prompts are fractions with prompts in pixels."""
    prompts: list[ObjectPrompt] = []
    for number, item in enumerate(task.prompts, start=1):
        with problems.gather(), _naming(task, number, several=several):
            prompts.append(replace(item, prompt=normalized.to_pixels(item.prompt, task.size)))
    return replace(task, prompts=tuple(prompts))


def _with_mask(tasks: Sequence[ImageTask], path: Path, model: ModelSpec) -> tuple[ImageTask, ...]:
    """Return the only image with the mask of a file in its only prompt.

    A mask alone gets its box too: SAM was not trained for a mask without a point or a box.

    Raises:
        PromptError: There are several images, the model takes no mask, or the file is wrong.
    """
    if len(tasks) > 1:
        raise PromptError(
            f"--mask-input is for one image, and there are {len(tasks)}",
            hint="run the images one at a time",
        )
    if not model.prompts.mask:
        raise PromptError("this model takes no mask", hint=SUPPORT_HINT)
    return tuple(_masked(task, path, model) for task in tasks)


def _masked(task: ImageTask, path: Path, model: ModelSpec) -> ImageTask:
    mask = mask_prompts.load(path, frame_of(task.size, model.preprocess), model.masks)
    prompts = []
    for item in task.prompts:
        prompt = replace(item.prompt, mask_input=mask.logits)
        if not prompt.points and prompt.box is None:
            prompt = replace(prompt, box=mask.box)
        prompts.append(replace(item, prompt=prompt))
    return replace(task, prompts=tuple(prompts))


def _with_embedding(task: ImageTask, request: Request, problems: Problems) -> ImageTask:
    """Return an image with the file of its embedding, and keep an error if that is for another."""
    path = request.embedding
    assert path is not None
    if request.settings.several or path.is_dir():
        path = path / f"{task.name}{embeddings.SUFFIX}"
    if request.model is not None and not request.model.finds_instances:
        with problems.gather():
            embeddings.check(path, task.size, request.settings.encoder_sha256)
    return replace(task, embedding=path)


def _check_prompts(task: ImageTask, model: ModelSpec, problems: Problems, *, several: bool) -> None:
    """Keep an error for each prompt that is outside its image or not supported by the model."""
    for number, item in enumerate(task.prompts, start=1):
        with problems.gather(), _naming(task, number, several=several):
            check_prompt(item.prompt, task.size, model.prompts)


@contextmanager
def _naming(task: ImageTask, number: int, *, several: bool) -> Iterator[None]:
    """Name the image and the number of a prompt in its error, where there are several."""
    try:
        yield
    except PromptError as error:
        where = f"image `{task.path}`, " if several else ""
        where += f"prompt {number}: " if several or len(task.prompts) > 1 else ""
        raise PromptError(f"{where}{error.message}", hint=error.hint) from error
