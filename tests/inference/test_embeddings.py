"""Files of embeddings: for the same image and encoder only."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from effsam_export import models
from effsam_export.bundle.read import Bundle
from effsam_export.errors import ImageError, OutputError
from effsam_export.inference import embeddings

if TYPE_CHECKING:
    from pathlib import Path

MODEL = models.get("mobile-sam")
ENCODER = "e" * 64
PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
EMBEDDING = np.linspace(-1, 1, 256 * 64 * 64, dtype=np.float32).reshape(1, 256, 64, 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file for the image."""
    embeddings.save(tmp_path / "e.npz", {"image_embeddings": EMBEDDING}, PIXELS, ENCODER)
    return tmp_path / "e.npz"


def test_an_embedding_comes_back(path: Path) -> None:
    for pixels in (PIXELS, np.asfortranarray(PIXELS)):
        (found,) = embeddings.load(path, pixels, MODEL, ENCODER).items()
        assert found[0] == "image_embeddings"
        assert np.array_equal(found[1], EMBEDDING)


def test_another_image_encoder_or_size(path: Path) -> None:
    other = PIXELS.copy()
    other[3, 4, 2] += 1
    with pytest.raises(ImageError, match="is for another image"):
        embeddings.load(path, other, MODEL, ENCODER)
    with pytest.raises(ImageError, match="was made by the encoder of another bundle"):
        embeddings.check(path, (4, 5), "f" * 64)
    with pytest.raises(ImageError, match=r"encoder of another bundle; is for an image of 5x4"):
        embeddings.check(path, (5, 4), "f" * 64)
    # The same bytes in another shape.
    with pytest.raises(ImageError, match="is for an image of 5x4 pixels, not of 4x5"):
        embeddings.load(path, PIXELS.reshape(5, 4, 3), MODEL, ENCODER)
    assert embeddings.image_sha256(PIXELS) != embeddings.image_sha256(PIXELS.reshape(5, 4, 3))


def about(**changes: object) -> dict[str, object]:
    return {
        "version": 1,
        "encoder_sha256": ENCODER,
        "image_sha256": embeddings.image_sha256(PIXELS),
        "height": 4,
        "width": 5,
        **changes,
    }


def write(path: Path, document: object, **arrays: np.ndarray[Any, Any]) -> None:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    np.savez(path, about=np.frombuffer(text, np.uint8), **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("document", "values", "said"),
    [
        (about(), np.zeros((1, 8)), "holds an array of shape [1, 8], want [1, 256, 64, 64]"),
        (about(), np.full((1, 256, 64, 64), np.nan), "holds NaN or Inf"),
        (about(), np.full((1, 256, 64, 64), 1e300), "beyond the range of FP32"),
        (about(version=2), EMBEDDING, "has no version 1"),
        (about(height=True), EMBEDDING, "is for an image of"),
        (about(image_sha256=None), EMBEDDING, "is for another image"),
        ([], EMBEDDING, "has no version 1"),
        (b"\xff", EMBEDDING, "cannot be read"),
        (b"{" * 9000, EMBEDDING, "cannot be read"),
        (b" " * 20_000, EMBEDDING, "cannot be read"),
    ],
)
def test_hostile_files(
    tmp_path: Path, document: object, values: np.ndarray[Any, Any], said: str
) -> None:
    write(tmp_path / "e.npz", document, image_embeddings=values)
    with pytest.raises(ImageError) as refused:
        embeddings.load(tmp_path / "e.npz", PIXELS, MODEL, ENCODER)
    assert said in refused.value.message


def test_files_without_an_embedding(tmp_path: Path) -> None:
    write(tmp_path / "e.npz", about())
    with pytest.raises(ImageError, match="has no `image_embeddings`"):
        embeddings.load(tmp_path / "e.npz", PIXELS, MODEL, ENCODER)
    np.savez(tmp_path / "m.npz", masks=np.zeros(3))
    (tmp_path / "t.npz").write_text("text")
    for name, said in (("m", "has no `about`"), ("t", "cannot be read"), ("x", "does not exist")):
        with pytest.raises(ImageError, match=said):
            embeddings.check(tmp_path / f"{name}.npz", (4, 5), ENCODER)
    with pytest.raises(OutputError, match=r"does not end in `\.npz`"):
        embeddings.check_suffix(tmp_path / "e.npy")


def test_what_an_embedding_depends_on(tmp_path: Path) -> None:
    """The encoder's bytes and the preprocessing; not the decoder, nor where files lie."""
    manifest: dict[str, Any] = {
        "preprocess": {"image_size": 1024},
        "components": [
            {"name": "encoder", "files": ["encoder.onnx", "encoder.onnx.data"]},
            {"name": "decoder", "files": ["decoder.onnx"]},
        ],
        "files": [
            {"path": "encoder.onnx", "sha256": "1"},
            {"path": "encoder.onnx.data", "sha256": "2"},
            {"path": "decoder.onnx", "sha256": "3"},
        ],
    }

    def hash_of(**changes: object) -> str:
        content = json.loads(json.dumps({**manifest, **changes}))
        return embeddings.encoder_sha256(Bundle(path=tmp_path, manifest=content))

    files = manifest["files"]
    assert hash_of(files=[*files[:2], {"path": "decoder.onnx", "sha256": "4"}]) == hash_of()
    assert hash_of(files=[{**files[0], "sha256": "9"}, *files[1:]]) != hash_of()
    assert hash_of(preprocess={"image_size": 512}) != hash_of()
    moved = replace(Bundle(path=tmp_path, manifest=manifest), path=tmp_path / "x")
    assert embeddings.encoder_sha256(moved) == hash_of()
