"""The process of one bundle of a benchmark: it runs calls that its parent asks for.

Each line of standard input is a call, `["first_mask"]` or `["decode", 8]`. Each line of standard
output is its answer: the seconds of the call by name and the peak memory of the process, or an
error. What a runtime prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effsam_export.util.child import end_with_parent
from effsam_export.util.machine import peak_bytes
from effsam_export.util.reasons import as_effsam_error

if TYPE_CHECKING:
    from effsam_export.bench.tasks import Work

CALLS = ("open", "first_mask", "decode")


def main(settings: str, parent: str) -> None:
    """Answer calls until standard input ends.

    Args:
        settings: JSON object with the arguments of `tasks.Work`.
        parent: Process id of the parent.
    """
    end_with_parent(int(parent))
    # A runtime may print on the file descriptor of standard output, whatever `sys.stdout` is.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        given = json.loads(settings)
        work: Work | None = None
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            try:
                if work is None:
                    work = _work(given)
                answer = answered(work, name, arguments)
            except Exception as error:
                # A runtime that is out of memory has an exception of its own.
                problem = as_effsam_error(error)
                if problem is None:
                    raise
                answer = {"error": problem.message, "hint": problem.hint}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def answered(work: Work, name: str, arguments: list[int]) -> dict[str, Any]:
    """Run one call and return its answer."""
    if name not in CALLS:
        raise ValueError(f"there is no call `{name}`")
    seconds = getattr(work, name)(*arguments)
    return {"seconds": seconds, "peak_bytes": peak_bytes()}


def _work(given: dict[str, Any]) -> Work:
    from effsam_export.bench.tasks import Work

    return Work(
        Path(given["bundle"]), Path(given["image"]), given["threads"], given["prompts_per_call"]
    )
