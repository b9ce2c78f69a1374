"""The table of backends, its extras, and the errors for missing packages."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from effsam_export import backends
from effsam_export.errors import ToolchainMissing
from tests.paths import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable

every_backend = pytest.mark.parametrize("name", backends.BACKENDS)


def only_without(package: str) -> Callable[[str], SimpleNamespace | None]:
    """A `find_spec` that finds everything but one package."""
    return lambda name: None if name == package else SimpleNamespace(name=name)


@every_backend
def test_extra_installs_the_package(name: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    entry = backends.BACKENDS[name]
    assert entry.extra == name
    required = project["optional-dependencies"][entry.extra]
    installed = {r.partition(">")[0].replace("-", "_") for r in required}
    # The CUDA version is part of the name in the registry, not of the module.
    installed |= {r.replace("_cu12", "") for r in installed}
    assert set(entry.packages) <= installed


@every_backend
def test_backend_is_imported(name: str) -> None:
    for package in backends.BACKENDS[name].packages:
        pytest.importorskip(package)
    assert backends.available(name)
    module = backends.load(name)
    assert callable(module.lower)
    assert callable(module.open_session)
    assert isinstance(module.simulator({}), str)


@every_backend
def test_missing_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = backends.BACKENDS[name]
    monkeypatch.setattr(backends, "find_spec", only_without(entry.packages[0]))
    assert not backends.available(name)
    with pytest.raises(ToolchainMissing) as caught:
        backends.load(name)
    assert caught.value.message == (
        f"backend `{name}` needs a package that is not installed: `{entry.packages[0]}`"
    )
    assert (
        caught.value.hint == f'pip install -e ".[{entry.extra}]" in the checkout of effsam-export'
    )
    assert caught.value.exit_code == 3


@every_backend
def test_lowering_without_a_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = backends.BACKENDS[name]
    monkeypatch.setattr(backends, "find_spec", only_without(entry.packages[-1]))
    with pytest.raises(ToolchainMissing) as caught:
        backends.require_lowering(name)
    assert caught.value.message == (
        f"backend `{name}` needs a package that is not installed: `{entry.packages[-1]}`"
    )


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxscript", "onnxruntime"])
def test_tracing_without_a_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", only_without(package))
    with pytest.raises(ToolchainMissing) as caught:
        backends.require_tracing()
    assert caught.value.message == (
        f"tracing a model needs a package that is not installed: `{package}`"
    )
    assert caught.value.hint == 'pip install -e ".[torch]" in the checkout of effsam-export'


def test_tracing_with_every_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", only_without("nothing"))
    backends.require_tracing()
