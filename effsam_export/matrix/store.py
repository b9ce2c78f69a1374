"""Bundles by the hash of what they follow from, each whole or not there.

::

    <root>/bundles/<digest>/bundle/      a bundle
    <root>/bundles/<digest>/built.json   what it follows from, how long it took, how much memory
    <root>/cells/<name>.json             what a cell followed from when it was built last
    <root>/work/<process>-<digest>/      what is being written, by which process
    <root>/stages/                       traces and answers that cells share (`stage_cache.py`)
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from glob import escape
from typing import TYPE_CHECKING, Any

from effsam_export.bundle import read, staging
from effsam_export.bundle.manifest import MANIFEST
from effsam_export.errors import BundleError, OutputError
from effsam_export.matrix.lock import CacheInUse, exclusive, shared
from effsam_export.pipeline.stage_cache import mark, unwritable
from effsam_export.util.files import reason_of, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

BUILT = "built.json"


@dataclass(frozen=True, kw_only=True)
class Built:
    """How a bundle came to be.

    Attributes:
        parts: What it follows from.
        seconds: Wall time of its export.
        peak_mb: Largest resident memory of the process and its converters, in MB of 1e6 bytes.
    """

    parts: Mapping[str, str]
    seconds: float
    peak_mb: float


class Store:
    """A folder of bundles; builds in other processes may use it at the same time.

    Args:
        root: Made where it is not there.

    Raises:
        OutputError: It cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for name in ("bundles", "cells", "work"):
                (root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(root, error) from error

    @property
    def stages(self) -> Path:
        """Folder of what cells share."""
        return self.root / "stages"

    @contextmanager
    def used(self, output: Path, names: Iterable[str]) -> Iterator[None]:
        """Hold the store while a build runs; what dead processes left is swept by the first.

        Args:
            output: Folder of the bundles that are delivered.
            names: Of these bundles, of which half a copy may be left there.
        """
        with suppress(CacheInUse), exclusive(self.root):
            halves = [h for name in names for h in output.glob(f".{escape(name)}.*.partial")]
            for left in (*(self.root / "work").iterdir(), *halves):
                shutil.rmtree(left, ignore_errors=True)
        # A build that starts between the two locks finds nothing of this one to remove.
        with shared(self.root):
            yield

    def find(self, digest: str) -> tuple[Path, Built] | None:
        """The bundle with this digest, if it is there and intact; a broken one is removed."""
        folder = self.root / "bundles" / digest
        if not (folder / BUILT).is_file():
            return None
        try:
            built = Built(**json.loads((folder / BUILT).read_text("utf-8")))
            if not read.integrity(read.read(folder / "bundle")):
                mark(folder / BUILT)
                return folder / "bundle", built
        except (BundleError, ValueError, TypeError):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        return None

    def scratch(self, digest: str) -> Path:
        """A new folder for the work on one bundle."""
        folder = self.root / "work" / f"{os.getpid()}-{digest}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def keep(self, digest: str, scratch: Path, built: Built, cell: str) -> Path:
        """Take a finished bundle in, `scratch/bundle`, and remember it as the cell's last.

        Raises:
            BundleError: It is not whole, whatever its maker says.
            OutputError: It cannot be written.
        """
        problems = read.integrity(read.read(scratch / "bundle"))
        if problems:
            raise BundleError(f"the worker's bundle is not intact: {'; '.join(problems)}")
        write_json(scratch / BUILT, asdict(built))
        folder = self.root / "bundles" / digest
        try:
            if not folder.exists():
                scratch.replace(folder)
        except OSError as error:
            # Another build was faster: the same digest is the same bundle.
            if not (folder / BUILT).is_file():
                raise OutputError(f"`{folder}` cannot be written: {reason_of(error)}") from error
        write_json(self.root / "cells" / f"{cell}.json", asdict(built))
        return folder / "bundle"

    def last(self, cell: str) -> Built | None:
        """What a cell was when it was built last; None where it never was."""
        path = self.root / "cells" / f"{cell}.json"
        try:
            return Built(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    write_whole(path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())


def deliver(bundle: Path, output: Path) -> None:
    """Copy a bundle of the store to where it is wanted; an equal one that is there stays.

    Raises:
        OutputError: Something that is no bundle is there, or it cannot be written.
    """
    staging.check_output_free(output, force=True)
    if (output / MANIFEST).is_file() and _same(bundle, output):
        return
    with staging.staged(output) as work:
        shutil.copytree(bundle, work, dirs_exist_ok=True)


def _same(bundle: Path, output: Path) -> bool:
    if (bundle / MANIFEST).read_bytes() != (output / MANIFEST).read_bytes():
        return False
    return not read.integrity(read.read(output))
