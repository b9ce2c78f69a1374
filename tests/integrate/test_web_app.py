"""The generated web page: its files, what it refuses, and its use in a browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from effsam_export.bundle import read
from effsam_export.bundle.write import write_json
from effsam_export.errors import EffsamError, OutputError
from effsam_export.imaging.decode import load_image
from effsam_export.inference import runner
from effsam_export.integrate.web_app import app_for
from effsam_export.spec.prompts import Point, Prompt
from tests.bundle.fake import manifest_of
from tests.integrate.tools import run

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.backend

PAGE = Path(__file__).with_name("page.mjs")
SCRIPTS = ("app.mjs", "worker.mjs", "sw.js", "serve.mjs", "bundles.mjs", "segmenter.mjs")


def changed(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The bundle with another manifest."""
    manifest = manifest_of(bundle)
    change(manifest)
    write_json(bundle / "manifest.json", manifest)
    return bundle


@pytest.fixture
def in_fp16(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that says it is in FP16."""
    copy = Path(shutil.copytree(bundle, tmp_path / "half"))
    return changed(copy, lambda m: m["precision"].update(requested="fp16"))


def bundles_in(folder: Path) -> dict[str, Any]:
    text = (folder / "bundles.mjs").read_text("utf-8")
    found: dict[str, Any] = json.loads(text.partition("BUNDLES = ")[2].rstrip(";\n"))
    return found


def test_the_page_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    names = app_for([bundle], tmp_path / "app")
    assert set(names) >= {"index.html", "package.json", *SCRIPTS}
    found = sorted(p.relative_to(tmp_path / "app").as_posix() for p in files(tmp_path / "app"))
    assert found == sorted(names)
    (wasm,) = bundles_in(tmp_path / "app").items()
    assert wasm == (
        "wasm",
        {"folder": "models/wasm", "files": ["encoder.onnx", "decoder.onnx"], "fp16": False},
    )
    copied = tmp_path / "app" / "models" / "wasm"
    for name in ("encoder.onnx", "decoder.onnx", manifest_of(bundle)["model"]["licence"]["file"]):
        assert (copied / name).read_bytes() == (bundle / name).read_bytes()
    for name in ("index.html", *SCRIPTS):
        assert "@@" not in (tmp_path / "app" / name).read_text("utf-8")


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_one_bundle_for_webgpu_and_one_for_the_rest(
    bundle: Path, in_fp16: Path, tmp_path: Path
) -> None:
    app_for([bundle, in_fp16], tmp_path / "app")
    found = bundles_in(tmp_path / "app")
    assert {name: entry["fp16"] for name, entry in found.items()} == {"webgpu": True, "wasm": False}
    assert (tmp_path / "app" / "models" / "webgpu" / "encoder.onnx").is_file()


def test_another_model_has_another_cache(bundle: Path, in_fp16: Path, tmp_path: Path) -> None:
    for name, path in (("1", bundle), ("2", bundle), ("3", in_fp16)):
        app_for([path], tmp_path / name)
    first, again, other = ((tmp_path / n / "sw.js").read_text("utf-8") for n in "123")
    assert first == again != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["target"].update(backend="openvino"), "is for openvino"),
        (lambda m: m["files"][0].update(sha256="0" * 64), "is not intact"),
        (lambda m: m["masks"].update(threshold=0.5), "are called in different ways"),
        (lambda m: None, "one has to be in fp16"),
    ],
    ids=["runtime", "broken", "contract", "precision"],
)
def test_bundles_that_do_not_fit(
    bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    other = changed(Path(shutil.copytree(bundle, tmp_path / "other")), change)
    if "different" in message:
        changed(other, lambda m: m["precision"].update(requested="fp16"))
    with pytest.raises(EffsamError, match=message):
        app_for([bundle, other], tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_a_model_without_prompts_is_refused(exported_instances: Path, tmp_path: Path) -> None:
    with pytest.raises(EffsamError, match="finds all instances at once"):
        app_for([exported_instances], tmp_path / "app")


def test_a_bundle_for_an_app_is_refused(bundle: Path, tmp_path: Path) -> None:
    changed(bundle, lambda m: m["target"].update(layout="anylabeling"))
    with pytest.raises(EffsamError, match="which needs no code"):
        app_for([bundle], tmp_path / "app")


def test_files_of_others_are_kept(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    app_for([bundle], folder)
    (folder / "node_modules").mkdir()
    with pytest.raises(OutputError, match="is not empty"):
        app_for([bundle], folder)
    app_for([bundle], folder, force=True)
    assert (folder / "node_modules").is_dir()
    (folder / "app.mjs").write_text("mine")
    with pytest.raises(OutputError, match=r"not generated: `app\.mjs`"):
        app_for([bundle], folder, force=True)
    assert (folder / "app.mjs").read_text() == "mine"


# ------------------------------------------------------------------ in a browser


@pytest.fixture
def playwright(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the driver of browsers; it uses an installed one."""
    folder = tmp_path_factory.mktemp("playwright")
    done = run(["npm", "install", "--no-save", "playwright-core@1"], folder)
    if done.returncode:
        pytest.skip(f"npm cannot install playwright-core: {done.stderr[-200:]}")
    shutil.copy(PAGE, folder)
    return folder


def test_the_page_in_a_browser(
    node: str, node_modules: Path, playwright: Path, bundle: Path, tmp_path: Path
) -> None:
    """Click, background click, undo, box, download, and all of it again without a network."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    folder = tmp_path / "app"
    app_for([bundle], folder)
    (folder / "node_modules").symlink_to(node_modules)
    y, x = np.mgrid[0:1300, 0:1950]
    image = np.stack([x // 8, y // 6, 255 * ((x - 900) ** 2 + (y - 600) ** 2 < 160_000)], axis=-1)
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "photo.png")
    asked = [str(folder), str(tmp_path / "photo.png"), "0.5", "0.5", str(tmp_path / "mask.png")]
    done = run([node, "page.mjs", *asked, chromium], playwright)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["errors"] == []
    assert (seen["device"], seen["isolated"], seen["name"]) == ("wasm", True, "photo-mask.png")
    for answer in ("click", "off", "undo", "box", "offline"):
        assert seen[answer].startswith("Score "), answer
    assert max(seen["stalls"], default=0) < 200
    score = float(seen["click"].split()[1].rstrip(","))
    assert float(seen["undo"].split()[1].rstrip(",")) == score
    opened, photo = read.read(bundle), load_image(tmp_path / "photo.png")
    embedded = runner.embed(opened.model, read.open_session(opened, "encoder"), photo)
    decoder = read.open_session(opened, "decoder")
    # The middle of the canvas, 1024 pixels wide, in pixels of the photograph.
    wanted = runner.predict(opened.model, decoder, embedded, Prompt(points=(Point(x=975, y=650),)))
    with Image.open(tmp_path / "mask.png") as saved:
        mask = np.asarray(saved.convert("L")) > 0
    assert mask.shape == wanted.masks[0].shape
    assert (mask == wanted.masks[0]).mean() > 0.999
    assert abs(score - float(wanted.scores[0])) < 0.002
