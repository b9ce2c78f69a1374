"""Results of slow stages that several exports share, each under the hash of what it follows from.

A component that is traced for one target is lowered for the next from the same trace, what INT8 is
compared with is lowered once, and PyTorch answers the prompts that judge once for all of them::

    <root>/<digest>/made.json       what a result follows from, and the sha256 of its files
    <root>/<digest>/...             its files
    <root>/answers/<digest>.npz     the answer to one question

A result that is taken is marked with the time, by which `build/cleaning.py` knows what is unused.
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
from effsam_export.util.files import atomic_file, reason_of, sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from effsam_export.spec.tensors import Feeds

RECORD = "made.json"
OUTPUTS = "answers"


@dataclass(frozen=True, kw_only=True)
class StageCache:
    """Where exports of one model from one weight file leave what others need too.

    Attributes:
        root: Folder of all results, of other models too.
        parts: Everything that each stage depends on: weights, code, tools, threads.
    """

    root: Path
    parts: Mapping[str, str]

    def get_or_make(
        self, stage: str, parts: Mapping[str, str], make: Callable[[Path], None]
    ) -> tuple[Path, bool]:
        """The folder with a result, and whether it was there.

        One that is damaged or half-written is made again. While one process makes a result, the
        others that want it wait.

        Args:
            stage: Name of the stage.
            parts: What it depends on besides `self.parts`.
            make: Writes the result into an empty folder.

        Raises:
            OutputError: The cache cannot be written.
        """
        found = {**self.parts, **parts, "stage": stage}
        folder = self.root / digest(found)
        try:
            with self._locked(folder.name):
                if is_whole(folder):
                    mark(folder / RECORD)
                    return folder, True
                partial = folder.with_suffix(".partial")
                for left in (folder, partial):
                    shutil.rmtree(left, ignore_errors=True)
                partial.mkdir()
                try:
                    make(partial)
                    document = {"parts": found, "files": hashes(partial)}
                    text = json.dumps(document, indent=2, sort_keys=True)
                    (partial / RECORD).write_text(text, "utf-8")
                    partial.replace(folder)
                finally:
                    # On a full disk it is in the way of everything else.
                    shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            raise unwritable(self.root, error) from error
        return folder, False

    def outputs(self, stage: str, parts: Mapping[str, str]) -> CachedOutputs:
        """The answers of whoever these parts name."""
        return CachedOutputs(self.root / OUTPUTS, {**self.parts, **parts, "stage": stage})

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Keep other processes from a result; a lock goes with the process that holds it."""
        import filelock

        self.root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.root / f"{name}.lock", preserve_lock_file=True):
            yield


class CachedOutputs:
    """Tensors by the question they answer, on disk; for `parity.memo`.

    Args:
        folder: Made where it is not there.
        parts: What an answer depends on besides its question.
    """

    def __init__(self, folder: Path, parts: Mapping[str, str]) -> None:
        self._folder, self._parts = folder, parts

    def get(self, question: str) -> Feeds | None:
        """An answer; None where there is none, or a damaged one."""
        import numpy as np

        try:
            path = self._path(question)
            with np.load(path) as arrays:
                answer = dict(arrays)
            mark(path)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None
        return answer

    def put(self, question: str, answer: Feeds) -> None:
        """Keep an answer.

        Raises:
            OutputError: It cannot be written.
        """
        import numpy as np

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        with atomic_file(self._path(question)) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **answer)

    def _path(self, question: str) -> Path:
        return self._folder / f"{digest({**self._parts, 'question': question})}.npz"


def mark(path: Path) -> None:
    """Note that a result was used just now, where that can be noted."""
    with suppress(OSError):
        path.touch()


def unwritable(place: Path, error: OSError) -> OutputError:
    """The error of a cache that takes nothing."""
    return OutputError(
        f"the cache `{place}` cannot be written: {reason_of(error)}",
        hint="choose another --cache-dir, or make room there",
    )


def digest(parts: Mapping[str, str]) -> str:
    """The name of a result that follows from these parts."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """Path -> sha256 of the files in a folder and below it, but for the list itself."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / RECORD
    }


def is_whole(folder: Path) -> bool:
    """Whether a result is there, with every file as it was made."""
    try:
        document = json.loads((folder / RECORD).read_text("utf-8"))
        return bool(document["files"] == hashes(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False
