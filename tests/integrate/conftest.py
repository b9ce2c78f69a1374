"""Small bundles for every runtime, onnxruntime-web, and compilers, where they can be had."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from effsam_export import models
from effsam_export.config import targets as profiles
from effsam_export.integrate.javascript import RUNTIME
from effsam_export.weights import own_file
from tests.bundle.fake import manifest_of
from tests.integrate import native
from tests.integrate.jvm import Kotlin
from tests.integrate.tools import generate, run
from tests.small import SMALL_SAM
from tests.stages import export
from tests.tiny_instances import TINY_INSTANCES, write_checkpoint

if TYPE_CHECKING:
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.spec.targets import Precision

INSTANCE_PROMPTS = """
[[images]]
file = "{image}"
prompts = [
  {{ name = "point", points = [[60, 40, 1]] }},
  {{ name = "points", points = [[20, 20, 1], [90, 70, 1], [60, 60, 0]] }},
  {{ name = "box", box = [10, 10, 90, 60] }},
  {{ name = "top", box = [-5, 0, 125.5, 12] }},
  {{ name = "corner", box = [2.5, 55, 30, 80] }},
  {{ name = "near", box = [2, 53, 14, 78] }},
]
"""
"""`near` chooses an instance whose side another border would move."""


def exported(
    target: str,
    output: Path,
    checkpoint: Checkpoint,
    parity_file: Path,
    stage_root: Path,
    model: ModelSpec = SMALL_SAM,
    precision: Precision = "fp32",
) -> Path:
    """A bundle of a small model."""
    from effsam_export.pipeline.request import ExportRequest

    request = ExportRequest(
        model=model,
        target=profiles.load_target(target, precision),
        checkpoint=checkpoint,
        output=output,
        parity_file=parity_file,
    )
    export(request, stage_root)
    return output


@pytest.fixture(scope="session")
def exported_onnx(
    tmp_path_factory: pytest.TempPathFactory,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    stage_root: Path,
) -> Path:
    """The small model for ONNX Runtime, made once; tests that change it take `bundle`."""
    output = tmp_path_factory.mktemp("bundles") / "small"
    return exported("onnx", output, small_checkpoint, parity_file, stage_root)


@pytest.fixture
def bundle(exported_onnx: Path, tmp_path: Path, small: None) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(exported_onnx, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def exported_openvino(
    tmp_path_factory: pytest.TempPathFactory,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    stage_root: Path,
) -> Path:
    """The small model for OpenVINO, made once; tests that change it take `openvino_bundle`."""
    pytest.importorskip("openvino")
    output = tmp_path_factory.mktemp("bundles") / "small-openvino"
    return exported("openvino", output, small_checkpoint, parity_file, stage_root)


@pytest.fixture
def openvino_bundle(exported_openvino: Path, tmp_path: Path, small: None) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(exported_openvino, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def node() -> str:
    """Node 18 or newer."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    version = run([found, "--version"], Path.cwd()).stdout
    if int(version.lstrip("v").split(".")[0]) < 18:
        pytest.skip(f"node {version.strip()} is older than 18")
    return found


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory, node: str) -> Path:
    """A folder with onnxruntime-web in it, as `npm install` makes it."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text('{"private": true}')
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    done = run([npm, "install", *options, f"onnxruntime-web@{RUNTIME}"], folder)
    if done.returncode:
        pytest.skip(f"onnxruntime-web cannot be installed: {done.stderr.strip()[-200:]}")
    return folder / "node_modules"


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> native.Compiler:
    """For the generated C++; most of it needs no runtime's headers."""
    return native.find_compiler(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="session")
def cpp_openvino() -> native.Runtime:
    """OpenVINO for C++."""
    return native.find_openvino()


@pytest.fixture(scope="session")
def cpp_onnx(tmp_path_factory: pytest.TempPathFactory) -> native.Runtime:
    """ONNX Runtime for C++."""
    return native.find_onnxruntime(tmp_path_factory.mktemp("onnxruntime"))


@pytest.fixture(scope="session")
def cpp_tflite() -> native.Runtime:
    """LiteRT for C++."""
    return native.find_litert()


@pytest.fixture(scope="session")
def exported_tflite(
    tmp_path_factory: pytest.TempPathFactory,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    stage_root: Path,
) -> Path:
    """The small model for LiteRT, made once; tests that change it take `tflite_bundle`."""
    pytest.importorskip("litert_torch")
    output = tmp_path_factory.mktemp("bundles") / "small-tflite"
    return exported("tflite", output, small_checkpoint, parity_file, stage_root)


@pytest.fixture
def tflite_bundle(exported_tflite: Path, tmp_path: Path, small: None) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(exported_tflite, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def kotlin() -> Kotlin:
    """Kotlin's compiler, which comes with a kernel for notebooks, and a JVM to run it in."""
    kernel = pytest.importorskip("run_kotlin_kernel")
    java = shutil.which("java")
    if java is None:
        pytest.skip("java is not installed")
    # What Java 8 had is told by a file that a runtime without the development kit lacks.
    if not (Path(java).resolve().parent.parent / "lib" / "ct.sym").is_file():
        pytest.skip("java is installed without its development kit")
    jars = sorted((Path(kernel.__path__[0]) / "jars").glob("*.jar"))
    (library,) = (j for j in jars if j.name.startswith("kotlin-stdlib-"))
    return Kotlin(java=java, jars=tuple(jars), library=library)


# ------------------------------------------------------------------ bundles that find instances


@pytest.fixture(scope="session")
def weights_of_instances(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    pytest.importorskip("torch")
    path = write_checkpoint(tmp_path_factory.mktemp("weights") / "instances.pt")
    return own_file.checkpoint_from_file(path, None)


@pytest.fixture(scope="session")
def instance_prompts(photo: Path) -> Path:
    path = photo.parent / "instances.toml"
    path.write_text(INSTANCE_PROMPTS.format(image=photo.name), "utf-8")
    return path


@pytest.fixture(scope="session")
def exported_instances(
    tmp_path_factory: pytest.TempPathFactory,
    weights_of_instances: Checkpoint,
    instance_prompts: Path,
    stage_root: Path,
) -> Path:
    """For ONNX Runtime, made once; tests that change it take `instance_bundle`."""
    output = tmp_path_factory.mktemp("bundles") / "instances"
    return exported(
        "onnx", output, weights_of_instances, instance_prompts, stage_root, TINY_INSTANCES
    )


@pytest.fixture(scope="session")
def exported_instances_openvino(
    tmp_path_factory: pytest.TempPathFactory,
    weights_of_instances: Checkpoint,
    instance_prompts: Path,
    stage_root: Path,
) -> Path:
    """The same for OpenVINO; tests that change it take a copy."""
    pytest.importorskip("openvino")
    output = tmp_path_factory.mktemp("bundles") / "instances-openvino"
    return exported(
        "openvino", output, weights_of_instances, instance_prompts, stage_root, TINY_INSTANCES
    )


@pytest.fixture(scope="session")
def exported_instances_tflite(
    tmp_path_factory: pytest.TempPathFactory,
    weights_of_instances: Checkpoint,
    instance_prompts: Path,
    stage_root: Path,
) -> Path:
    """The same for LiteRT; tests that change it take a copy."""
    pytest.importorskip("litert_torch")
    output = tmp_path_factory.mktemp("bundles") / "instances-tflite"
    return exported(
        "tflite", output, weights_of_instances, instance_prompts, stage_root, TINY_INSTANCES
    )


@pytest.fixture
def known_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the model into the table of models."""
    place = ("tests.tiny_instances", "TINY_INSTANCES")
    monkeypatch.setitem(models.MODELS, TINY_INSTANCES.name, place)


@pytest.fixture
def instance_bundle(exported_instances: Path, tmp_path: Path, known_instances: None) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(exported_instances, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def instance_code(exported_instances: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instance-code")
    return generate(manifest_of(exported_instances), "python", folder)
