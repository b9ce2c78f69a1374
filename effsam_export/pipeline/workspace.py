"""The directories of an export that is running."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.pipeline import isolate
from effsam_export.util.progress import ignore_event

if TYPE_CHECKING:
    from collections.abc import Iterator

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
def opened(output: Path, on_event: OnEvent) -> Iterator[Workspace]:
    """Open a workspace whose `work` becomes the directory `output` if the block succeeds.

    The log of a failed conversion is copied to `<output>.failed`.

    Raises:
        OutputError: The directory cannot be written.
    """
    from effsam_export.bundle import staging

    with (
        staging.staged(output) as work,
        tempfile.TemporaryDirectory(prefix="effsam-") as scratch,
    ):
        try:
            yield Workspace(work=work, scratch=Path(scratch), on_event=on_event)
        except isolate.ConversionFailed as failure:
            evidence = evidence_directory(output)
            evidence.mkdir(parents=True, exist_ok=True)
            copy = shutil.copyfile(failure.log, evidence / failure.log.name)
            raise failure.moved(copy) from failure


def evidence_directory(output: Path) -> Path:
    """Return the directory that holds the report or the log of a failed export."""
    return output.with_name(f"{output.name}.failed")
