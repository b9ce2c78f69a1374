"""The directories of an export that is running."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.pipeline import evidence, isolate
from effsam_export.util.owned import temporary_directory
from effsam_export.util.progress import ignore_event

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from effsam_export.util.progress import OnEvent


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where the stages of an export write, and whom they notify.

    Attributes:
        work: The staged bundle: artefacts, and the ONNX files they come from in `source/`.
        scratch: Traced programs, samples and logs, removed at the end.
        on_event: Called with each stage event.
    """

    work: Path
    scratch: Path
    on_event: OnEvent = ignore_event


@contextmanager
def opened(output: Path, on_event: OnEvent, *, force: bool = False) -> Iterator[Workspace]:
    """Open a workspace whose `work` becomes the directory `output` if the block succeeds.

    The log of a failed conversion is copied to `<output>.failed`.

    Args:
        output: Directory of the bundle.
        on_event: Called with each stage event.
        force: Replace a bundle that is at `output` in the end.

    Raises:
        OutputError: The directory cannot be written, or something else is there in the end; the
            bundle is then kept as `<output>.finished`.
    """
    from effsam_export.bundle import staging

    with (
        staging.staged(output, replaces=staging.is_bundle if force else None, keep=True) as work,
        temporary_directory() as scratch,
    ):
        try:
            yield Workspace(work=work, scratch=scratch, on_event=on_event)
        except isolate.ConversionFailed as failure:
            directory = evidence.keep(output, {failure.log.name: failure.log.read_bytes()})
            raise failure.moved(directory / failure.log.name) from failure
