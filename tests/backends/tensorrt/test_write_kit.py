"""The kit in a TensorRT bundle: its files, and its scripts run without this package."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("PIL")

from effsam_export.backends.tensorrt import backend
from effsam_export.backends.tensorrt import write_kit as trt_kit
from effsam_export.backends.tensorrt.kit import build_engine
from effsam_export.config import targets as profiles
from effsam_export.errors import UsageError
from effsam_export.spec.model import KeepFp32
from tests.backends.tensorrt import fake_tensorrt
from tests.backends.test_contract import write_graph

if TYPE_CHECKING:
    from effsam_export.spec.stages import Graph
    from effsam_export.spec.targets import Precision

pytestmark = pytest.mark.backend

# ------------------------------------------------------------------ contents


def lower(folder: Path, precision: Precision = "fp16", **changes: Any) -> Path:  # noqa: ANN401
    """Write a kit for the graph of the contract tests into `folder/out`."""
    out = folder / "out"
    out.mkdir()
    graph: Graph = replace(write_graph(folder / "decoder.onnx"), **changes)
    target = profiles.load_target("jetson-orin", precision)
    backend.lower(graph, target, out)
    return out


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def test_files(tmp_path: Path) -> None:
    out = lower(tmp_path)
    found = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert found == [
        "decoder.expected_layers.json",
        "decoder.onnx",
        "decoder.profiles.json",
        *(f"kit/{name}" for name in trt_kit.FILES),
    ]


def test_profiles(tmp_path: Path) -> None:
    assert read(lower(tmp_path) / "decoder.profiles.json") == {
        "onnx": "decoder.onnx",
        "opset": 18,
        "precision": "fp16",
        "strongly_typed": True,
        "tensorrt": "10.3",
        "tf32": False,
        "workspace_mib": 0,
        "inputs": {
            "tokens": {"min": [1, 48], "opt": [1, 48], "max": [64, 48]},
            "flags": {"min": [1], "opt": [1], "max": [64]},
        },
    }


def test_expected_layers(tmp_path: Path) -> None:
    found = read(lower(tmp_path) / "decoder.expected_layers.json")
    assert found["precision"] == "fp16"
    assert found["nodes_by_dtype"] == {"float16": 5}
    assert found["constants_by_dtype"]["float16"] == 48 * 48
    assert (found["fp32_islands"], found["reasons"]) == ([], [])


def test_fp32_nodes_are_listed_with_their_reasons(tmp_path: Path) -> None:
    rule = KeepFp32(
        component="decoder", modules=("layers",), ops=("tanh",), reason="it overflows", source="us"
    )
    graph = write_graph(tmp_path / "named.onnx")
    import onnx

    model = onnx.load(graph.path)
    model.graph.node[1].name = "node_tanh"
    onnx.save(model, graph.path)
    out = lower(tmp_path, path=graph.path, recipe=(rule,), fp32_nodes=("node_tanh",))
    found = read(out / "decoder.expected_layers.json")
    assert found["nodes_by_dtype"] == {"float16": 4, "float32": 1}
    assert found["fp32_islands"] == [{"name": "node_tanh", "op": "Tanh"}]
    assert found["reasons"] == [
        {
            "component": "decoder",
            "modules": ["layers"],
            "ops": ["tanh"],
            "reason": "it overflows",
            "source": "us",
        }
    ]


def test_fp32_lists_no_islands(tmp_path: Path) -> None:
    found = read(lower(tmp_path, "fp32") / "decoder.expected_layers.json")
    assert found["nodes_by_dtype"] == {"float32": 5}
    assert (found["fp32_islands"], found["reasons"]) == ([], [])


@pytest.mark.parametrize("name", [n for n in trt_kit.FILES if n.endswith(".py")])
def test_scripts_are_of_the_python_of_jetpack_6(name: str) -> None:
    text = Path(build_engine.__file__).with_name(name).read_text("utf-8")
    ast.parse(text, feature_version=(3, 10))
    wanted = {"__future__", "numpy", "PIL", "tensorrt", "trt_engine", "golden_masks"}
    imported = {
        (n.module or "") if isinstance(n, ast.ImportFrom) else n.names[0].name
        for n in ast.walk(ast.parse(text))
        if isinstance(n, (ast.Import, ast.ImportFrom))
    }
    assert imported <= wanted | sys.stdlib_module_names


def test_equal_bytes_every_time(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    a, b = lower(one), lower(two)
    for path in a.rglob("*.*"):
        assert path.read_bytes() == (b / path.relative_to(a)).read_bytes()


def test_invalid_options_write_no_files(tmp_path: Path) -> None:
    target = profiles.load_target("tensorrt")
    target = replace(target, options={**target.options, "max_points": 0})
    with pytest.raises(UsageError):
        backend.lower(write_graph(tmp_path / "decoder.onnx"), target, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["decoder.onnx"]


# ------------------------------------------------------------------ build_engine.py


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tensorrt.reset()
    fake_tensorrt.MEMORY.clear()
    monkeypatch.setattr(fake_tensorrt, "__version__", "10.3.0")


@pytest.fixture
def with_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)


def test_build(with_tensorrt: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = lower(tmp_path)
    assert build_engine.main(["--bundle", str(out)]) == 0
    assert read(out / "decoder.engine") == {"onnx": str(out / "decoder.onnx")}
    assert fake_tensorrt.CALLS == [
        ("create_network", 2),  # strongly typed
        ("clear_flag", "TF32"),
        (
            "add_optimization_profile",
            {"tokens": ((1, 48), (1, 48), (64, 48)), "flags": ((1,), (1,), (64,))},
        ),
        ("build_serialized_network", fake_tensorrt.ProfilingVerbosity.DETAILED),
    ]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "TensorRT 10.3.0"
    assert said[1].startswith("decoder: decoder.engine, ")
    assert said[-1] == "next: python3 kit/verify_engine.py"


def test_build_without_the_flag_of_version_10(
    with_tensorrt: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(fake_tensorrt, "NetworkDefinitionCreationFlag")
    monkeypatch.setattr(fake_tensorrt, "__version__", "11.1.0")
    assert build_engine.main(["--bundle", str(lower(tmp_path))]) == 0
    assert fake_tensorrt.CALLS[0] == ("create_network", 0)


def test_workspace(with_tensorrt: None, tmp_path: Path) -> None:
    assert build_engine.main(["--bundle", str(lower(tmp_path)), "--workspace-mib", "512"]) == 0
    assert ("set_memory_pool_limit", "WORKSPACE", 512 << 20) in fake_tensorrt.CALLS


@pytest.mark.parametrize("version", ["8.6.1", "10.0.1", "10.2.0"])
def test_too_old(
    version: str,
    with_tensorrt: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fake_tensorrt, "__version__", version)
    out = lower(tmp_path)
    assert build_engine.main(["--bundle", str(out)]) == 1
    assert capsys.readouterr().err == (
        f"error: decoder: TensorRT {version} is too old: 10.3 or newer is needed\n"
    )
    assert not (out / "decoder.engine").exists()


def test_graph_is_refused(
    with_tensorrt: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_tensorrt.FAULTS.append(("node_7", "Tile", "not a shape tensor"))
    out = lower(tmp_path)
    assert build_engine.main(["--bundle", str(out)]) == 1
    assert capsys.readouterr().err == "error: decoder: node `node_7`: not a shape tensor\n"
    assert not (out / "decoder.engine").exists()


def test_builder_without_a_result_is_an_error(
    with_tensorrt: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_tensorrt.SETTINGS["engine"] = False
    assert build_engine.main(["--bundle", str(lower(tmp_path))]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        "error: decoder: no engine was built; if the log above contains `Could not "
    )
    assert "--workspace-mib" in said


def test_unknown_component(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build_engine.main(["encoder", "--bundle", str(lower(tmp_path))]) == 2
    assert capsys.readouterr().err == (
        "error: there is no component `encoder`; the bundle has decoder\n"
    )


COMMAND = (
    "trtexec --onnx={out}/decoder.onnx --saveEngine={out}/decoder.engine --stronglyTyped "
    "--profilingVerbosity=detailed --skipInference --noTF32 --minShapes=flags:1,tokens:1x48 "
    "--optShapes=flags:1,tokens:1x48 --maxShapes=flags:64,tokens:64x48\n"
)


def script(out: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of a kit like on a device, isolated from this package."""
    return subprocess.run(
        [sys.executable, str(out / "kit" / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=out,
        env={"PATH": ""},
    )


def test_script_prints_the_command_without_tensorrt(tmp_path: Path) -> None:
    out = lower(tmp_path)
    (out / "kit" / "tensorrt.py").write_text("raise ImportError('no libnvinfer')\n")
    done = script(out, "build_engine.py")
    assert done.returncode == 3
    assert done.stdout == COMMAND.format(out=out)
    assert done.stderr.startswith("error: the Python package `tensorrt` is not installed; ")


def test_script_prints_the_command_with_print(tmp_path: Path) -> None:
    out = lower(tmp_path)
    done = script(out, "build_engine.py", "--print")
    assert (done.returncode, done.stdout, done.stderr) == (0, COMMAND.format(out=out), "")


def test_script_builds_by_itself(tmp_path: Path) -> None:
    out = lower(tmp_path)
    shutil.copyfile(fake_tensorrt.__file__, out / "kit" / "tensorrt.py")
    done = script(out, "build_engine.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "decoder.engine").is_file()
