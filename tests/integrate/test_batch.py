"""Generated code for graphs of several images: it puts its image into every slot."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export import integrate, models
from effsam_export.errors import UsageError
from effsam_export.integrate.contract import contract_of
from effsam_export.integrate.instances import instance_contract_of
from effsam_export.models import fixed
from effsam_export.models.batching import with_batch
from effsam_export.spec.batches import ANY
from tests.bundle.fake import manifest_of
from tests.integrate.conftest import exported
from tests.integrate.jvm import STUBS, package_of, packaged
from tests.integrate.tools import changed, generate, manifest_for, run
from tests.small import SMALL_SAM
from tests.tiny_instances import TINY_INSTANCES

if TYPE_CHECKING:
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint
    from tests.integrate.jvm import Kotlin
    from tests.integrate.native import Compiler, Runtime

BATCH = 2
RUNTIMES = {"python": "onnx", "cpp": "onnx", "js": "onnx", "swift": "coreml", "kotlin": "tflite"}
CHILD = [sys.executable, str(Path(__file__).with_name("litert_child.py"))]
CONTRADICTIONS: list[tuple[str, object]] = [
    ("components.0.inputs.0.shape.0", 1),
    ("components.0.outputs.0.shape.0", 1),
    ("preprocess.batch", 4),
    ("preprocess.batch", "dynamic"),
]
"""One value of a manifest for three images each, and what it becomes."""


# ------------------------------------------------------------------ the contract


@pytest.mark.parametrize(("batch", "filled"), [(1, 1), (3, 3), (ANY, 1)])
def test_the_slots_that_are_filled(batch: int | str, filled: int) -> None:
    contract = contract_of(manifest_for(with_batch(SMALL_SAM, batch)))
    assert contract.batch == filled
    assert instance_contract_of(manifest_for(with_batch(TINY_INSTANCES, batch))).batch == filled


@pytest.mark.parametrize(
    ("model", "path", "value"),
    [
        *((m, p, v) for m in (SMALL_SAM, TINY_INSTANCES) for p, v in CONTRADICTIONS),
        (SMALL_SAM, "components.1.inputs.0.shape.0", 3),
    ],
)
def test_a_batch_that_the_tensors_contradict(model: ModelSpec, path: str, value: object) -> None:
    manifest = manifest_for(with_batch(model, 3))
    read = contract_of if model is SMALL_SAM else instance_contract_of
    read(manifest)
    with pytest.raises(UsageError, match="this contract is not supported"):
        read(changed(manifest, path, value))


def files_for(language: str, batch: int | str) -> dict[str, str]:
    model = fixed.with_slots(SMALL_SAM, 6) if language in ("swift", "kotlin") else SMALL_SAM
    manifest = manifest_for(with_batch(model, batch), RUNTIMES[language])
    return integrate.load(language).files(contract_of(manifest))


@pytest.mark.parametrize("language", integrate.LANGUAGES)
def test_code_for_one_image_knows_no_batch(language: str) -> None:
    """Also that of a dynamic batch, which gets one image."""
    word = "Contract.batch" if language == "swift" else "BATCH"
    for batch in (1, ANY):
        assert word not in "".join(files_for(language, batch).values())
    assert word in "".join(files_for(language, 3).values())


# ------------------------------------------------------------------ real bundles


def bundle_of(
    target: str, folder: Path, weights: Checkpoint, prompts: Path, stages: Path, model: ModelSpec
) -> Path:
    return exported(target, folder / "bundle", weights, prompts, stages, with_batch(model, BATCH))


@pytest.fixture(scope="module")
def exported_batch(
    tmp_path_factory: pytest.TempPathFactory,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    stage_root: Path,
) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    return bundle_of("onnx", folder, small_checkpoint, parity_file, stage_root, SMALL_SAM)


@pytest.fixture(scope="module")
def exported_batch_of_instances(
    tmp_path_factory: pytest.TempPathFactory,
    weights_of_instances: Checkpoint,
    instance_prompts: Path,
    stage_root: Path,
) -> Path:
    folder = tmp_path_factory.mktemp("instances")
    parts = (weights_of_instances, instance_prompts, stage_root, TINY_INSTANCES)
    return bundle_of("onnx", folder, *parts)


@pytest.fixture(params=["exported_batch", "exported_batch_of_instances"])
def bundle(
    request: pytest.FixtureRequest, tmp_path: Path, small: None, known_instances: None
) -> Path:
    """A copy of each kind of bundle."""
    source: Path = request.getfixturevalue(request.param)
    assert manifest_of(source)["preprocess"]["batch"] == BATCH
    return Path(shutil.copytree(source, tmp_path / "bundle"))


def passed(done: Any) -> bool:  # noqa: ANN401 - a finished process
    assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr
    return bool(done.returncode == 0)


@pytest.mark.backend
def test_python(bundle: Path, tmp_path: Path) -> None:
    folder = generate(manifest_of(bundle), "python", tmp_path / "code")
    assert passed(run([sys.executable, "selftest.py", str(bundle)], folder))


@pytest.mark.backend
def test_javascript(bundle: Path, tmp_path: Path, node: str, node_modules: Path) -> None:
    folder = generate(manifest_of(bundle), "js", tmp_path / "code")
    (folder / "node_modules").symlink_to(node_modules)
    assert passed(run([node, "selftest.mjs", str(bundle)], folder))


@pytest.mark.backend
def test_cpp(bundle: Path, tmp_path: Path, compiler: Compiler, cpp_onnx: Runtime) -> None:
    folder = generate(manifest_of(bundle), "cpp", tmp_path / "code")
    program = compiler.compile(folder, "selftest.cpp", cpp_onnx, quick=True)
    assert passed(run([str(program), str(bundle)], folder))


@pytest.mark.backend
def test_kotlin(
    tmp_path: Path,
    kotlin: Kotlin,
    small_checkpoint: Checkpoint,
    parity_file: Path,
    stage_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("litert_torch")
    javac = shutil.which("javac")
    if javac is None:
        pytest.skip("javac is not installed")
    monkeypatch.setitem(models.MODELS, SMALL_SAM.name, ("tests.small", "SMALL_SAM"))
    found = bundle_of("tflite", tmp_path, small_checkpoint, parity_file, stage_root, SMALL_SAM)
    files = packaged(manifest_of(found), tmp_path / "code", package_of("batch"))
    sources = [f for f in files if f.name != "Driver.kt"]
    classes = kotlin.compile([*sources, *STUBS], tmp_path / "classes")
    options = ["--release", "8", "-Xlint:-options", "-d", str(classes)]
    assert run([javac, *options, *map(str, STUBS)], classes).returncode == 0
    command = kotlin.command(f"{package_of('batch')}.RunKt", classes)
    report = str(tmp_path / "report.json")
    assert passed(run([*command, "python", str(found), report, *CHILD], tmp_path))
