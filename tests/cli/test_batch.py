"""`--batch` from the export to the generated code, on a tiny ViT."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import effsam_export
from effsam_export import cli, models
from effsam_export.backends.onnx.session import OnnxSession
from effsam_export.bundle import read
from effsam_export.imaging.images import encoder_image
from effsam_export.spec.batches import ANY
from tests.bundle.fake import manifest_of
from tests.integrate.tools import generate, pixels, save
from tests.integrate.tools import run as execute
from tests.tiny_vit import SIDE, TINY_VIT, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.backend


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in a folder of the test's own, with the tiny ViT in the table of models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(models.MODELS, TINY_VIT.name, ("tests.tiny_vit", "TINY_VIT"))


@pytest.fixture
def effsam(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["effsam", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def export(effsam: Run, parity_file: Path, *more: str) -> Path:
    given = ("--checkpoint", write_checkpoint(Path("mine.pt")), "--parity", parity_file)
    code, out, err = effsam("export", "tiny-vit", *more, *given)
    assert code == 0, err
    return Path(out.strip()).resolve()


def check(effsam: Run, parity_file: Path, bundle: Path, photo: Path) -> None:
    """Verify a bundle of several images, and run it and its Python on one."""
    given = ("--checkpoint", "mine.pt", "--parity", parity_file)
    code, _, err = effsam("verify", bundle, "--level", "full", *given)
    assert code == 0, err
    code, _, err = effsam("run", bundle, photo, "--point", "60,40", "--masks", "masks.npz")
    assert code == 0, err
    text = (bundle / "README.md").read_text("utf-8")
    code_block = text.partition("```python\n")[2].partition("```")[0]
    done = execute([sys.executable, "-c", code_block], bundle)
    assert done.returncode == 0, done.stderr
    written = generate(manifest_of(bundle), "python", Path("code"))
    done = execute([sys.executable, "selftest.py", str(bundle)], written)
    assert done.stdout.endswith("PASSED\n"), done.stdout + done.stderr


@pytest.mark.slow
def test_three_images(effsam: Run, parity_file: Path, photo: Path) -> None:
    bundle = export(effsam, parity_file, "-t", "onnx", "--batch", "3")
    assert bundle.name == "tiny-vit-b3-onnx-fp32"
    manifest = manifest_of(bundle)
    assert manifest["preprocess"]["batch"] == 3
    shapes = {t["name"]: t["shape"] for c in manifest["components"] for t in c["inputs"]}
    assert shapes["image"] == [3, 3, SIDE, SIDE]
    assert shapes["image_embeddings"] == [1, 256, SIDE // 16, SIDE // 16]
    assert read.read(bundle).model.batch == 3
    text = (bundle / "README.md").read_text("utf-8")
    assert "One call of the encoder takes 3 images, image i at index i of `image`" in text
    assert "Fill slots without an image" in text
    check(effsam, parity_file, bundle, photo)

    del manifest["preprocess"]["batch"]
    save(bundle, manifest)
    code, out, err = effsam("verify", bundle, "--level", "golden")
    assert code == 1
    assert "`preprocess.batch` is nothing, want 3 (the graphs)" in out + err


def test_any_number_of_images(effsam: Run, parity_file: Path, photo: Path) -> None:
    bundle = export(effsam, parity_file, "-t", "onnx", "--batch", "dynamic")
    assert bundle.name == "tiny-vit-bdynamic-onnx-fp32"
    manifest = manifest_of(bundle)
    assert manifest["preprocess"]["batch"] == "dynamic"
    assert manifest["components"][0]["outputs"][0]["shape"][0] == ANY
    assert "takes any number of images" in (bundle / "README.md").read_text("utf-8")
    check(effsam, parity_file, bundle, photo)
    session = OnnxSession(bundle / "encoder.onnx", "CPUExecutionProvider")
    images = [encoder_image(pixels((60, 90 + i)), TINY_VIT.preprocess) for i in range(5)]
    together = session.run({"image": np.concatenate(images)})["image_embeddings"]
    for image, found in zip(images, together, strict=True):
        wanted = session.run({"image": image})["image_embeddings"][0]
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_python_api(parity_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, as a number and as text; the export itself is the command's."""
    from effsam_export.pipeline import export_model

    seen = []

    def planned(request: object, *_: object, **__: object) -> None:
        seen.append((request.model.batch, request.output.name))  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(export_model, "planned", planned)
    for batch in (1, 4, "4", "dynamic"):
        with pytest.raises(KeyboardInterrupt):
            effsam_export.export("tiny-vit", target="onnx", checkpoint=parity_file, batch=batch)
    assert seen == [
        (1, "tiny-vit-onnx-fp32"),
        (4, "tiny-vit-b4-onnx-fp32"),
        (4, "tiny-vit-b4-onnx-fp32"),
        (ANY, "tiny-vit-bdynamic-onnx-fp32"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("-t", "onnx", "--batch", "many"), "--batch `many` is not a number", "--batch 4"),
        (("-t", "onnx", "--batch", "1000"), "1 to 64 images, not 1000", "--batch 64"),
        (("-t", "coreml", "--batch", "dynamic"), "target `coreml` takes fixed shapes", "4"),
        (("-t", "android-cpu", "--batch", "dynamic"), "`android-cpu` takes fixed shapes", "4"),
        (
            ("-t", "coreml", "--option", "image_input=true", "--batch", "2"),
            "takes the image as a picture",
            "leave out --batch",
        ),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_a_batch_that_is_refused(
    effsam: Run, arguments: tuple[str, ...], message: str, hint: str, dry: bool
) -> None:
    checkpoint = ("--checkpoint", write_checkpoint(Path("mine.pt")))
    more = ("--dry-run",) if dry else checkpoint
    code, _, err = effsam("export", "tiny-vit", *arguments, *more)
    assert code == 2
    assert message in err
    assert hint in err.partition("hint:")[2]


def test_dry_run_shows_the_batch(effsam: Run) -> None:
    weights = ("--checkpoint", write_checkpoint(Path("mine.pt")))
    command = ("export", "tiny-vit", "-t", "onnx", "--dry-run", "--json", *weights)
    for more, wanted in (((), "1"), (("--batch", "2"), "2"), (("--batch", "dynamic"), "dynamic")):
        code, out, _ = effsam(*command, *more)
        assert code == 0
        assert json.loads(out)["plan"]["batch"] == wanted
    both = ("--image-size", "96", "--batch", "2")
    assert json.loads(effsam(*command, *both)[1])["plan"]["output"] == "tiny-vit-96-b2-onnx-fp32"
