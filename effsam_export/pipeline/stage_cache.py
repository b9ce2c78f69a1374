"""A cache on disk for the results of slow stages, which several exports share.

Targets share the trace of a component, the FP16 and FP32 variants that INT8 is compared with, and
PyTorch's outputs for the evaluation prompts. Each result has the hash of its inputs as its name::

    <root>/<digest>/made.json       the inputs of a result, and the sha256 of its files
    <root>/<digest>/...             its files
    <root>/answers/<digest>.npz     the outputs of one call

The file time of a result is set when it is used, and unused results are removed by it
(`cache_results.py`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import tempfile
import zipfile
import zlib
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.errors import EffsamError, OutputError
from effsam_export.util.files import atomic_file, sha256_of
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from filelock import FileLock

    from effsam_export.spec.tensors import Feeds

RECORD = "made.json"
OUTPUTS = "answers"
DAMAGED = (
    *(OSError, ValueError, EOFError, KeyError, NotImplementedError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)
"""What numpy and zipfile raise for a file that is missing or damaged."""


class Fallback:
    """What an export does if the cache cannot be used: it notes that once, and works without it.

    Args:
        scratch: An existing folder. Results are made there and copied into the cache, so a fault
            of the cache's disk has no part in them.
        on_note: Called with a sentence for the user.
    """

    def __init__(self, scratch: Path, on_note: Callable[[str], None]) -> None:
        self.scratch = scratch
        self.used = False
        self._on_note = on_note

    def use(self, root: Path, error: Exception) -> None:
        """Leave the cache alone from now on."""
        if not self.used:
            known = error if isinstance(error, EffsamError) else unwritable(root, error)
            self._on_note(f"{known.message}; the export works without the cache")
        self.used = True


@dataclass(frozen=True, kw_only=True)
class StageCache:
    """The cache for exports of one model from one weight file.

    Attributes:
        root: Folder of all results, including those of other models.
        parts: Inputs that all stages have in common: weights, code, tools, threads.
        fallback: What to do if the cache cannot be used; None raises an error.
    """

    root: Path
    parts: Mapping[str, str]
    fallback: Fallback | None = None

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
            OutputError: The cache cannot be written, and there is no fallback.
        """
        inputs = {**self.parts, **parts, "stage": stage}
        folder = self.root / digest(inputs)
        if self.fallback is not None:
            return self._made_beside(folder, inputs, make, self.fallback)
        try:
            with self._locked(folder.name):
                if is_whole(folder, inputs):
                    mark(folder / RECORD)
                    return folder, True
                _store(folder, inputs, make)
        except OSError as error:
            raise unwritable(self.root, error) from error
        return folder, False

    def _made_beside(
        self,
        folder: Path,
        inputs: Mapping[str, str],
        make: Callable[[Path], None],
        fallback: Fallback,
    ) -> tuple[Path, bool]:
        """Return a result of the cache, or make it beside the cache and copy it there."""
        with ExitStack() as lock:
            if not fallback.used:
                try:
                    lock.enter_context(self._locked(folder.name))
                    if is_whole(folder, inputs):
                        mark(folder / RECORD)
                        return folder, True
                # Some file systems have no locks.
                except (OSError, NotImplementedError) as error:
                    fallback.use(self.root, error)
            scratch = Path(tempfile.mkdtemp(dir=fallback.scratch))
            make(scratch)
            if not fallback.used:
                try:
                    _store(folder, inputs, lambda to: _copied(scratch, to))
                except (OSError, EffsamError) as error:
                    fallback.use(self.root, error)
        return scratch, False

    def outputs(self, stage: str, parts: Mapping[str, str]) -> CachedOutputs:
        """Return the cached outputs of the model or graph that `parts` identify."""
        inputs = {**self.parts, **parts, "stage": stage}
        return CachedOutputs(self.root / OUTPUTS, inputs, self.fallback)

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
        fallback: What to do if they cannot be stored; None raises an error.
    """

    def __init__(
        self, folder: Path, parts: Mapping[str, str], fallback: Fallback | None = None
    ) -> None:
        self._folder, self._parts, self._fallback = folder, parts, fallback

    def get(self, key: str) -> Feeds | None:
        """Return the outputs for a key; None if they are missing or damaged."""
        import numpy as np

        try:
            path = self._path(key)
            # numpy leaves a file open that it opens itself and finds damaged.
            with path.open("rb") as file, np.load(file) as arrays:
                outputs = dict(arrays)
            mark(path)
        except DAMAGED:
            return None
        return outputs

    def put(self, key: str, outputs: Feeds) -> None:
        """Store the outputs for a key.

        Raises:
            OutputError: The file cannot be written, and there is no fallback.
        """
        if self._fallback is None:
            self._write(key, outputs)
        elif not self._fallback.used:
            try:
                self._write(key, outputs)
            except OutputError as error:
                self._fallback.use(self._folder.parent, error)

    def _write(self, key: str, outputs: Feeds) -> None:
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


def unwritable(folder: Path, error: Exception) -> OutputError:
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


def is_whole(folder: Path, inputs: Mapping[str, str]) -> bool:
    """Return whether a folder is the result of these inputs, and every file has its hash."""
    try:
        document = json.loads((folder / RECORD).read_text("utf-8"))
        same = document["parts"] == dict(inputs)
        return same and bool(document["files"] == hashes(folder))
    except (OSError, ValueError, KeyError, TypeError, EffsamError):
        return False


def _store(folder: Path, inputs: Mapping[str, str], make: Callable[[Path], None]) -> None:
    """Make a result, in place of what is at `folder`.

    Raises:
        OSError: It cannot be written.
    """
    partial = folder.with_suffix(".partial")
    for stale in (folder, partial):
        _remove(stale)
    partial.mkdir()
    try:
        make(partial)
        text = json.dumps({"parts": inputs, "files": hashes(partial)}, indent=2, sort_keys=True)
        (partial / RECORD).write_text(text, "utf-8")
        partial.replace(folder)
    finally:
        # Frees the space if the disk was full.
        shutil.rmtree(partial, ignore_errors=True)


def _remove(path: Path) -> None:
    """Remove a folder, or a file or link in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _copied(source: Path, to: Path) -> None:
    """Copy the contents of a folder, without owners and rights."""
    shutil.copytree(source, to, dirs_exist_ok=True, copy_function=shutil.copyfile)
