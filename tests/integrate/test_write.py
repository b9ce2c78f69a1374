"""The folder of code: which files, whose, and nothing half-written."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from effsam_export import cli, integrate, models
from effsam_export.bundle import archive
from effsam_export.errors import BundleError, OutputError, UnknownNameError, UsageError
from effsam_export.integrate import cpp, python, render
from effsam_export.integrate.contract import contract_of
from effsam_export.integrate.write import code_for, writer
from tests.bundle import fake
from tests.integrate.tools import KINDS, changed, manifest_for

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "python": ("segmenter.py", "selftest.py", "images.py", "pixels.py", "samples.py"),
    "cpp": (
        "effsam_segmenter.hpp",
        "effsam_segmenter.cpp",
        "effsam_graph.hpp",
        "effsam_graph.cpp",
        "selftest_files.hpp",
        "selftest.cpp",
        "example.cpp",
        "CMakeLists.txt",
    ),
    "js": ("segmenter.mjs", "selftest.mjs", "package.json"),
    "swift": (
        "Package.swift",
        "Segmenter.swift",
        "Resizing.swift",
        "Images.swift",
        "CoreMLGraph.swift",
        "SelfTest.swift",
        "SelfTestFiles.swift",
        "main.swift",
    ),
    "kotlin": (
        "Segmenter.kt",
        "Resizing.kt",
        "LiteRtGraph.kt",
        "AndroidImages.kt",
        "SelfTest.kt",
        "SelfTestFiles.kt",
        "build.gradle.kts",
    ),
}

OTHERS = (
    *("instances.py", "prompts.py", "graph.py"),
    *("instances.hpp", "prompts.hpp", "building.hpp"),
    *("instances.cpp", "prompts.cpp", "letterbox.cpp"),
    *("instances.mjs", "pixels.mjs", "prompts.mjs", "bilinear.mjs"),
    *("slots.cpp", "slots.mjs"),
    *("index.html", "app.mjs", "worker.mjs", "sw.js", "serve.mjs"),
)
"""Templates that are another form or a part of a file above, or files of the web page."""

# Core ML has fixed shapes alone.
CODE = [(n, k) for n in FILES for k in KINDS if n != "swift" or k in ("slots", "fixed-fill")]
INSTANCES = [(n, b) for n in integrate.INSTANCES for b in integrate.load(n).BACKENDS]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of the tiny model for ONNX Runtime, whose graphs nobody opens here."""
    return fake.write(tmp_path / "tiny")


def for_backend(bundle: Path, backend: str, **options: object) -> None:
    manifest = fake.manifest_of(bundle)
    manifest["target"].update(backend=backend, options=options)
    fake.save(bundle, manifest)


# ------------------------------------------------------------------ the files


@pytest.mark.parametrize(
    ("language", "backend"),
    [(n, b) for n in FILES for b in integrate.load(n).BACKENDS],
)
def test_files_of_a_language(bundle: Path, tmp_path: Path, language: str, backend: str) -> None:
    options: dict[str, dict[str, object]] = {
        "openvino": {"device": "CPU", "inference_precision": "f32"},
        "tflite": {"num_threads": 4, "slots": 8},
    }
    for_backend(bundle, backend, **options.get(backend, {}))
    if language == "swift":
        fake.save(bundle, manifest_for(KINDS["slots"], "coreml"))
    assert code_for(bundle, language, tmp_path / "out") == FILES[language]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(FILES[language])
    for name in FILES[language]:
        text = (tmp_path / "out" / name).read_text("utf-8")
        assert render.MARK in text[:2000]
        assert "@@" not in text
        assert text.endswith("\n")
        assert name == "package.json" or max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(("language", "kind"), CODE)
def test_equal_manifests_are_equal_code(language: str, kind: str) -> None:
    backend = next(iter(integrate.load(language).BACKENDS))
    manifest = manifest_for(KINDS[kind], backend)
    first = integrate.load(language).files(contract_of(manifest))
    assert first == integrate.load(language).files(contract_of(manifest))
    for text in first.values():
        assert "@@" not in text
        assert "\n\n\n\n" not in text


@pytest.mark.parametrize("language", FILES)
def test_a_title_cannot_leave_its_comment(language: str) -> None:
    backend = next(iter(integrate.load(language).BACKENDS))
    title = 'x"""\n*/ evil() \\'
    manifest = changed(manifest_for(KINDS["slots"], backend), "model.title", title)
    for text in integrate.load(language).files(contract_of(manifest)).values():
        assert 'x"""' not in text
        assert "*/ evil" not in text
        assert "evil() \\" not in text


def test_templates_stay_small() -> None:
    templates = list(render.TEMPLATES.iterdir())
    # There is none for package.json and copies, and effsam_graph.cpp has one for each runtime.
    wanted = sum(len(names) for names in FILES.values()) - 1 + len(cpp.BACKENDS) - 1
    wanted -= len(python.COPIES)
    assert len(templates) == wanted + len(OTHERS)
    assert {f"{name}.tmpl" for name in OTHERS} < {t.name for t in templates}
    for path in templates:
        assert len(path.read_text("utf-8").splitlines()) <= 400, path.name


# ------------------------------------------------------------------ what is refused


def test_a_language_that_there_is_not(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown language `pyton`") as error:
        code_for(bundle, "pyton", tmp_path / "out")
    assert error.value.hint == "did you mean `python`?"


@pytest.mark.parametrize(
    ("language", "backend", "hint"),
    [
        ("js", "openvino", "for openvino use --language python or cpp"),
        ("kotlin", "onnx", "for onnx use --language python or cpp or js"),
        ("js", "tflite", "for tflite use --language python or cpp or kotlin"),
        ("python", "coreml", "for coreml use --language swift"),
        ("swift", "onnx", "for onnx use --language python or cpp or js"),
        ("swift", "tensorrt", "the bundle's README.md has the rules for code of your own"),
        ("cpp", "tensorrt", "the bundle's README.md has the rules for code of your own"),
    ],
)
def test_a_backend_without_a_runtime(
    bundle: Path, tmp_path: Path, language: str, backend: str, hint: str
) -> None:
    for_backend(bundle, backend)
    with pytest.raises(UsageError, match=f"not for {backend}") as error:
        code_for(bundle, language, tmp_path / "out")
    assert error.value.hint == hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("language", ["python", "cpp", "kotlin"])
def test_a_gpu_delegate(bundle: Path, tmp_path: Path, language: str) -> None:
    for_backend(bundle, "tflite", delegate="gpu", slots=8)
    with pytest.raises(UsageError, match="GPU delegate"):
        code_for(bundle, language, tmp_path / "out")


@pytest.mark.parametrize("language", ["python", "cpp", "kotlin"])
@pytest.mark.parametrize("threads", ["many", True, 1.5])
def test_threads_that_are_no_number(
    bundle: Path, tmp_path: Path, threads: object, language: str
) -> None:
    for_backend(bundle, "tflite", num_threads=threads, slots=8)
    with pytest.raises(UsageError, match="num_threads is"):
        code_for(bundle, language, tmp_path / "out")


def test_the_lines_for_an_android_build() -> None:
    manifest = manifest_for(KINDS["slots"], "tflite")
    manifest["target"]["options"] = {"num_threads": 4}
    files = integrate.load("kotlin").files(contract_of(manifest))
    assert '"com.google.ai.edge.litert:litert:[2.1.0,3.0.0)"' in files["build.gradle.kts"]
    assert "const val THREADS = 4\n" in files["LiteRtGraph.kt"]
    # What runs anywhere names nothing of Android's.
    for name in ("Segmenter.kt", "Resizing.kt", "SelfTest.kt", "SelfTestFiles.kt"):
        assert "import android" not in files[name]
        assert "import org.tensorflow" not in files[name]


def test_weights_beside_a_graph_do_not_run_in_a_browser(bundle: Path) -> None:
    manifest = fake.manifest_of(bundle)
    manifest["components"][0]["files"].append("encoder.onnx.data")
    contract = contract_of(manifest)
    assert integrate.load("python").files(contract)
    with pytest.raises(UsageError, match=r"more than 2 GB .* `encoder.onnx.data`"):
        integrate.load("js").files(contract)
    manifest = manifest_for(models.get("fast-sam-s"))
    manifest["components"][0]["files"].append("segmenter.onnx.data")
    assert writer("python", manifest)()
    with pytest.raises(UsageError, match=r"more than 2 GB .* `segmenter.onnx.data`"):
        writer("js", manifest)()


@pytest.mark.parametrize("language", [n for n in FILES if n not in integrate.INSTANCES])
def test_fast_sam_in_another_language(bundle: Path, tmp_path: Path, language: str) -> None:
    backend = next(iter(integrate.load(language).BACKENDS))
    fake.save(bundle, manifest_for(models.get("fast-sam-s"), backend))
    with pytest.raises(UsageError) as error:
        code_for(bundle, language, tmp_path / "out")
    assert error.value.message == (
        f"code for a bundle that finds instances is generated in {', '.join(integrate.INSTANCES)}, "
        f"not in {language}"
    )
    hints = (error.value.hint or "").split(" or ")
    assert len(hints) == len(integrate.INSTANCES)
    assert "--language python for onnx, openvino, tflite" in hints
    assert "--language cpp for openvino, onnx, tflite" in hints
    assert "--language js for onnx" in hints
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("language", integrate.INSTANCES)
@pytest.mark.parametrize("backend", ["coreml", "tensorrt"])
def test_fast_sam_without_a_runtime(
    bundle: Path, tmp_path: Path, backend: str, language: str
) -> None:
    fake.save(bundle, manifest_for(models.get("fast-sam-s"), backend))
    with pytest.raises(UsageError, match=f"not for {backend}") as error:
        code_for(bundle, language, tmp_path / "out")
    assert error.value.hint == "the bundle's README.md has the rules for code of your own"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backend", ["openvino", "tflite"])
def test_fast_sam_for_a_browser_without_a_runtime(
    bundle: Path, tmp_path: Path, backend: str
) -> None:
    fake.save(bundle, manifest_for(models.get("fast-sam-s"), backend))
    with pytest.raises(UsageError, match=f"not for {backend}") as error:
        code_for(bundle, "js", tmp_path / "out")
    assert (error.value.hint or "").startswith(f"for {backend} use --language python")


@pytest.mark.parametrize(("language", "backend"), INSTANCES)
def test_fast_sam(bundle: Path, tmp_path: Path, language: str, backend: str) -> None:
    fake.save(bundle, manifest_for(models.get("fast-sam-s"), backend))
    assert code_for(bundle, language, tmp_path / "out") == FILES[language]
    for name in FILES[language]:
        text = (tmp_path / "out" / name).read_text("utf-8")
        assert render.MARK in text[:2000]
        assert "@@" not in text
        assert "\n\n\n\n" not in text
        assert name == "package.json" or max(map(len, text.splitlines())) <= 100
        if language == "python":
            compile(text, name, "exec")


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        code_for(tmp_path / "absent", "python", tmp_path / "out")


# ------------------------------------------------------------------ the place


def test_existing_files_are_kept(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code_for(bundle, "python", out)
    (out / "app.py").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        code_for(bundle, "python", out)
    (out / "segmenter.py").write_text(f'"""{render.MARK} long ago"""')
    code_for(bundle, "python", out, force=True)
    assert "CONTRACT" in (out / "segmenter.py").read_text()
    assert (out / "app.py").read_text() == "mine"


def test_a_file_that_was_not_generated_is_never_replaced(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "segmenter.py").write_text("mine")
    with pytest.raises(OutputError, match=r"files that were not generated: `segmenter\.py`"):
        code_for(bundle, "python", out, force=True)
    assert [p.name for p in out.iterdir()] == ["segmenter.py"]
    (out / "segmenter.py").unlink()
    (out / "selftest.py").symlink_to(tmp_path / "tiny" / "README.md")
    with pytest.raises(OutputError, match=r"files that were not generated: `selftest\.py`"):
        code_for(bundle, "python", out, force=True)


def test_an_output_path_that_is_not_a_folder(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="is not a directory"):
        code_for(bundle, "python", tmp_path / "out", force=True)
    (tmp_path / "link").symlink_to(tmp_path / "tiny")
    with pytest.raises(OutputError, match="is not a directory"):
        code_for(bundle, "python", tmp_path / "link", force=True)


def test_an_empty_folder_is_taken(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    code_for(bundle, "python", tmp_path / "out")
    assert (tmp_path / "out" / "segmenter.py").is_file()


def test_a_contract_that_is_refused_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    manifest = fake.manifest_of(bundle)
    manifest["masks"]["select"] = "the first"
    fake.save(bundle, manifest)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"masks\.select"):
        code_for(bundle, "python", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_full_disk_leaves_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(OutputError, match="no space left"):
        code_for(bundle, "python", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == before


# ------------------------------------------------------------------ the command


def effsam(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["effsam", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert effsam(monkeypatch, "code", bundle, "--language", "python") == 0
    shown = capsys.readouterr()
    target = bundle.with_name("tiny-python")
    assert shown.out == f"{target}\n"
    assert shown.err.splitlines() == [
        "wrote segmenter.py, selftest.py, images.py, pixels.py, samples.py",
        f"next: cd {target}; python selftest.py BUNDLE",
    ]
    assert effsam(monkeypatch, "code", bundle, "-l", "python") == 2
    assert "is not empty" in capsys.readouterr().err
    assert effsam(monkeypatch, "code", bundle, "-l", "python", "--force", "-q") == 0
    assert capsys.readouterr().err == ""


def test_the_command_in_the_bundle_itself(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    assert effsam(monkeypatch, "code", ".", "-l", "python") == 0
    monkeypatch.chdir(bundle / "golden")
    assert effsam(monkeypatch, "code", "..", "-l", "python", "--force") == 0
    assert (bundle.with_name("tiny-python") / "segmenter.py").is_file()
    assert not (bundle / "tiny-python").exists()


def test_the_command_takes_the_one_file_too(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive.pack(bundle, tmp_path / "packed.effsam.zip")
    assert effsam(monkeypatch, "code", tmp_path / "packed.effsam.zip", "-l", "js") == 0
    package = json.loads((tmp_path / "packed-js" / "package.json").read_text())
    assert "onnxruntime-web" in package["dependencies"]
