"""Hostile files of each kind: read, or refused with one error, and nothing is left on the disk."""

from __future__ import annotations

import json
import shutil
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from effsam_export import integrate
from effsam_export.bundle import archive, compare, golden, read
from effsam_export.bundle.consistency import CONTROL
from effsam_export.cli.bundles import _describe
from effsam_export.errors import EffsamError
from effsam_export.imaging import rle
from effsam_export.inference.mask_prompts import load_mask_input
from effsam_export.integrate.write import writer
from tests.bundle import fake, hostile_golden, hostile_manifests, hostile_zips
from tests.imaging import hostile_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SAMPLE = 20
"""Cases of each kind; `tests/fuzz` runs more."""
SIZE = (6, 8)


def read_manifest(bundle: Path, language: str) -> None:
    """Read a bundle as `inspect`, `diff` and `code` in a language do."""
    found = read.read(bundle)
    assert found.model.components
    _describe(found)
    compare.differences(found, found)
    read.integrity(found)
    generate = writer(language, found.manifest)
    if found.manifest["target"]["backend"] in integrate.load(language).BACKENDS:
        generate()


def check(error: EffsamError) -> None:
    """Check that an error can be printed."""
    assert not CONTROL.search(error.message), ascii(error.message)[:300]
    assert len(error.message) < 20_000
    (error.message + (error.hint or "")).encode()


def golden_document() -> dict[str, object]:
    mask = np.zeros(SIZE, bool)
    mask[2:] = True
    case = {
        "points": [[1, 1, 1]],
        "box": [1, 1, 5, 5],
        "mask_input": None,
        "answers": [0, 1],
        "masks": [rle.encode(mask)] * 4,
        "scores": [0.5, 0.9, 0.7, 0.6],
    }
    return {
        "image": "image.png",
        "tolerances": {"mask_iou": 0.95, "score_error": 0.02},
        "cases": [{"name": "point", **case}, {"name": "again", **case, "mask_input": "again.npy"}],
    }


@pytest.fixture
def bundle(tmp_path: Path, tiny: None) -> Path:
    path = fake.write(tmp_path / "tiny")
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path / "golden" / "image.png")
    np.save(path / "golden" / "again.npy", np.zeros((256, 256), np.float32))
    return path


@pytest.mark.parametrize("kind", hostile_manifests.KINDS)
def test_manifests(bundle: Path, kind: str) -> None:
    manifest = fake.manifest_of(bundle)
    refused = 0
    for seed in range(SAMPLE):
        content = hostile_manifests.KINDS[kind](Random(seed), manifest)
        (bundle / "manifest.json").write_bytes(content)
        try:
            read_manifest(bundle, sorted(integrate.LANGUAGES)[seed % len(integrate.LANGUAGES)])
        except EffsamError as error:
            check(error)
            refused += 1
    assert refused > SAMPLE // 4


def whole_numbers(value: object, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each whole number of a document."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from whole_numbers(inner, (*keys, key))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield keys


def test_whole_numbers_with_a_fraction_of_zero(bundle: Path) -> None:
    """A schema's integer may be written as 4.0; what does not take it as 4 refuses it."""
    text = (bundle / "manifest.json").read_text("utf-8")
    languages = sorted(integrate.LANGUAGES)
    paths = list(whole_numbers(json.loads(text)))
    assert ("manifest_version",) in paths
    for number, path in enumerate(paths):
        manifest = json.loads(text)
        place = manifest
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = float(place[path[-1]])
        (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")
        try:
            read_manifest(bundle, languages[number % len(languages)])
        except EffsamError as error:
            check(error)


@pytest.mark.parametrize("kind", hostile_golden.KINDS)
def test_golden_documents(bundle: Path, kind: str) -> None:
    document = golden_document()
    file = bundle / "golden" / "golden.json"
    (bundle / "golden" / "link.png").symlink_to(bundle / "golden" / "image.png")
    opened = read.read(bundle)
    file.write_text(json.dumps(document))
    honest = golden.read_golden(opened)
    assert honest is not None
    assert honest.cases[1].masks.shape == (4, *SIZE)
    refused = 0
    for seed in range(SAMPLE):
        file.write_bytes(hostile_golden.KINDS[kind](Random(seed), document))
        try:
            vectors = golden.read_golden(opened)
            assert vectors is not None
            assert all(c.masks.shape[1:] == SIZE for c in vectors.cases)
        except EffsamError as error:
            check(error)
            refused += 1
    assert refused > SAMPLE // 4


@pytest.mark.parametrize("kind", hostile_zips.KINDS)
def test_archives(bundle: Path, tmp_path: Path, kind: str) -> None:
    packed = tmp_path / "packed.zip"
    fake.save(bundle, fake.manifest_of(bundle))
    for file in (bundle / "golden").glob("again.npy"):
        file.unlink()
    archive.pack(bundle, packed)
    content = packed.read_bytes()
    place, refused = tmp_path / "place", 0
    place.mkdir()
    for seed in range(SAMPLE):
        packed.write_bytes(hostile_zips.KINDS[kind](Random(seed), content))
        try:
            archive.unpack(packed, place / "out")
            assert read.integrity(read.read(place / "out")) == ()
            shutil.rmtree(place / "out")
        except EffsamError as error:
            check(error)
            refused += 1
        assert list(place.iterdir()) == []
    assert refused > SAMPLE // 4


@pytest.mark.parametrize("packed", [False, True], ids=["npy", "npz"])
@pytest.mark.parametrize("kind", hostile_arrays.KINDS)
def test_mask_files(bundle: Path, tmp_path: Path, kind: str, packed: bool) -> None:
    side, refused = 16, 0
    for seed in range(SAMPLE):
        random = Random(seed)
        content = hostile_arrays.KINDS[kind](random, side)
        try:
            if packed:
                (tmp_path / "m.npz").write_bytes(hostile_arrays.archived(random, content))
                logits = load_mask_input(tmp_path / "m.npz", side)
                assert logits.shape == (side, side)
                assert logits.dtype == np.float32
                assert np.isfinite(logits).all()
            else:
                (bundle / "golden" / "again.npy").write_bytes(content)
                (bundle / "golden" / "golden.json").write_text(json.dumps(golden_document()))
                golden.read_golden(read.read(bundle))
        except EffsamError as error:
            check(error)
            refused += 1
    assert refused > SAMPLE // 4
