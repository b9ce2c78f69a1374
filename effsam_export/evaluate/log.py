"""The file that keeps the answers of a segmenter, so that an interrupted evaluation goes on."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from effsam_export.errors import OutputError
from effsam_export.evaluate.answers import ImageAnswers
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FOLDER = "evaluations"
"""Folder of the files in the cache."""
SUFFIX = ".jsonl"
UNUSED_S = 30 * 24 * 60 * 60
"""A file that was not written for so long is removed."""


class AnswerLog:
    """Answers by image, each a line that is written as soon as it is known.

    A line that a kill cut short is ignored. An image's answers only count for the file with the
    same hash.

    Args:
        folder: Folder of such files; created with the first answers.
        key: Everything that the answers depend on besides the images; part of the file's name.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        text = json.dumps(key, sort_keys=True)
        self.path = folder / f"{hashlib.sha256(text.encode()).hexdigest()}{SUFFIX}"
        self._known: dict[int | str, ImageAnswers] = {}
        self._cut = False
        try:
            lines = self.path.read_bytes().split(b"\n") if self.path.is_file() else [b""]
        except OSError as error:
            raise self._error("read", error) from error
        # A file that was written to its end ends with a line break.
        self._cut = lines[-1] != b""
        for line in lines:
            # A line that was cut short.
            with suppress(ValueError, KeyError, TypeError):
                document = json.loads(line)
                self._known[document["image"]] = ImageAnswers.of(document)

    def get(self, image: int | str, sha256: str) -> ImageAnswers | None:
        """Return the answers for an image, if they are known for this file of it."""
        known = self._known.get(image)
        return known if known is not None and known.sha256 == sha256 else None

    def add(self, image: int | str, answers: ImageAnswers) -> None:
        """Append the answers for an image to the file.

        Raises:
            OutputError: The file cannot be written.
        """
        line = json.dumps({"image": image, **answers.document()}).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(b"\n" + line if self._cut else line)
        except OSError as error:
            raise self._error("written", error) from error
        self._cut = False

    def forget(self) -> None:
        """Remove the file and all answers.

        Raises:
            OutputError: The file cannot be removed.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._error("removed", error) from error
        self._known, self._cut = {}, False

    def _error(self, what: str, error: OSError) -> OutputError:
        return OutputError(
            f"`{self.path}`, which keeps the answers, cannot be {what}: {reason_of(error)}",
            hint="choose another folder with --cache-dir DIR",
        )


def remove_unused(folder: Path) -> None:
    """Remove the files of a folder that were not written for 30 days."""
    limit = time.time() - UNUSED_S
    for path in folder.glob(f"*{SUFFIX}"):
        # Another process may have removed it.
        with suppress(OSError):
            if path.stat().st_mtime < limit:
                path.unlink()
