"""A cache on disk for the results of slow stages, which several exports share.

Targets share the trace of a component, the FP16 and FP32 variants that INT8 is compared with, and
PyTorch's outputs for the evaluation prompts. Each result has the hash of its inputs as its name::

    <root>/<digest>/made.json       the inputs of a result, and the sha256 of its files
    <root>/<digest>/...             its files
    <root>/answers/<digest>.npz     the outputs of one call

The file time of a result is set when it is used. `matrix/cleaning.py` removes unused results by it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.errors import OutputError
from effsam_export.util.files import atomic_file, sha256_of
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from filelock import FileLock

    from effsam_export.spec.tensors import Feeds

RECORD = "made.json"
OUTPUTS = "answers"


@dataclass(frozen=True, kw_only=True)
class StageCache:
    """The cache for exports of one model from one weight file.

    Attributes:
        root: Folder of all results, including those of other models.
        parts: Inputs that all stages have in common: weights, code, tools, threads.
    """

    root: Path
    parts: Mapping[str, str]

    def get_or_make(
        self, stage: str, parts: Mapping[str, str], make: Callable[[Path], None]
    ) -> tuple[Path, bool]:
        """Return the folder of a result, and whether it came from the cache.

        A damaged or incomplete result is made again. While one process makes a result, other
        processes that need it wait.

        Args:
            stage: Name of the stage.
            parts: Inputs of the stage besides `self.parts`.
            make: Writes the result into an empty folder.

        Raises:
            OutputError: The cache cannot be written.
        """
        inputs = {**self.parts, **parts, "stage": stage}
        folder = self.root / digest(inputs)
        try:
            with self._locked(folder.name):
                if is_whole(folder):
                    mark(folder / RECORD)
                    return folder, True
                partial = folder.with_suffix(".partial")
                for stale in (folder, partial):
                    shutil.rmtree(stale, ignore_errors=True)
                partial.mkdir()
                try:
                    make(partial)
                    document = {"parts": inputs, "files": hashes(partial)}
                    text = json.dumps(document, indent=2, sort_keys=True)
                    (partial / RECORD).write_text(text, "utf-8")
                    partial.replace(folder)
                finally:
                    # Frees the space if the disk was full.
                    shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            raise unwritable(self.root, error) from error
        return folder, False

    def outputs(self, stage: str, parts: Mapping[str, str]) -> CachedOutputs:
        """Return the cached outputs of the model or graph that `parts` identify."""
        return CachedOutputs(self.root / OUTPUTS, {**self.parts, **parts, "stage": stage})

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Lock a result against other processes. The lock ends with the process that holds it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with _lock(self.root, name):
            yield


class CachedOutputs:
    """Output tensors on disk, by the key of their inputs: an `OutputCache` of `parity.cached`.

    Args:
        folder: Created if it does not exist.
        parts: What the outputs depend on besides the key.
    """

    def __init__(self, folder: Path, parts: Mapping[str, str]) -> None:
        self._folder, self._parts = folder, parts

    def get(self, key: str) -> Feeds | None:
        """Return the outputs for a key; None if they are missing or damaged."""
        import numpy as np

        try:
            path = self._path(key)
            with np.load(path) as arrays:
                outputs = dict(arrays)
            mark(path)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        return outputs

    def put(self, key: str, outputs: Feeds) -> None:
        """Store the outputs for a key.

        Raises:
            OutputError: The file cannot be written.
        """
        import numpy as np

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        with atomic_file(self._path(key)) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)

    def _path(self, key: str) -> Path:
        return self._folder / f"{digest({**self._parts, 'question': key})}.npz"


def remove_incomplete(root: Path) -> None:
    """Remove incomplete results of processes that died; what a process is making is kept."""
    import filelock

    for partial in root.glob("*.partial"):
        with suppress(OSError, filelock.Timeout), _lock(root, partial.stem, timeout=0):
            shutil.rmtree(partial, ignore_errors=True)


def _lock(root: Path, name: str, *, timeout: float = -1) -> FileLock:
    """Return the lock of a result; a negative timeout waits for it."""
    import filelock

    return filelock.FileLock(root / f"{name}.lock", timeout=timeout, preserve_lock_file=True)


def mark(path: Path) -> None:
    """Set the file time of a result to now, if the file system allows it."""
    with suppress(OSError):
        path.touch()


def unwritable(folder: Path, error: OSError) -> OutputError:
    """Return the error for a cache that cannot be written."""
    return OutputError(
        f"the cache `{folder}` cannot be written: {reason_of(error)}",
        hint="choose another --cache-dir, or free some space there",
    )


def digest(parts: Mapping[str, str]) -> str:
    """Return the name of the result that has these inputs."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """Return path -> sha256 of all files below a folder, except the record itself."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / RECORD
    }


def is_whole(folder: Path) -> bool:
    """Return whether a result exists and every file has the recorded hash."""
    try:
        document = json.loads((folder / RECORD).read_text("utf-8"))
        return bool(document["files"] == hashes(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False
