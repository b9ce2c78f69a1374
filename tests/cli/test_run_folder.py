"""`effsam run` on many images: folders, prompts files, COCO documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from docs.from_code import documents
from effsam_export.inference import runner
from tests.package.test_docs import key_paths

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Ended

    Command = Callable[..., Ended]

pytestmark = pytest.mark.backend


def boxes(seed: int, count: int = 10) -> list[list[int]]:
    """Boxes in an image of 120x80."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, [80, 50], (count, 2))
    return np.hstack([low, low + rng.integers(8, 30, (count, 2))]).tolist()  # type: ignore[no-any-return]


@pytest.fixture
def folder(command: Command, photo: Path) -> Path:
    """Five images of different colours, and files that are none."""
    made = Path("photos")
    made.mkdir()
    pixels = np.asarray(Image.open(photo).convert("RGB"))
    for i in range(5):
        Image.fromarray(np.roll(pixels, 17 * i, axis=1)).save(made / f"{'edcba'[i]}.png")
    (made / "notes.txt").write_text("none")
    return made


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The images that were encoded."""
    images: list[object] = []
    embed = runner.embed

    def counted(*given: Any) -> runner.Embedded:  # noqa: ANN401 - the arguments of `embed`
        images.append(given[2])
        return embed(*given)

    monkeypatch.setattr(runner, "embed", counted)
    return images


def test_five_images_with_ten_boxes_each(
    command: Command, bundle: Path, folder: Path, encoded: list[object]
) -> None:
    """One command; each image is encoded once; the masks are those of commands of their own."""
    lines = ["image,x0,y0,x1,y1,category"]
    for seed, name in enumerate("abcde"):
        lines += [f"{name}.png,{','.join(map(str, b))},thing{seed % 2}" for b in boxes(seed)]
    Path("boxes.csv").write_text("\n".join(lines))
    done = command("run", bundle, folder, "--prompts", "boxes.csv", "--format", "coco")
    assert done.code == 0, done.err
    assert len(encoded) == 5
    assert [line.split(":")[0] for line in done.err.splitlines()] == [
        f"photos/{name}.png" for name in "abcde"
    ]
    document = json.loads(done.out)
    assert "schema_version" not in document
    assert [i["file_name"] for i in document["images"]] == [f"{n}.png" for n in "abcde"]
    assert document["categories"] == [{"id": 1, "name": "thing0"}, {"id": 2, "name": "thing1"}]
    assert [a["image_id"] for a in document["annotations"]] == np.repeat(range(1, 6), 10).tolist()
    assert [a["prompt"] for a in document["annotations"]] == [*range(1, 11)] * 5
    box = ",".join(map(str, boxes(2)[4]))
    alone = command("run", bundle, folder / "c.png", "--box", box, "--json")
    first = json.loads(alone.out)["masks"][0]
    same = document["annotations"][24]
    assert same["segmentation"] == first["segmentation"]
    assert same["score"] == first["score"]
    assert same["area"] == first["area"] > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
def test_pycocotools_reads_the_document(command: Command, bundle: Path, folder: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    given = [f"--box={','.join(map(str, b))}" for b in boxes(0, 3)]
    done = command("run", bundle, folder, *given, "--format", "coco", "--masks", "m")
    Path("masks.json").write_text(done.out)
    read = coco.COCO("masks.json")
    assert len(read.getImgIds()) == 5
    for annotation in read.loadAnns(read.getAnnIds()):
        name = read.loadImgs(annotation["image_id"])[0]["file_name"].removesuffix(".png")
        with Image.open(f"m/{name}-{annotation['prompt']}.png") as picture:
            mask = np.asarray(picture) == 255
        assert np.array_equal(read.annToMask(annotation) == 1, mask)
        assert annotation["area"] == mask.sum()


def test_coco_boxes_keep_their_numbers(command: Command, bundle: Path, folder: Path) -> None:
    x0, y0, x1, y1 = boxes(0)[0]
    document = {
        "images": [{"id": 70, "file_name": "b.png"}, {"id": 71, "file_name": "absent.png"}],
        "annotations": [
            {"id": 3, "image_id": 70, "bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": 5},
            {"id": 4, "image_id": 71, "bbox": [1, 2, 3, 4], "category_id": 5},
        ],
        "categories": [{"id": 5, "name": "cup"}],
    }
    Path("coco.json").write_text(json.dumps(document))
    done = command("run", bundle, folder, "--prompts", "coco.json", "--format", "coco")
    found = json.loads(done.out)
    assert [(i["id"], i["file_name"]) for i in found["images"]] == [(70, "b.png")]
    (annotation,) = found["annotations"]
    assert (annotation["image_id"], annotation["category_id"]) == (70, 5)
    assert found["categories"] == [{"id": 5, "name": "cup"}]
    assert "note: 4 images (photos/a.png, photos/c.png" in done.err
    assert "note: 1 image (absent.png) of `coco.json` not among the images" in done.err


def test_the_table_and_the_document_of_several_images(
    command: Command, bundle: Path, folder: Path
) -> None:
    files = (folder / "a.png", folder / "b.png")
    done = command("run", bundle, *files, "--point", "60,40")
    header, *rows = done.out.splitlines()
    assert header.split() == ["image", "prompt", "mask", "score", "box", "pixels"]
    assert [row.split()[:2] for row in rows] == [["photos/a.png", "1"], ["photos/b.png", "1"]]
    document = json.loads(command("run", bundle, *files, "--point", "60,40", "--json").out)
    assert document["failures"] == []
    assert [i["file"] for i in document["images"]] == [str(f) for f in files]
    assert [len(i["masks"]) for i in document["images"]] == [1, 1]
    assert document["images"][0]["masks"][0]["category"] == "object"
    written = key_paths(document) - {"schema_version", "images"}
    documented = set(documents.documents()["run FOLDER"])
    groups = {"image", "times", "masks", "masks[].segmentation"}
    assert written - {f"images[].{group}" for group in groups} == documented


def test_outputs_of_images_with_equal_names(
    command: Command, bundle: Path, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes((folder / "b.png").read_bytes())
    done = command(
        *("run", bundle, folder / "a.png", other / "a.png", "--point", "60,40", "-q"),
        *("--masks", "m", "-o", "o", "--format", "coco"),
    )
    assert done.code == 0, done.err
    assert sorted(p.name for p in Path("m").iterdir()) == ["a-1.png", "a_2-1.png"]
    assert sorted(p.name for p in Path("o").iterdir()) == ["a.png", "a_2.png"]
    names = [i["file_name"] for i in json.loads(done.out)["images"]]
    assert names == ["photos/a.png", f"{other}/a.png"]


def test_an_image_that_cannot_be_read_does_not_stop_the_others(
    command: Command, bundle: Path, folder: Path
) -> None:
    damaged = folder / "c.jpg"
    with Image.open(folder / "c.png") as image:
        image.save(damaged)
    (folder / "c.png").unlink()
    # The header is whole, so that it is noticed when the image's turn comes.
    damaged.write_bytes(damaged.read_bytes()[:-500])
    done = command("run", bundle, folder, "--point", "60,40", "--json", "--masks", "m")
    assert done.code == 2
    document = json.loads(done.out)
    assert [Path(i["file"]).name for i in document["images"]] == [f"{n}.png" for n in "abde"]
    (failure,) = document["failures"]
    assert failure in done.err
    assert len(list(Path("m").iterdir())) == 4


def test_everything_that_is_wrong_with_many_images(
    command: Command, bundle: Path, folder: Path
) -> None:
    (folder / "b.png").write_bytes(b"no image")
    done = command(
        *("run", bundle, folder, "missing.png", "--box", "1,1,9,9", "--box", "500,1,600,9"),
        *("-o", "one.png", "--masks", folder),
    )
    assert done.code == 2
    for part in (
        "image `photos/b.png` cannot be read",
        "image `missing.png` does not exist",
        "image `photos/a.png`, prompt 2: box (500, 1, 600, 9) is outside",
        "--output `one.png` is one file, but there can be several images",
        "`photos` is the folder of an input image",
    ):
        assert part in done.err
    assert done.err.count("error: ") == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--prompts", "no.csv"), "prompts file `no.csv` does not exist"),
        (("--prompts", "p.csv", "--box", "1,1,2,2"), "--prompts cannot be combined with --box"),
        (("--prompts", "p.csv"), "image `z.png` is not among the images"),
        (("--point", "1,1", "--format", "yaml"), "unknown format `yaml`"),
        (("--point", "1,1", "--format", "coco", "--json"), "contradict each other"),
        (("--point", "1,1", "--mask-input", "m.npz"), "--mask-input is for one image"),
        (("--everything", "--prompts", "p.csv"), "--everything cannot be combined with --prompts"),
    ],
)
def test_options_that_are_wrong(
    command: Command, bundle: Path, folder: Path, arguments: tuple[str, ...], error: str
) -> None:
    Path("p.csv").write_text("image,x,y\na.png,1,1\nz.png,1,1\n")
    done = command("run", bundle, folder, *arguments)
    assert done.code == 2
    assert error in done.err


def test_fractions_are_pixels_of_each_image(command: Command, bundle: Path, folder: Path) -> None:
    Image.new("RGB", (60, 200), "red").save(folder / "a.png")
    Path("n.json").write_text('[{"box": [0.25, 0.125, 0.75, 1]}]')
    files = (folder / "a.png", folder / "b.png")
    done = command("run", bundle, *files, "--prompts", "n.json", "--normalized", "--json")
    found = [i["masks"] for i in json.loads(done.out)["images"]]
    for file, box, masks in zip(files, ("15,25,45,200", "30,10,90,80"), found, strict=True):
        alone = json.loads(command("run", bundle, file, "--box", box, "--json").out)["masks"]
        assert masks == alone[:1]


def test_coordinates_that_look_like_fractions(command: Command, bundle: Path, folder: Path) -> None:
    image = folder / "a.png"
    note = "note: all coordinates are from 0 to 1, and are taken as pixels: give --normalized"
    done = command("run", bundle, image, "--point", "0.5,0.25")
    assert done.code == 0
    assert note in done.err
    for given in (("--point", "0.5,2"), ("--point", "0.5,0.25", "--normalized")):
        assert note not in command("run", bundle, image, *given).err
    wrong = command("run", bundle, image, "--point", "0.5,1.5", "--normalized")
    assert wrong.code == 2
    assert "coordinate 1.5 is not from 0 to 1" in wrong.err
    # The end of the last pixel.
    assert command("run", bundle, image, "--point", "1,1", "--normalized").code == 0


def test_all_masks_of_several_images(command: Command, bundle: Path, folder: Path) -> None:
    """The tiny model finds none; the documents are whole all the same."""
    files = (folder / "a.png", folder / "b.png")
    done = command("run", bundle, *files, "--everything", "--grid", "2", "--format", "coco")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["images"]) == 2
    assert done.err.count("0 masks") == 2


def test_masks_in_documents_are_rle(command: Command, bundle: Path, folder: Path) -> None:
    done = command("run", bundle, folder / "a.png", "--point", "60,40", "--json")
    for mask in json.loads(done.out)["masks"]:
        assert mask["segmentation"]["size"] == [80, 120]
        assert isinstance(mask["segmentation"]["counts"], str)
