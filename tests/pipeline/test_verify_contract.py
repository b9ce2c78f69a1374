"""`verify` names every lie of a manifest that can be proved."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export.bundle import read
from effsam_export.errors import BundleError
from effsam_export.pipeline import verify, verify_contract
from tests.pipeline import lying_manifests as lying

if TYPE_CHECKING:
    from collections.abc import Callable

    from effsam_export.bundle.read import Bundle
    from tests.pipeline.lying_manifests import Lie

pytestmark = pytest.mark.backend
SAMPLE = 50
"""Lies told to each bundle, of all there are."""


@pytest.fixture(params=["tiny-sam-onnx", "tiny-instances-onnx"])
def honest(request: pytest.FixtureRequest, tiny_models: None, tmp_path: Path) -> Path:
    """An honest bundle."""
    return lying.honest(request.param, tmp_path)


@pytest.fixture
def opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open, read and count the graphs of a bundle once: no lie changes them."""
    from effsam_export.backends.onnx import backend

    monkeypatch.setattr(verify_contract, "open_graphs", once(verify_contract.open_graphs))
    for name in ("count_constants", "count_ops"):
        monkeypatch.setattr(backend, name, once(getattr(backend, name)))


def once(real: Callable[..., object]) -> Callable[..., object]:
    """The function, called once for each path of a bundle or file."""
    results: dict[Path, object] = {}

    def cached(subject: Bundle | Path, *rest: object) -> object:
        path = subject if isinstance(subject, Path) else subject.path
        if path not in results:
            results[path] = real(subject, *rest)
        return results[path]

    return cached


def failures_of(bundle: Path) -> list[str]:
    """The failures of the contract; of a manifest that cannot be read, that error."""
    try:
        return list(verify_contract.check(read.read(bundle), None).failures)
    except BundleError as error:
        return [error.message]


def is_named(lie: Lie, failures: list[str]) -> bool:
    """Whether a failure names a lie, or the schema refuses its value or the object around it."""
    places = [f"$.{lying.path_of(lie.keys[:depth])}" for depth in range(2, len(lie.keys) + 1)]
    return any(
        lie.named in f or ("follow its schema" in f and any(place in f for place in places))
        for f in failures
    )


def test_the_honest_bundle_passes(honest: Path) -> None:
    found = verify.verify(honest)
    assert found.failures == ()
    assert found.verdict == "passed"
    assert set(found.unproved) == {"checkpoint"}


def test_each_lie_is_named(honest: Path, opened_once: None) -> None:
    documents = lying.read(honest)
    lies = lying.lies(documents)
    assert len(lies) >= 200
    for lie in random.Random(7).sample(lies, SAMPLE):
        lying.write(honest, lying.with_lies(documents, lie))
        failures = failures_of(honest)
        assert is_named(lie, failures), (lie, failures)
        # No honest value is called a lie beside it, except where one follows from the other.
        assert len(failures) <= 3, (lie, failures)


def test_lies_told_at_once_are_all_named(honest: Path, opened_once: None) -> None:
    documents = lying.read(honest)
    chance = random.Random(11)
    for count in (3, 13, 40):
        lies = [
            lie
            for lie in lying.combined(chance, documents, count)
            # The schema refuses these before anything else is read.
            if not failures_by_schema(honest, documents, lie)
        ]
        lying.write(honest, lying.with_lies(documents, *lies))
        failures = failures_of(honest)
        missed = [lie for lie in lies if not is_named(lie, failures)]
        assert missed == [], failures


def failures_by_schema(bundle: Path, documents: dict[str, Any], lie: Lie) -> bool:
    """Whether a lie makes a manifest that cannot be read."""
    lying.write(bundle, lying.with_lies(documents, lie))
    try:
        read.read(bundle)
    except BundleError:
        return True
    return False


@pytest.mark.parametrize("proof", sorted(lying.UNPROVABLE))
def test_what_nothing_here_proves(honest: Path, opened_once: None, proof: str) -> None:
    """No more than this: a value that can be proved belongs to the lies."""
    keys, value = lying.UNPROVABLE[proof]
    lying.write(
        honest, lying.with_lies(lying.read(honest), lying.Lie(keys=keys, value=value, named=""))
    )
    assert failures_of(honest) == []


def test_the_lies_of_one_manifest(honest: Path, opened_once: None) -> None:
    """The sizes of the graphs, the dtype, the threshold, the licence and the checkpoint."""
    documents = lying.read(honest)
    manifest = documents["manifest"]
    manifest["preprocess"]["image_size"] = 512
    manifest["components"][0]["inputs"][0]["dtype"] = "uint8"
    manifest["masks"]["threshold"] = 3.5
    manifest["model"]["licence"]["spdx"] = "CC0-1.0"
    manifest["checkpoint"]["sha256"] = "0" * 64
    lying.write(honest, documents)
    name = manifest["components"][0]["name"]
    side = manifest["components"][0]["inputs"][0]["shape"][-1]
    failures = failures_of(honest)
    assert failures[0] == (
        f'`components.{name}.inputs.image.dtype` is "uint8", want "float32" (the artefact)'
    )
    assert f"`preprocess.image_size` is 512, want {side} (the graphs)" in failures
    model = f"model `{manifest['model']['name']}`"
    assert f"`masks.threshold` is 3.5, want 0.0 ({model})" in failures
    assert any(f.startswith('`model.licence.spdx` is "CC0-1.0", want') for f in failures)
    assert f"`checkpoint.sha256` is {'0' * 64}, which is no hash of a checkpoint" in failures
    assert len(failures) == 5
