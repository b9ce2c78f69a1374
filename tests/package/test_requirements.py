"""The pinned requirements follow pyproject.toml and constraints.txt, and name no address."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from effsam_export.config.toml import read_toml
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = REPOSITORY / "requirements"
EXTRAS = {"run": ("onnx",), "all": ("all",), "dev": ("all", "dev", "docs")}
LINUX = {"python_version": "3.11", "python_full_version": "3.11.7", "sys_platform": "linux"}
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(name: str) -> dict[str, tuple[str, list[str]]]:
    """Name -> version and hashes of one file, for Python 3.11 on Linux."""
    text = (FOLDER / f"{name}.txt").read_text("utf-8").replace("\\\n", " ")
    found: dict[str, tuple[str, list[str]]] = {}
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.split("--hash")[0])
            if requirement.marker is None or requirement.marker.evaluate(LINUX):
                pin = re.fullmatch(r"==([^,*]+)", str(requirement.specifier))
                assert pin, line
                found[canonicalize_name(requirement.name)] = (pin[1], HASH.findall(line))
    return found


def applicable(lines: Iterable[str]) -> list[Requirement]:
    """The requirements that hold for Python 3.11 on Linux."""
    requirements = [Requirement(line) for line in lines]
    return [r for r in requirements if r.marker is None or r.marker.evaluate(LINUX)]


def direct(extras: Iterable[str]) -> list[Requirement]:
    """The requirements of pyproject.toml with some extras, followed through the package itself."""
    project = read_toml(REPOSITORY / "pyproject.toml")["project"]
    found = applicable(project["dependencies"])
    waiting = list(extras)
    while waiting:
        for requirement in applicable(project["optional-dependencies"][waiting.pop()]):
            if requirement.name == project["name"]:
                waiting += requirement.extras
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize("name", ["lint", *EXTRAS])
def test_every_version_is_pinned_with_hashes_and_without_addresses(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text("utf-8")
    for forbidden in ("://", "file:", "--index", "--extra-index", "--find-links", " @ ", "/home"):
        assert forbidden not in text
    found = entries(name)
    assert len(found) >= 3
    assert all(hashes for _, hashes in found.values())


@pytest.mark.parametrize("name", EXTRAS)
def test_every_dependency_is_in_its_file(name: str) -> None:
    found = entries(name)
    requirements = [r for r in direct(EXTRAS[name]) if r.name != "torch"]
    assert len(requirements) >= 10
    for requirement in requirements:
        version, _ = found[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"run `make requirements`: {requirement}"


@pytest.mark.parametrize("name", ["lint", *EXTRAS])
def test_versions_are_those_of_the_constraints(name: str) -> None:
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    pins = applicable(line for line in lines if line and not line.startswith("#"))
    found = entries(name)
    shared = [p for p in pins if canonicalize_name(p.name) in found]
    assert len(shared) >= 3
    for pin in shared:
        version, _ = found[canonicalize_name(pin.name)]
        assert str(pin.specifier) == f"=={version}", f"run `make requirements`: {pin}"


@pytest.mark.parametrize("name", ["all", "dev"])
def test_torch_is_left_out_and_its_version_is_named(name: str) -> None:
    assert "torch" not in entries(name)
    (pin,) = re.findall(r"^torch==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.M)
    header = (FOLDER / f"{name}.txt").read_text("utf-8").splitlines()[0]
    assert f"Install torch {pin} first." in header


def test_no_cuda_library_is_required() -> None:
    assert not [name for name in entries("dev") if name.startswith(("nvidia-", "triton"))]


def test_the_linters_are_those_of_development() -> None:
    lint, dev = entries("lint"), entries("dev")
    names = (FOLDER / "lint.in").read_text("utf-8").splitlines()[1:]
    assert names == ["grimp", "import-linter", "ruff"]
    assert all(lint[name][0] == dev[name][0] for name in names)
