"""A precision recipe as a TOML file: what stays in FP32, in place of what a model's own says.

A file holds `[[keep]]` tables with `component`, `modules`, `reason`, and at will `ops`,
`alone` and `source`. `effsam bisect --precision fp16` writes such files.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

from effsam_export.config.toml import faults, read_toml
from effsam_export.errors import UsageError
from effsam_export.spec.model import ComponentName, KeepFp32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

KEYS = {"component": str, "modules": list, "reason": str, "ops": list, "alone": bool, "source": str}
OPTIONAL = ("ops", "alone", "source")


def load(path: Path, components: Sequence[str]) -> tuple[KeepFp32, ...]:
    """Read a file; one without entries keeps nothing.

    Args:
        path: The file.
        components: Names of the model's.

    Raises:
        UsageError: It is not there, or every fault of it in one message.
    """
    if not path.is_file():
        raise UsageError(f"precision recipe `{path}` does not exist")
    table = read_toml(path)
    problems = [f"unknown key `{key}`" for key in table if key != "keep"]
    rows = table.get("keep", [])
    if not isinstance(rows, list):
        problems.append("`keep` is not a list of tables")
        rows = []
    for row in rows:
        problems += _faults(row, components)
    if problems:
        raise UsageError(
            f"precision recipe `{path.name}`: {'; '.join(problems)}",
            hint='as in [[keep]] component = "encoder", modules = ["neck.*"], reason = "..."',
        )
    return tuple(
        KeepFp32(
            component=row["component"],
            modules=tuple(row["modules"]),
            ops=tuple(row.get("ops", ())),
            alone=row.get("alone", False),
            reason=row["reason"],
            source=row.get("source", path.name),
        )
        for row in rows
    )


def _faults(row: Any, components: Sequence[str]) -> list[str]:  # noqa: ANN401 - any TOML
    given = row if isinstance(row, dict) else {}
    keys = {k: v for k, v in KEYS.items() if k not in OPTIONAL or k in given}
    problems = faults(row, keys, "keep.")
    if problems:
        return problems
    if row["component"] not in components:
        problems.append(
            f"`keep.component` is `{row['component']}`, the model has {', '.join(components)}"
        )
    for key in ("modules", "ops"):
        names = row.get(key, ["x"])
        if not (names and all(isinstance(n, str) for n in names)):
            problems.append(f"`keep.{key}` wants names, at least one")
    return problems


def to_toml(comment: str, entries: Iterable[KeepFp32]) -> str:
    """Entries as a file that `load` reads, a comment before them."""
    lines = [f"# {comment}"]
    for entry in entries:
        assert entry.component in get_args(ComponentName)
        # A JSON string is a TOML string, and a list of them a TOML array.
        lines += ["", "[[keep]]", f"component = {json.dumps(entry.component)}"]
        lines += [f"modules = {json.dumps(list(entry.modules))}"]
        lines += [f"ops = {json.dumps(list(entry.ops))}"] if entry.ops else []
        lines += ["alone = true"] if entry.alone else []
        lines += [f"reason = {json.dumps(entry.reason)}", f"source = {json.dumps(entry.source)}"]
    return "\n".join(lines) + "\n"
