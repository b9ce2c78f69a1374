"""Nothing heavy is imported before it is needed, and every module imports."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import effsam_export

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "openvino", "PIL", "requests", "jsonschema_rs")
PROBE = """
import sys
# An import of these fails, and they count as not installed.
sys.modules.update(dict.fromkeys({blocked!r}))
sys.argv = ["effsam", *{arguments!r}]
from effsam_export.cli import main
try:
    main()
except SystemExit as exit:
    assert not exit.code, exit.code
import json
loaded = sorted(n for n in {heavy!r} if sys.modules.get(n))
print(json.dumps(loaded), file=sys.stderr)
"""


def run_without(blocked: tuple[str, ...], *arguments: str) -> tuple[str, list[str]]:
    """Run the command line with packages made unimportable; its output, and what it loaded."""
    code = PROBE.format(blocked=blocked, arguments=arguments, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["targets"], ["--version"]])
def test_light_commands_need_neither_torch_nor_numpy(arguments: list[str]) -> None:
    output, loaded = run_without(HEAVY, *arguments)
    assert output
    assert loaded == []


@pytest.mark.parametrize(
    "command", ["export", "run", "bench", "eval", "verify", "fetch", "inspect", "doctor", "code"]
)
def test_the_help_of_each_command_is_light(command: str) -> None:
    output, loaded = run_without(HEAVY, command, "--help")
    assert command in output
    assert loaded == []


def test_doctor_needs_no_heavy_package() -> None:
    output, _ = run_without(("torch", "numpy", "onnx", "onnxruntime", "openvino"), "doctor")
    assert "needs [torch]" in output or "tracing models: yes" in output


@pytest.mark.backend
def test_inspect_needs_neither_torch_nor_numpy(exported_tiny: object) -> None:
    blocked = ("torch", "numpy", "onnx", "onnxruntime", "openvino", "PIL")
    output, loaded = run_without(blocked, "inspect", str(exported_tiny))
    assert "image_embeddings" in output
    assert set(loaded) <= {"jsonschema_rs", "requests"}


IMPORT_ALL = """
import importlib, sys
# Libraries that are installed may have been built for this system: they come before the block.
for name in {installed!r}:
    importlib.import_module(name)
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for name in {modules!r}:
    importlib.import_module(name)
"""


def modules() -> list[str]:
    """The name of every module of the package but `__main__`."""
    names = [
        m.name
        for m in pkgutil.walk_packages(effsam_export.__path__, "effsam_export.")
        if not m.name.endswith("__main__")
    ]
    assert len(names) > 40
    return names


@pytest.mark.backend
def test_every_module_imports() -> None:
    for name in modules():
        importlib.import_module(name)


@pytest.mark.backend
def test_every_module_imports_without_the_modules_that_windows_lacks() -> None:
    code = IMPORT_ALL.format(installed=("torch", "onnx", "distributed"), modules=modules())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
