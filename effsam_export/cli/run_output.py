"""What `effsam run` prints: notes, times, tables and JSON documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export.cli import console
from effsam_export.errors import one_line
from effsam_export.inference.run_records import OBJECT
from effsam_export.util.progress import StageEvent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from effsam_export.bundle.read import Bundle
    from effsam_export.inference.coco import CocoDocument
    from effsam_export.inference.found import FoundMask
    from effsam_export.inference.run_records import ImageResult, RunSettings


class Printer:
    """Prints the results of one run: messages at once, masks at the end.

    Args:
        terminal: Receives the messages.
        settings: The settings of the run.
        chosen: What to print: `table`, `json` or `coco`.
        coco: Collects the masks for `coco`.
    """

    def __init__(
        self,
        terminal: console.Console,
        settings: RunSettings,
        chosen: str,
        coco: CocoDocument,
    ) -> None:
        self._terminal = terminal
        self._several = settings.several
        self._everything = settings.grid is not None
        self._chosen = chosen
        self._coco = coco
        self._documents: list[dict[str, Any]] = []
        self._rows: list[dict[str, str]] = []
        self._times: list[str] = []
        self._written: dict[Path, None] = {}

    def add(self, result: ImageResult, written: Sequence[Path]) -> None:
        """Print the notes and times of an image, and keep its masks and written files."""
        for note in result.decoded.notes:
            self._terminal.message(f"note: image `{result.task.path}` {note}")
        if self._everything:
            seconds, count = (result.encode_s or 0) + result.decode_s, len(result.masks)
            self._terminal.on_event(
                StageEvent(kind="finished", stage="masks", seconds=seconds, detail=f"{count} masks")
            )
        if self._several:
            self._terminal.message(f"{result.task.path}: {times(result)}")
        else:
            self._times.append(times(result))
        if self._chosen == "coco":
            self._coco.add(result)
        elif self._chosen == "json":
            self._documents.append(document(result))
        else:
            self._rows += rows(result, several=self._several)
        self._written |= dict.fromkeys(written)

    def finish(self, failures: Sequence[str]) -> None:
        """Print the masks of all images, and the names of the written files.

        Args:
            failures: A sentence for each image that could not be read.
        """
        if self._chosen == "coco":
            console.document(self._coco.document(), versioned=False)
        elif self._chosen == "json" and self._several:
            console.document({"images": self._documents, "failures": list(failures)})
        elif self._chosen == "json":
            console.document(self._documents[0])
        else:
            console.data(table(self._rows, everything=self._everything))
        for line in self._times:
            self._terminal.message(line)
        for path in self._written:
            self._terminal.message(f"wrote {path}")


def times(result: ImageResult) -> str:
    """Return the times of one image in words."""
    prompts = len(result.task.prompts)
    text = f"decode {1000 * result.decode_s:.0f} ms"
    if result.encode_s is not None:
        text = f"encode {1000 * result.encode_s:.0f} ms, {text}"
    return f"{text} for {prompts} prompts" if prompts > 1 else text


def document(result: ImageResult) -> dict[str, Any]:
    """Return the JSON object of one image."""
    height, width = result.decoded.pixels.shape[:2]
    return {
        "file": str(result.task.path),
        "image": {
            "width": width,
            "height": height,
            "range": [result.decoded.low, result.decoded.high],
            "notes": list(result.decoded.notes),
        },
        "times": {
            "encode_ms": None if result.encode_s is None else round(1000 * result.encode_s, 1),
            "decode_ms": round(1000 * result.decode_s, 1),
        },
        "masks": [_mask(mask, result) for mask in result.masks],
    }


def _mask(mask: FoundMask, result: ImageResult) -> dict[str, Any]:
    from effsam_export.imaging import rle

    box = None if mask.box is None else list(mask.box)
    shape = {"box": box, "area": mask.area, "segmentation": rle.coco(mask.mask)}
    if mask.prompt is None:
        point = None if mask.point is None else list(mask.point)
        return {"score": mask.score, "stability": mask.stability, **shape, "point": point}
    category = result.task.prompts[mask.prompt - 1].category
    return {
        "prompt": mask.prompt,
        "category": category,
        "index": mask.index,
        "score": mask.score,
        **shape,
    }


def rows(result: ImageResult, *, several: bool) -> list[dict[str, str]]:
    """Return a table's row for each mask: column -> text."""
    found = []
    prompts = result.task.prompts
    for i, mask in enumerate(result.masks):
        b = mask.box
        row = {"image": one_line(str(result.task.path))} if several else {}
        if mask.prompt is not None and (several or len(prompts) > 1):
            row["prompt"] = str(mask.prompt)
            row["category"] = one_line(prompts[mask.prompt - 1].category)
        row |= {"mask": str(i if mask.index is None else mask.index), "score": f"{mask.score:.3f}"}
        if mask.prompt is None:
            row["stability"] = "" if mask.stability is None else f"{mask.stability:.3f}"
        row["box"] = f"({b[0]},{b[1]})-({b[2]},{b[3]})" if b else "empty"
        row["pixels"] = str(mask.area)
        found.append(row)
    return found


def table(found: Sequence[dict[str, str]], *, everything: bool) -> str:
    """Return rows as a table; without rows its header alone.

    The column `category` is left out where no prompt has one.
    """
    none = ("mask", "score", *(("stability",) if everything else ()), "box", "pixels")
    header = list(found[0]) if found else list(none)
    if all(row.get("category", OBJECT) == OBJECT for row in found):
        header = [column for column in header if column != "category"]
    return console.table(header, [[row[column] for column in header] for row in found])


def title(bundle: Bundle) -> str:
    """Return model, target and precision of a bundle."""
    manifest = bundle.manifest
    return (
        f"{manifest['model']['name']} for {manifest['target']['name']}, "
        f"{manifest['precision']['requested']}"
    )
