"""FP16 recipes as TOML: the modules that stay in FP32, instead of those the model lists itself.

A file has `[[keep]]` tables with `component`, `modules` and `reason`; `ops`, `recursive` and
`source` are optional. `effsam bisect --precision fp16` writes such files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export.config.module_rules import check_alone, module_faults, rule_document
from effsam_export.config.toml import MAX_ENTRIES, faults, read_toml, refuse, unknown_name
from effsam_export.errors import shown
from effsam_export.spec.model import KeepFp32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

KEYS = {
    "component": str,
    "modules": list,
    "reason": str,
    "ops": list,
    "recursive": bool,
    "source": str,
}
OPTIONAL = ("ops", "recursive", "source")


def load(path: Path, components: Sequence[str]) -> tuple[KeepFp32, ...]:
    """Read the `[[keep]]` tables of a file; without any, nothing stays in FP32.

    Args:
        path: The file.
        components: Names of the model's components.

    Raises:
        UsageError: The file is missing, or every fault of it in one message.
    """
    table = read_toml(path, "precision recipe")
    problems = [unknown_name("key", key, ["keep"]) for key in table if key != "keep"]
    rows = table.get("keep", [])
    if not isinstance(rows, list):
        problems.append("`keep` is not a list of tables")
        rows = []
    if len(rows) > MAX_ENTRIES:
        problems.append(f"`keep` has over {MAX_ENTRIES} entries")
    for row in rows[:MAX_ENTRIES]:
        problems += _faults(row, components)
    if problems:
        refuse(
            "precision recipe",
            path,
            problems,
            hint='as in [[keep]] component = "encoder", modules = ["neck.*"], reason = "..."',
        )
    return tuple(
        KeepFp32(
            component=row["component"],
            modules=tuple(row["modules"]),
            ops=tuple(row.get("ops", ())),
            recursive=row.get("recursive", True),
            reason=row["reason"],
            source=row.get("source", path.name),
        )
        for row in rows
    )


def _faults(row: object, components: Sequence[str]) -> list[str]:
    if not isinstance(row, dict):
        return ["`keep` is not a table"]
    table, problems = check_alone(row, "keep.")
    keys = {k: v for k, v in KEYS.items() if k not in OPTIONAL or k in table}
    if key_problems := faults(table, keys, "keep."):
        return problems + key_problems
    if table["component"] not in components:
        problems.append(
            f"`keep.component` is `{shown(table['component'])}`, "
            f"the model has {', '.join(components)}"
        )
    problems += module_faults(table, "modules", "keep.")
    return problems + (module_faults(table, "ops", "keep.") if "ops" in table else [])


def to_toml(comment: str, rules: Iterable[KeepFp32]) -> str:
    """Return the text of a file that `load` reads, with a comment in its first line."""
    import tomli_w

    tables = [_document(rule) for rule in rules]
    return f"# {comment}\n" + (tomli_w.dumps({"keep": tables}) if tables else "")


def _document(rule: KeepFp32) -> dict[str, Any]:
    ops = {"ops": list(rule.ops)} if rule.ops else {}
    return {"component": rule.component, **rule_document(rule), **ops}
