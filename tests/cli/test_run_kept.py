"""`effsam run` with kept embeddings, masks as prompts, and the options of --everything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from effsam_export.bundle import read
from effsam_export.inference import automatic_masks
from effsam_export.inference.automatic_masks import GridSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Ended

    Command = Callable[..., Ended]

pytestmark = pytest.mark.backend
POINT = ("--point", "60,40", "--json")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The components that were opened."""
    names: list[str] = []
    real = read.open_session

    def session(bundle: read.Bundle, component: str) -> object:
        names.append(component)
        return real(bundle, component)

    monkeypatch.setattr(read, "open_session", session)
    return names


# ------------------------------------------------------------------ embeddings


def test_a_kept_embedding_replaces_the_encoder(
    command: Command, bundle: Path, photo: Path, opened: list[str]
) -> None:
    first = command("run", bundle, photo, *POINT, "--save-embedding", "e.npz")
    assert first.err.splitlines()[-1] == "wrote e.npz"
    opened.clear()
    again = command("run", bundle, photo, *POINT, "--embedding", "e.npz")
    assert again.code == 0, again.err
    assert opened == ["decoder"]
    assert again.err.startswith("decode ")
    one, other = json.loads(first.out), json.loads(again.out)
    assert other["masks"] == one["masks"]
    assert other["times"]["encode_ms"] is None


def test_an_embedding_of_another_image_or_bundle(
    command: Command, bundle: Path, photo: Path, opened: list[str]
) -> None:
    command("run", bundle, photo, *POINT, "--save-embedding", "e.npz")
    opened.clear()
    pixels = np.asarray(Image.open(photo)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save("other.png")
    done = command("run", bundle, "other.png", *POINT, "--embedding", "e.npz")
    assert done.code == 2
    assert "`e.npz` is for another image" in done.err
    other = Path(shutil.copytree(bundle, "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    for file in manifest["files"]:
        if file["path"].startswith("encoder"):
            file["sha256"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    done = command("run", other, photo, *POINT, "--embedding", "e.npz")
    assert done.code == 2
    assert "`e.npz` was made by the encoder of another bundle" in done.err
    assert opened == []


def test_embeddings_of_a_folder(
    command: Command, bundle: Path, photo: Path, opened: list[str]
) -> None:
    Path("photos").mkdir()
    for name in ("a", "b"):
        shutil.copy(photo, f"photos/{name}.png")
    first = command("run", bundle, "photos", *POINT, "--save-embedding", "kept")
    assert sorted(p.name for p in Path("kept").iterdir()) == ["a.npz", "b.npz"]
    opened.clear()
    again = command("run", bundle, "photos", *POINT, "--embedding", "kept")
    assert again.code == 0, again.err
    assert opened == ["decoder"]
    masks = [[i["masks"] for i in json.loads(done.out)["images"]] for done in (first, again)]
    assert masks[0] == masks[1]
    Path("kept/b.npz").unlink()
    done = command("run", bundle, "photos", *POINT, "--embedding", "kept")
    assert "embedding file `kept/b.npz` does not exist" in done.err
    done = command("run", bundle, "photos", *POINT, "--save-embedding", "one.npz")
    assert "--save-embedding `one.npz` is one file" in done.err


# ------------------------------------------------------------------ masks as prompts


def test_a_mask_picture_as_prompt(command: Command, bundle: Path, photo: Path) -> None:
    """Alone it is prompted with its box too; beside a point it is not."""
    mask = np.zeros((80, 120), dtype=np.uint8)
    mask[20:50, 30:90] = 255
    Image.fromarray(mask).save("mask.png")
    np.save("mask.npy", mask > 0)
    alone = json.loads(command("run", bundle, photo, "--mask-input", "mask.png", "--json").out)
    same = ("--mask-input", "mask.npy", "--box", "30,20,90,50", "--json")
    assert json.loads(command("run", bundle, photo, *same).out)["masks"] == alone["masks"]
    plain = json.loads(command("run", bundle, photo, "--box", "30,20,90,50", "--json").out)
    assert plain["masks"] != alone["masks"]
    beside = json.loads(command("run", bundle, photo, *POINT, "--mask-input", "mask.png").out)
    assert beside["masks"] not in (
        alone["masks"],
        json.loads(command("run", bundle, photo, *POINT).out)["masks"],
    )


def test_a_written_mask_is_a_prompt(command: Command, bundle: Path, photo: Path) -> None:
    command("run", bundle, photo, "--point", "60,40", "--masks", "m.png")
    done = command("run", bundle, photo, "--mask-input", "m.png")
    assert done.code == 0, done.err


def test_a_mask_of_another_size_is_the_only_problem(
    command: Command, bundle: Path, photo: Path, opened: list[str]
) -> None:
    Image.new("L", (80, 120), 255).save("mask.png")
    done = command("run", bundle, photo, "--mask-input", "mask.png")
    assert done.err.startswith("error: mask file `mask.png` has 80x120 pixels, the image 120x80")
    assert opened == []


# ------------------------------------------------------------------ --everything

OPTIONS = {
    "--grid": ("points_per_side", 3),
    "--points-per-batch": ("points_per_batch", 5),
    "--pred-iou-thresh": ("score", -9.5),
    "--stability-score-thresh": ("stability", 0.25),
    "--stability-score-offset": ("stability_offset", 0.5),
    "--box-nms-thresh": ("box_nms", 0.75),
    "--crop-n-layers": ("crop_layers", 1),
    "--crop-nms-thresh": ("crop_nms", 0.125),
    "--crop-overlap-ratio": ("crop_overlap", 0.5),
    "--crop-n-points-downscale-factor": ("crop_downscale", 2),
    "--min-mask-region-area": ("min_region_area", 10),
}


def test_the_options_of_everything(
    command: Command, bundle: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reaches its setting; without options they are the authors'."""
    settings: list[GridSettings] = []
    generate = automatic_masks.generate

    def recorded(*given: Any) -> object:  # noqa: ANN401 - the arguments of `generate`
        settings.append(given[3])
        return generate(*given)

    monkeypatch.setattr(automatic_masks, "generate", recorded)
    given = [str(part) for option, (_, v) in OPTIONS.items() for part in (option, v)]
    done = command("run", bundle, photo, "--everything", *given, "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["masks"]) > 0
    assert settings == [GridSettings(**dict(OPTIONS.values()))]  # type: ignore[arg-type]
    command("run", bundle, photo, "--everything", "--grid", "2")
    assert settings[1] == GridSettings(points_per_side=2)


@pytest.mark.parametrize("option", OPTIONS)
def test_options_for_everything_only(
    command: Command, bundle: Path, photo: Path, option: str
) -> None:
    done = command("run", bundle, photo, "--point", "1,1", option, OPTIONS[option][1])
    assert done.code == 2
    assert f"{option}: for --everything only" in done.err


def test_crops_need_the_encoder_beside_an_embedding(
    command: Command, bundle: Path, photo: Path, opened: list[str]
) -> None:
    command("run", bundle, photo, *POINT, "--save-embedding", "e.npz")
    opened.clear()
    everything = ("run", bundle, photo, "--everything", "--grid", "1", "--embedding", "e.npz")
    assert command(*everything).code == 0
    assert opened == ["decoder"]
    opened.clear()
    assert command(*everything, "--crop-n-layers", "1").code == 0
    assert opened == ["encoder", "decoder"]
