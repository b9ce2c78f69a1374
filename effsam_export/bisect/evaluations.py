"""Evaluations of a search, and the file that keeps them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from effsam_export.util.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Override = Literal["keep_float", "weight_only"]
"""How a layer is treated that is not quantized as a whole; for FP16 `keep_float` means FP32."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of one parity check, over all prompts.

    Attributes:
        mean_iou, min_iou: Mask IoU with PyTorch, of the masks that decide the gates.
        ranking_changes: Prompts for which another mask of the set has the best score; no ties.
        failed_gates: Failures of the other gates: tensors, scores, rankings and NaN.
    """

    mean_iou: float
    min_iou: float
    ranking_changes: int
    failed_gates: int


class EvaluationLog:
    """Evaluations by their overrides, written to a file after each one.

    Args:
        path: The file. Evaluations in it with another `key` are ignored.
        key: Hash of everything that an evaluation depends on besides the overrides.
        evaluate: Runs one evaluation in ONNX Runtime with the given overrides.
        on_progress: Called after each evaluation with the number done, the number expected,
            and the seconds it took.
        evaluate_target: Runs one evaluation of an export by the target's own quantizer; None to
            skip these.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        evaluate: Callable[[Mapping[str, Override]], Evaluation],
        on_progress: Callable[[int, int, float], None],
        evaluate_target: Callable[[Mapping[str, Override]], Evaluation] | None = None,
    ) -> None:
        self._path, self._key, self._on_progress = path, key, on_progress
        self._evaluate, self._evaluate_target = evaluate, evaluate_target
        self._known: dict[str, Evaluation] = {}
        if path.is_file():
            document = json.loads(path.read_text("utf-8"))
            if document.get("key") == key:
                self._known = {k: Evaluation(**v) for k, v in document["evaluations"].items()}
        self._names: set[str] = set()
        self.expected = 0

    @property
    def count(self) -> int:
        """Number of different evaluations of this search, including those read from the file."""
        return len(self._names)

    def evaluate(self, overrides: Mapping[str, Override]) -> Evaluation:
        """Return the evaluation with these overrides and all other layers quantized."""
        return self._cached("", self._evaluate, overrides)

    def evaluate_target(self, overrides: Mapping[str, Override]) -> Evaluation | None:
        """Return the evaluation by the target's own quantizer; None if there is none."""
        if self._evaluate_target is None:
            return None
        return self._cached("deployed|", self._evaluate_target, overrides)

    def _cached(
        self,
        prefix: str,
        evaluate: Callable[[Mapping[str, Override]], Evaluation],
        overrides: Mapping[str, Override],
    ) -> Evaluation:
        name = prefix + ",".join(
            f"{layer}={treatment}" for layer, treatment in sorted(overrides.items())
        )
        self._names.add(name)
        if name not in self._known:
            began = time.perf_counter()
            self._known[name] = evaluate(overrides)
            self._save()
            self._on_progress(self.count, self.expected, time.perf_counter() - began)
        return self._known[name]

    def _save(self) -> None:
        evaluations = {k: asdict(v) for k, v in self._known.items()}
        document = {"key": self._key, "evaluations": evaluations}
        write_whole(self._path, json.dumps(document, indent=1, sort_keys=True).encode())
