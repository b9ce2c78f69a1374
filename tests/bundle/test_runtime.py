"""The versions of a runtime that a bundle is for are those that this project allows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from effsam_export import backends
from effsam_export.bundle import runtime
from effsam_export.config import targets as profiles
from effsam_export.config.toml import read_toml
from tests.paths import REPOSITORY

PYPROJECT = REPOSITORY / "pyproject.toml"


@pytest.mark.parametrize("backend", sorted(runtime.RANGES))
def test_ranges_are_those_of_the_extras(backend: str) -> None:
    extras = read_toml(PYPROJECT)["project"]["optional-dependencies"]
    name, versions = runtime.RANGES[backend]
    assert f"{name}{versions}" in extras[backends.BACKENDS[backend].extra]


def test_every_target_has_one() -> None:
    pytest.importorskip("coremltools")
    versions = {"tensorrt_rtx_bindings": "1.7.1.116"}
    found = {
        name: runtime.document(profiles.load_target(name), versions)
        for name in profiles.target_names()
    }
    assert found["coreml"] == {"name": "Core ML", "versions": ">=iOS17"}
    assert found["jetson-orin"] == {"name": "tensorrt", "versions": ">=10.3"}
    assert found["tensorrt-rtx"] == {"name": "tensorrt-rtx", "versions": "==1.7.1.116"}
    assert found["android-gpu"] == found["tflite"]
    assert found["intel-cpu"] == {"name": "openvino", "versions": ">=2025.2"}


def test_the_oldest_system_is_the_version() -> None:
    pytest.importorskip("coremltools")
    target = profiles.load_target("coreml")
    older = replace(target, options={**target.options, "deployment_target": "iOS16"})
    assert runtime.document(older, {}) == {"name": "Core ML", "versions": ">=iOS16"}
