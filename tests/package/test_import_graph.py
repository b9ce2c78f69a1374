"""The import graph of the package: no circles, a small root, and every package in the contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import grimp
import pytest

from effsam_export.config.toml import read_toml

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = "effsam_export"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Every import, those inside functions and under TYPE_CHECKING included."""
    return grimp.build_graph(ROOT, include_external_packages=False, cache_dir=None)


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that import each other, by removing modules that are in no circle."""
    left = {name: set(targets) for name, targets in edges.items()}
    while True:
        leaves = {n for n, targets in left.items() if not targets & left.keys()}
        used = {t for targets in left.values() for t in targets}
        leaves |= left.keys() - used
        if not leaves:
            return [sorted(left)] if left else []
        left = {n: targets & left.keys() - leaves for n, targets in left.items() if n not in leaves}


def edges_of(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    return {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}


def top_level(names: Iterable[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name != ROOT}


def test_circles_are_noticed() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set[str]()}
    assert circles(edges) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": set[str]()}) == []


def test_no_modules_import_each_other(graph: grimp.ImportGraph) -> None:
    assert circles(edges_of(graph)) == []


def test_imports_inside_functions_and_for_types_count(graph: grimp.ImportGraph) -> None:
    # Inside a function, and for types only.
    assert f"{ROOT}.models.tiny_vit_export" in edges_of(graph)[f"{ROOT}.models.mobile_sam"]
    assert f"{ROOT}.spec.int8" in edges_of(graph)[f"{ROOT}.quantize.prepare"]


def test_the_root_holds_four_modules() -> None:
    files = {path.name for path in (REPOSITORY / ROOT).iterdir() if path.suffix == ".py"}
    assert files == {"__init__.py", "__main__.py", "_version.py", "errors.py"}


def test_nothing_inside_imports_the_public_api(graph: grimp.ImportGraph) -> None:
    assert graph.find_modules_that_directly_import(ROOT) == set()


def test_every_package_is_in_the_contract(graph: grimp.ImportGraph) -> None:
    settings = read_toml(REPOSITORY / "pyproject.toml")["tool"]["importlinter"]
    (contract,) = settings["contracts"]
    assert contract["type"] == "layers"
    assert contract["containers"] == [ROOT]
    assert contract["exhaustive"] is True
    layers = {name.strip() for row in contract["layers"] for name in row.split("|")}
    assert layers == top_level(graph.modules)
