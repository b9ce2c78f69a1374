"""What is fuzzed: readers of bytes, each with honest inputs to begin from.

A reader raises `EffsamError` for what it refuses. Any other exception is a finding.
"""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from effsam_export.errors import EffsamError
from tests.bundle import fake
from tests.paths import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROMPTS = (
    b"image,prompt,x,y,label,x0,y0,x1,y1,category\na.jpg,1,2,3,0,,,,,cup\na.jpg,1,,,,1,2,3,4,cup\n",
    b"file;x1;y1;x2;y2\na.jpg;1;2;3;4\n",
    b'[{"image": "a.jpg", "points": [[1, 2], [3, 4, 0]], "box": [1, 2, 3, 4], "category": "cup"}]',
    b'{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 2, "name": "cup"}], '
    b'"annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 2}]}',
)
ANNOTATIONS = (
    b'{"images": [{"id": 1, "file_name": "chelsea.jpg", "width": 451, "height": 300}], '
    b'"annotations": [{"id": 1, "image_id": 1, "iscrowd": 1, "area": 2.5, "bbox": [0, 0, 1, 2], '
    b'"segmentation": {"size": [300, 451], "counts": [0, 2, 135298]}}, {"id": "b", "image_id": 1, '
    b'"segmentation": {"size": [300, 451], "counts": "02RTT4"}}]}'
)
"""Run lengths as a list, and compressed ones of the same mask."""
SEEDS = 40
"""Generated inputs to begin from."""


def checkpoint(path: Path) -> None:
    from effsam_export.weights.checkpoint import read_state_dict

    read_state_dict(path)


def image(path: Path) -> None:
    from effsam_export.imaging.decode import load_image

    load_image(path)


def manifest(path: Path) -> None:
    """A bundle whose manifest it is."""
    from effsam_export.bundle import read
    from effsam_export.bundle.manifest import MANIFEST

    folder = path.with_name("bundle")
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_bytes(path.read_bytes())
    read.integrity(read.read(folder))


def archive(path: Path) -> None:
    """An archive to unpack; its files are removed again."""
    from effsam_export.bundle.archive import opened

    with opened(path):
        pass


def toml(path: Path) -> None:
    """A file of each kind: one content may be right for one only."""
    from effsam_export import models
    from effsam_export.config import calibration, fp16_recipe, int8_recipe, parity, targets
    from effsam_export.matrix import config

    names = tuple(c.name for c in models.get("mobile-sam").components)
    readers: tuple[Callable[[], object], ...] = (
        lambda: targets.load_target(str(path)),
        lambda: calibration.load(str(path)),
        lambda: parity.load_parity_images(path),
        lambda: int8_recipe.load("mobile-sam", path),
        lambda: fp16_recipe.load(path, names),
        lambda: config.load(path),
    )
    for reader in readers:
        with contextlib.suppress(EffsamError):
            reader()


def masks(path: Path) -> None:
    from effsam_export.inference.mask_prompts import load_mask_input

    load_mask_input(path, 8)


def prompts(path: Path) -> None:
    """A prompts file: one content may be right as CSV or as JSON only."""
    from effsam_export.inference import prompt_files

    for suffix in prompt_files.SUFFIXES:
        named = path.with_suffix(suffix)
        named.write_bytes(path.read_bytes())
        with contextlib.suppress(EffsamError):
            prompt_files.load(named)


def embedding(path: Path) -> None:
    """The embedding of an image of four pixels."""
    import numpy as np

    from effsam_export import models
    from effsam_export.inference import embeddings

    pixels = np.zeros((2, 2, 3), np.uint8)
    embeddings.check(path, (2, 2), "encoder")
    # Another shape than the model's would make the inputs too long to fuzz.
    with contextlib.suppress(EffsamError):
        embeddings.load(path, pixels, models.get("mobile-sam"), "encoder")


def annotated(path: Path) -> None:
    """Annotations of the images that ship."""
    from effsam_export.evaluate import coco, dataset

    coco.load(path, dataset.shipped()[1])


READERS: dict[str, tuple[Callable[[Path], None], str]] = {
    # Name -> the reader, and the suffix of its files.
    "checkpoint": (checkpoint, ".pt"),
    "image": (image, ".png"),
    "manifest": (manifest, ".json"),
    "archive": (archive, ".zip"),
    "toml": (toml, ".toml"),
    "masks": (masks, ".npz"),
    "prompts": (prompts, ".txt"),
    "embedding": (embedding, ".npz"),
    "annotations": (annotated, ".json"),
}


def read(name: str, content: bytes, folder: Path) -> None:
    """Read a content as one of these; returns if it is read or refused."""
    reader, suffix = READERS[name]
    path = folder / f"input{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(EffsamError):
        reader(path)


# ------------------------------------------------------------------ inputs to begin from


def seeds(name: str) -> Iterator[bytes]:
    """Yield honest inputs, and hostile ones of the generators."""
    rng = random.Random(0)
    if name == "checkpoint":
        from tests.weights import hostile_checkpoints as hostile

        yield from (hostile.honest(rng) for _ in range(SEEDS))
        made = (make(rng) for make in hostile.KINDS.values() for _ in range(3))
        yield from (content for content in made if len(content) < 20_000)
    elif name == "image":
        yield from _images()
    elif name == "manifest":
        yield from (p.read_bytes() for p in sorted(fake.FOLDER.glob("manifest-v*.json")))
    elif name == "archive":
        yield from _archive()
    elif name == "toml":
        for folder in ("targets", "calibration", "calibration/int8"):
            yield from (p.read_bytes() for p in sorted((REPOSITORY / folder).glob("*.toml")))
        yield (REPOSITORY / "effsam.toml").read_bytes()
    elif name == "prompts":
        yield from PROMPTS
    elif name == "annotations":
        yield (REPOSITORY / "calibration" / "annotations" / "instances.json").read_bytes()
        yield ANNOTATIONS
    elif name == "embedding":
        yield from _embeddings()
    else:
        yield from _masks()


def _images() -> Iterator[bytes]:
    from PIL import Image

    from tests.imaging import deep_files

    for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "ICO"):
        for mode in ("RGB", "L", "P"):
            content = io.BytesIO()
            with contextlib.suppress(OSError):
                Image.effect_noise((9, 7), 50).convert(mode).save(content, form)
                yield content.getvalue()
    yield from deep_files.of_every_kind()


def _archive() -> Iterator[bytes]:
    """Bundles of a few bytes, packed, and archives that are none."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        content = io.BytesIO()
        with tempfile.TemporaryDirectory() as folder:
            bundle = fake.write(Path(folder) / "bundle")
            with zipfile.ZipFile(content, "w", method) as opened:
                for file in sorted(p for p in bundle.rglob("*") if p.is_file()):
                    opened.write(file, file.relative_to(bundle).as_posix())
        yield content.getvalue()


def _masks() -> Iterator[bytes]:
    import numpy as np

    for dtype in ("float32", "float64", "int8"):
        for shape in ((1, 8, 8), (3, 8, 8), (8, 8)):
            content = io.BytesIO()
            np.savez(content, allow_pickle=False, low_res_masks=np.zeros(shape, dtype))
            yield content.getvalue()


def _embeddings() -> Iterator[bytes]:
    import numpy as np

    from effsam_export.inference import embeddings

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.npz"
        for encoder in ("encoder", "other"):
            pixels = np.zeros((2, 2, 3), np.uint8)
            outputs = {"image_embeddings": np.zeros((1, 256, 4, 4), np.float32)}
            embeddings.save(path, outputs, pixels, encoder)
            yield path.read_bytes()
