"""Keys that INT8 and FP16 recipes share, and errors for the keys of earlier versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effsam_export.config.toml import is_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.spec.int8 import LayerOverride
    from effsam_export.spec.model import KeepFp32


def rule_document(rule: LayerOverride | KeepFp32) -> dict[str, Any]:
    """Return the keys that both kinds of rules have, as TOML values; defaults are left out."""
    return {
        "modules": list(rule.modules),
        **({} if rule.recursive else {"recursive": False}),
        "reason": rule.reason,
        **({"source": rule.source} if rule.source else {}),
    }


def check_renamed_keys(
    table: Mapping[str, Any], new_names: Mapping[str, str], where: str
) -> tuple[dict[str, Any], list[str]]:
    """Rename the keys of earlier versions, so that their values can be checked too.

    Args:
        table: As read from TOML.
        new_names: Old key -> new key.
        where: Prefix of the keys in messages, with its dot.

    Returns:
        The table with new keys, and a sentence for each old one.
    """
    problems = [f"`{where}{old}` is now `{new}`" for old, new in new_names.items() if old in table]
    return {new_names.get(key, key): value for key, value in table.items()}, problems


def check_alone(table: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Replace the old key `alone` by `recursive`, which means the opposite."""
    if "alone" not in table:
        return dict(table), []
    rest = {key: value for key, value in table.items() if key != "alone"}
    if table["alone"] is False:
        return rest, [f"`{where}alone = false` is now the default; leave it out"]
    return {**rest, "recursive": False}, [f"`{where}alone = true` is now `recursive = false`"]


def module_faults(table: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Return a sentence unless a key holds a list of names, at least one."""
    names = table.get(key)
    if names and all(is_name(name) for name in names):
        return []
    return [f"`{where}{key}` wants names, at least one"]
