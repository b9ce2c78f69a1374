"""Read prompts for many images from a CSV, JSON or COCO file of a stranger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from effsam_export.errors import PromptError, joined, shown
from effsam_export.inference import prompt_csv, prompt_json
from effsam_export.inference.prompt_entries import MAX_PROMPTS, PromptEntry
from effsam_export.util import json_text
from effsam_export.util.files import fault_of_file
from effsam_export.util.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUFFIXES = (".csv", ".json")
MAX_CSV_BYTES = 16_000_000
MAX_JSON_BYTES = 64_000_000
"""The annotations of COCO's validation images have 20 MB."""
MAX_JSON_VALUES = 8_000_000
MAX_JSON_MARKS = 2_000_000
HINT = "`docs/guides/run.md` describes the columns and keys of a prompts file"


@dataclass(frozen=True, kw_only=True)
class PromptFile:
    """The prompts of a file.

    Attributes:
        path: The file.
        entries: The prompts in the order of the file.
        categories: Names of the categories with their numbers.
        image_ids: Number of each image in a COCO file; empty for the others.
    """

    path: Path
    entries: tuple[PromptEntry, ...]
    categories: Mapping[str, int] = field(default_factory=dict)
    image_ids: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_coco(self) -> bool:
        """Whether it is a COCO file, which often has more images than a run."""
        return bool(self.image_ids)


def load(path: Path) -> PromptFile:
    """Read a prompts file.

    Args:
        path: A `.csv` file, or a `.json` file with prompts or in COCO's format.

    Raises:
        PromptError: It cannot be read, is too large, or has wrong columns, keys or values. The
            message has all problems up to a limit.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PromptError(
            f"prompts file `{path}` does not end in {' or '.join(SUFFIXES)}", hint=HINT
        )
    if fault := fault_of_file(path):
        raise PromptError(f"prompts file `{path}` {fault}", hint="check the path")
    entries: list[PromptEntry] = []
    problems: list[str] = []
    image_ids: dict[str, int] = {}
    categories: dict[str, int] = {}
    try:
        if suffix == ".csv":
            entries, problems = prompt_csv.parse(_text(path))
        else:
            document = json_text.load(
                path,
                max_bytes=MAX_JSON_BYTES,
                max_values=MAX_JSON_VALUES,
                max_marks=MAX_JSON_MARKS,
            )
            if prompt_json.is_coco(document):
                entries, image_ids, categories, problems = prompt_json.parse_coco(document)
            else:
                entries, problems = prompt_json.parse(document)
    except (OSError, ValueError) as error:
        raise PromptError(
            f"prompts file `{path}` cannot be read: {shown(reason_of(error))}", hint=HINT
        ) from error
    if not problems and not entries:
        problems = ["has no prompt"]
    if not problems and len(entries) > MAX_PROMPTS:
        problems = [f"has more than {MAX_PROMPTS} prompts"]
    if problems:
        raise PromptError(f"prompts file `{path}`: {joined(problems)}", hint=HINT)
    for entry in entries:
        categories.setdefault(entry.category, max(categories.values(), default=0) + 1)
    return PromptFile(path=path, entries=tuple(entries), categories=categories, image_ids=image_ids)


def _text(path: Path) -> str:
    """Return the text of a CSV file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is too large, or is not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(MAX_CSV_BYTES + 1)
    if len(content) > MAX_CSV_BYTES:
        raise ValueError(f"it has more than {MAX_CSV_BYTES} bytes")
    return content.decode("utf-8-sig")
