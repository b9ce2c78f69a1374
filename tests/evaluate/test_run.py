"""An evaluation of real bundles of tiny models: what is asked, kept, compared and printed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("pycocotools")

from docs.from_code import documents
from effsam_export import cli, models
from effsam_export.bundle import archive
from effsam_export.bundle.read import read
from effsam_export.errors import BundleError, CheckFailed, PromptError, UsageError
from effsam_export.evaluate import reference, run
from effsam_export.evaluate.prompts import parse_kinds
from effsam_export.evaluate.run import Settings, evaluate
from effsam_export.inference.predictor import Predictor
from effsam_export.util.signals import Stopped
from tests import tiny
from tests.bench.test_run import unpacked
from tests.evaluate.annotated import Given, annotation, document, mask_of, write
from tests.package.test_docs import key_paths
from tests.tiny import save_deterministic

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from effsam_export.evaluate.results import Evaluation
    from effsam_export.inference.runner import Prediction
    from effsam_export.spec.prompts import Prompt
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.util.progress import StageEvent

pytestmark = pytest.mark.backend


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images with three objects in all, and their annotations."""
    content = document(
        annotation(1, 1, (10, 20, 40, 40)),
        annotation(2, 2, (60, 10, 50, 60)),
        annotation(3, 2, (0, 0, 20, 80)),
        images=2,
    )
    place = tmp_path / "annotated"
    place.mkdir()
    write(place, content)
    return place


class Counted:
    """A quick predictor that counts its images, and stops at one of them.

    Attributes:
        images: Number of images that were set, in all predictors.
        stop_at: Number of the image that stops the evaluation.
    """

    images = 0
    stop_at = 100

    def __init__(self, path: Path) -> None:
        assert path.is_dir()

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_image(self, image: NDArray[np.uint8]) -> None:
        if Counted.images == Counted.stop_at:
            raise Stopped(15)
        Counted.images += 1

    def answer(self, prompt: Prompt, *, only_best: bool = False) -> Prediction:
        return Given([mask_of(0, 0, 30, 40)]).answer(prompt, only_best=only_best)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    """The predictor that counts, in place of the product's."""
    monkeypatch.setattr(run, "Predictor", Counted)
    monkeypatch.setattr(Counted, "images", 0)
    monkeypatch.setattr(Counted, "stop_at", 100)
    return Counted


def settings(folder: Path, prompts: str = "box", **changes: Any) -> Settings:  # noqa: ANN401
    given: dict[str, Any] = {
        "coco": folder / "instances.json",
        "images": folder,
        "cache_dir": folder.parent / "cache",
        **changes,
    }
    return Settings(prompts=parse_kinds(prompts), **given)


def ious(evaluation: Evaluation, bundle: int = 0) -> list[float]:
    return [m.iou for m in evaluation.bundles[bundle].measurements]


def test_every_object_is_asked_for_in_every_way(bundle: Path, folder: Path) -> None:
    steps: list[StageEvent] = []
    packed = folder.parent / f"tiny{archive.SUFFIX}"
    archive.pack(bundle, packed)
    found = evaluate([bundle, packed], settings(folder, "box,2points,2clicks"), steps.append)
    one, other = found.bundles
    assert [(m.prompt, m.image) for m in one.measurements] == [
        (prompt, image) for image in (0, 1, 1) for prompt in ("box", "2points", "2clicks")
    ]
    assert [r.objects for r in one.results if r.size == "all"] == [3, 3, 3]
    assert one.images_per_second is not None
    assert (one.reference, one.simulator) == (None, "")
    # A packed bundle is the same one: its answers are known.
    assert ious(found, 1) == ious(found)
    assert [e.detail for e in steps if e.kind == "finished"] == [
        "3 objects in 2 images",
        "2 images",
        "2 images, 2 of them by an earlier run",
    ]
    assert (other.bundle, found.annotations.limit) == (str(packed), None)
    # The masks are those of the predictor.
    with Predictor(bundle) as predictor:
        predictor.set_image(folder / "1.png")
        masks = predictor.predict(box=[10, 20, 50, 60])
        best = masks.masks[int(np.argmax(masks.scores))]
        target = np.zeros_like(best)
        target[20:60, 10:50] = True
        assert ious(found)[0] == (best & target).sum() / (best | target).sum()


def test_an_interrupted_evaluation_goes_on(
    bundle: Path, folder: Path, counted: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted, "stop_at", 1)
    with pytest.raises(Stopped):
        evaluate([bundle], settings(folder))
    assert counted.images == 1
    monkeypatch.setattr(counted, "stop_at", 100)
    whole = evaluate([bundle], settings(folder))
    assert counted.images == 2
    assert len(ious(whole)) == 3
    assert ious(evaluate([bundle], settings(folder))) == ious(whole)
    assert counted.images == 2
    assert ious(evaluate([bundle], settings(folder, restart=True))) == ious(whole)
    assert counted.images == 4


def test_a_changed_input_starts_anew(
    bundle: Path, folder: Path, counted: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate([bundle], settings(folder, limit=1))
    assert counted.images == 1
    evaluate([bundle], settings(folder))
    assert counted.images == 2
    # One image with other pixels is asked for again, and no other.
    Image.new("RGB", (120, 80)).save(folder / "2.png")
    evaluate([bundle], settings(folder))
    assert counted.images == 3
    for changes in ({"seed": 1}, {"prompts": "point"}, {"crowds": True}):
        given: dict[str, Any] = {"prompts": "box", **changes}
        evaluate([bundle], settings(folder, given.pop("prompts"), limit=1, **given))
    assert counted.images == 6
    annotations = folder / "instances.json"
    annotations.write_text(f"{annotations.read_text()} ")
    evaluate([bundle], settings(folder, limit=1))
    assert counted.images == 7
    monkeypatch.setattr("effsam_export.util.installed.version_of", lambda package: "999")
    evaluate([bundle], settings(folder, limit=1))
    assert counted.images == 8


def test_pytorch_beside_a_bundle(
    bundle: Path, folder: Path, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    given = settings(folder, "box,point", checkpoint=tiny_checkpoint.path, limit=1)
    found = evaluate([bundle], given).bundles[0]
    assert found.reference is not None
    assert found.reference.sha256 == tiny_checkpoint.sha256
    for result in found.results:
        # An export in FP32: the masks are PyTorch's but for single pixels.
        assert result.agreement == pytest.approx(1, abs=0.01)
        assert result.difference == pytest.approx(0, abs=0.01)
        assert result.best_mask_changes == 0
        assert result.reference_miou is not None
    other = save_deterministic(models.get("tiny-sam").build(), tmp_path / "other.pt")
    other.write_bytes(other.read_bytes() + b" ")
    with pytest.raises(CheckFailed, match="is not the checkpoint this bundle was exported from"):
        evaluate([bundle], settings(folder, checkpoint=other))
    with pytest.raises(UsageError, match="--base and --lora belong to a reference"):
        evaluate([bundle], settings(folder, base=other))


def test_bundles_of_one_model_share_the_reference(
    bundle: Path, tiny_checkpoint: Checkpoint
) -> None:
    opened = read(bundle)
    manifest = json.loads(json.dumps(opened.manifest))
    manifest["target"]["options"]["slots"] = 4
    fixed = replace(opened, manifest=manifest)
    assert fixed.model.components != opened.model.components
    key = reference.key_of(opened, tiny_checkpoint)
    assert reference.key_of(fixed, tiny_checkpoint) == key
    assert reference.key_of(opened, replace(tiny_checkpoint, sha256="0" * 64)) != key
    json.dumps(key)


def test_a_model_that_finds_instances(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(models.MODELS, "tiny-instances", ("tests.tiny_instances", "TINY_INSTANCES"))
    path = unpacked("tiny-instances-onnx", tmp_path)
    found = evaluate([path], settings(folder, "box,point,3clicks", limit=1)).bundles[0]
    assert [r.prompt for r in found.results if r.size == "all"] == ["box", "point", "3clicks"]
    with pytest.raises(BundleError, match="is version 3, which cannot hold results"):
        evaluate([path], settings(folder, recorded=True))


def test_everything_is_checked_before_an_image_is_asked_for(
    bundle: Path, folder: Path, counted: type[Counted], tmp_path: Path
) -> None:
    (bundle / "manifest.json.sig").write_bytes(b"s" * 64)
    with pytest.raises(UsageError) as failed:
        evaluate([tmp_path / "nowhere", bundle], settings(folder, recorded=True))
    assert "the evaluation cannot start: 2 problems" in failed.value.message
    for part in ("nowhere` does not exist", "is signed, and recording results would break"):
        assert part in failed.value.message
    with pytest.raises(UsageError, match="--coco and --images belong together"):
        evaluate([bundle], settings(folder, images=None))
    (bundle / "encoder.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match="is not intact"):
        evaluate([bundle], settings(folder))
    assert counted.images == 0


def test_prompts_that_a_model_does_not_support(
    bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(tiny.TINY_SAM, prompts=replace(tiny.TINY_SAM.prompts, max_points=2, box=False))
    monkeypatch.setattr(tiny, "TINY_SAM", few)
    with pytest.raises(PromptError) as failed:
        evaluate([bundle], settings(folder, "box,point,3points"))
    assert "`box`: this model takes no box; `3points`: this model takes 2" in failed.value.message


# ------------------------------------------------------------------ the command


def command(bundle: Path, folder: Path, *more: str) -> list[str]:
    coco = ["--coco", str(folder / "instances.json"), "--images", str(folder)]
    return ["eval", str(bundle), *coco, "--cache-dir", str(folder), *more]


def test_the_command_prints_json_that_is_documented(
    bundle: Path, folder: Path, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    page, table = tmp_path / "page.html", tmp_path / "table.md"
    more = ["--prompts", "box", "--json", "--html", str(page), "--markdown", str(table)]
    beside = ["--reference", str(tiny_checkpoint.path)]
    shown = CliRunner().invoke(cli.app, command(bundle, folder, *more, *beside))
    assert shown.exit_code == 0, shown.output
    printed = json.loads(shown.stdout)
    (result, *_) = printed["bundles"][0]["results"]
    assert printed["miou"] == {str(bundle): {"box": result["miou"]}}
    documented = set(documents.documents()["eval"])
    inner = {k for k in key_paths(printed) if not k.startswith(("miou", "schema_version"))}
    holders = {"annotations", "machine", "bundles", "bundles[].results"}
    assert inner - holders == documented - {"miou.NAME"}
    assert "<svg" in page.read_text("utf-8")
    assert "| box | all | 3 |" in table.read_text("utf-8")
    assert f"wrote {page}" in shown.stderr


def test_the_command_prints_a_table_and_records_it(bundle: Path, folder: Path) -> None:
    shown = CliRunner().invoke(cli.app, command(bundle, folder, "--prompts", "box", "--record"))
    assert shown.exit_code == 0, shown.output
    assert "instances.json, 3 objects in 2 images" in shown.stdout
    assert "prompt  size    objects  mIoU    95 % interval" in shown.stdout
    assert f"recorded in {bundle}" in shown.stderr
    inspected = CliRunner().invoke(cli.app, ["inspect", str(bundle)])
    assert "with box on 3 objects of instances.json" in inspected.stdout
    verified = CliRunner().invoke(cli.app, ["verify", str(bundle), "--level", "golden"])
    assert verified.exit_code == 0, verified.output
    assert "evaluated not proved: `effsam eval` measures it again" in verified.stderr


def test_torch_is_not_imported_without_a_reference(
    exported_tiny: Path, folder: Path, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from effsam_export import cli, models\n"
        "models.MODELS['tiny-sam'] = ('tests.tiny', 'TINY_SAM')\n"
        "sys.modules['torch'] = None\n"
        "cli.main()\n"
    )
    arguments = command(exported_tiny, folder, "--prompts", "point", "--limit", "1", "--json")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["annotations"]["images"] == 1
