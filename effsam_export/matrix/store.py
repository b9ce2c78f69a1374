"""The cache of finished bundles, by the hash of their inputs (`keys.py`).

::

    <root>/bundles/<digest>/bundle/      a bundle
    <root>/bundles/<digest>/built.json   its inputs, duration and memory (`BuildRecord`)
    <root>/cells/<name>.json             the record of a cell's last build
    <root>/work/<random>-<digest>/       files that a process is writing
    <root>/stages/                       traces and outputs that cells share (`stage_cache.py`)
"""

from __future__ import annotations

import json
import secrets
import shutil
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from effsam_export.bundle import read, staging
from effsam_export.bundle.manifest import MANIFEST
from effsam_export.errors import BundleError, OutputError, joined
from effsam_export.pipeline.cache_lock import CacheInUse, exclusive, shared
from effsam_export.pipeline.cache_results import STAGES
from effsam_export.pipeline.stage_cache import OUTPUTS, mark, remove_incomplete, unwritable
from effsam_export.util.files import write_whole
from effsam_export.util.owned import remove_abandoned
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

BUILT = "built.json"


@dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """Inputs and costs of a bundle.

    Attributes:
        parts: Its inputs, from `keys.parts`.
        seconds: Wall time of the export.
        peak_mb: Peak resident memory of the process and its converters, in MB of 1e6 bytes.
    """

    parts: Mapping[str, str]
    seconds: float
    peak_mb: float


class Store:
    """A folder of finished bundles, which several processes may use at the same time.

    Args:
        root: The folder; created if it does not exist.
        read_only: Change nothing in the folder and do not create it, to plan a build.

    Raises:
        OutputError: The folder cannot be written.
    """

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self.root = root
        self._read_only = read_only
        if read_only:
            return
        try:
            for name in ("bundles", "cells", "work"):
                (root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(root, error) from error

    @property
    def stages(self) -> Path:
        """Folder of the stages that cells share."""
        return self.root / STAGES

    @contextmanager
    def in_use(self, output: Path) -> Iterator[None]:
        """Hold the shared lock while a build runs.

        Incomplete files of processes that died are removed first, in `work` only if no other build
        runs.

        Args:
            output: Output folder of the build.
        """
        for folder in (output, self.root / "cells", self.stages / OUTPUTS):
            remove_abandoned(folder)
        remove_incomplete(self.stages)
        with suppress(CacheInUse), exclusive(self.root):
            for left in (self.root / "work").iterdir():
                shutil.rmtree(left, ignore_errors=True)
        # A build that starts between the two locks finds no files of this one to remove.
        with shared(self.root):
            yield

    def find(self, digest: str) -> tuple[Path, BuildRecord] | None:
        """Return the bundle with a digest and its record, or None.

        The bundle is marked as used, and a broken one is removed, unless the store is read-only.
        """
        folder = self.root / "bundles" / digest
        if not (folder / BUILT).is_file():
            return None
        try:
            built = BuildRecord(**json.loads((folder / BUILT).read_text("utf-8")))
            if not read.integrity(read.read(folder / "bundle")):
                if not self._read_only:
                    mark(folder / BUILT)
                return folder / "bundle", built
        except (BundleError, ValueError, TypeError):
            pass
        if not self._read_only:
            shutil.rmtree(folder, ignore_errors=True)
        return None

    def scratch(self, digest: str) -> Path:
        """Return a new, empty folder for building one bundle."""
        folder = self.root / "work" / f"{secrets.token_hex(4)}-{digest}"
        folder.mkdir(parents=True)
        return folder

    def add(self, digest: str, scratch: Path, built: BuildRecord, cell: str) -> Path:
        """Move a finished bundle, `scratch/bundle`, into the store, and write the cell's record.

        Returns:
            Path of the bundle in the store.

        Raises:
            BundleError: The bundle is not intact.
            OutputError: The store cannot be written.
        """
        problems = read.integrity(read.read(scratch / "bundle"))
        if problems:
            raise BundleError(f"the worker's bundle is not intact: {joined(problems)}")
        write_json(scratch / BUILT, asdict(built))
        folder = self.root / "bundles" / digest
        try:
            if not folder.exists():
                scratch.replace(folder)
        except OSError as error:
            # Another build added it first; equal digests mean equal bundles.
            if not (folder / BUILT).is_file():
                raise OutputError(f"`{folder}` cannot be written: {reason_of(error)}") from error
        write_json(self.root / "cells" / f"{cell}.json", asdict(built))
        return folder / "bundle"

    def last_record(self, cell: str) -> BuildRecord | None:
        """Return the record of a cell's last build; None if it was never built."""
        path = self.root / "cells" / f"{cell}.json"
        try:
            return BuildRecord(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys, atomically."""
    write_whole(path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())


def deliver(bundle: Path, output: Path) -> None:
    """Copy a bundle from the store to its output path; an equal bundle there is not touched.

    Raises:
        OutputError: The path exists and is not a bundle, or cannot be written.
    """
    staging.check_output_free(output, force=True)
    if (output / MANIFEST).is_file() and _same(bundle, output):
        return
    with staging.staged(output, replaces=staging.is_bundle) as work:
        shutil.copytree(bundle, work, dirs_exist_ok=True)


def _same(bundle: Path, output: Path) -> bool:
    if (bundle / MANIFEST).read_bytes() != (output / MANIFEST).read_bytes():
        return False
    return not read.integrity(read.read(output))
