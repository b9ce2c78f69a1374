"""Bundles with a manifest of version 3 still open: real ones, written by the last such release.

`v3/*.tar.xz` are bundles of the tiny models, of weights that repeat so that they compress well.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from effsam_export import cli, integrate, models
from effsam_export.bundle import archive, attest, compare, int8, read, signature, v3
from effsam_export.bundle import manifest as m
from effsam_export.errors import BundleError
from effsam_export.integrate.fingerprint import fingerprint
from effsam_export.spec.int8 import Equalization
from effsam_export.util.files import sha256_of
from tests.bundle import fake

FOLDER = Path(__file__).resolve().parent / "v3"
PACKED = {
    "tiny-instances-onnx": "187fa90c3da6fdf00fc52528c0efe12f1472791cbbdb90cf2d9701f82049cdcb",
    "tiny-sam-coreml": "e935f59eda3abf4ce26b780109efab5222d3a99b492e02624693c3ec1a48dc05",
    "tiny-sam-int8": "2375c2bef1933f6bdd8a5b6b6ce5cc04f9a434a05325789df26c4174815d1da5",
    "tiny-sam-onnx": "05f3cb37ee135de2bccb11828f799e82a8b1e2a13b71b8d470f90795ccdda9ae",
}
"""Bundle -> SHA-256 of the file that `effsam pack` of that release wrote."""
NAMES = sorted(PACKED)
pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles."""
    folder = tmp_path_factory.mktemp("v3")
    for name in NAMES:
        with tarfile.open(FOLDER / f"{name}.tar.xz") as file:
            for member in file.getmembers():
                content = file.extractfile(member)
                if content is not None:
                    (folder / member.name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / member.name).write_bytes(content.read())
    return folder


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the tiny models into the table of models."""
    monkeypatch.setitem(models.MODELS, "tiny-sam", ("tests.tiny", "TINY_SAM"))
    place = ("tests.tiny_instances", "TINY_INSTANCES")
    monkeypatch.setitem(models.MODELS, "tiny-instances", place)


@pytest.fixture(params=NAMES)
def bundle(request: pytest.FixtureRequest, unpacked: Path, tmp_path: Path, known: None) -> Path:
    """A copy of each bundle that a test may change."""
    return Path(shutil.copytree(unpacked / request.param, tmp_path / request.param))


@pytest.fixture
def opened(bundle: Path) -> Path:
    """The bundles whose runtime, or its simulator, is installed."""
    if "coreml" in bundle.name:
        pytest.importorskip("coremltools")
    return bundle


def effsam(*arguments: object) -> str:
    """Run a command that succeeds; its standard output."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    return result.stdout


def contents(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def written(bundle: Path) -> dict[str, Any]:
    """The manifest as it is on disk."""
    document: dict[str, Any] = json.loads((bundle / "manifest.json").read_text("utf-8"))
    return document


# ------------------------------------------------------------------ commands


def test_it_is_read_in_the_current_version(bundle: Path) -> None:
    found = read.read(bundle)
    assert written(bundle)["manifest_version"] == found.manifest_version == 3
    assert found.manifest["manifest_version"] == 4
    m.validate(found.manifest)
    assert read.integrity(found) == ()


def test_inspect(bundle: Path) -> None:
    manifest = written(bundle)
    assert f"{manifest['model']['name']} for {manifest['target']['name']}" in (
        effsam("inspect", bundle)
    )
    document = json.loads(effsam("inspect", bundle, "--json"))
    assert document["manifest_version"] == 3
    assert document["manifest"]["precision"]["requested"] == manifest["precision"]["asked"]


def test_verify(opened: Path) -> None:
    document = json.loads(effsam("verify", opened, "--level", "golden", "--json"))
    assert document["passed"] is True
    assert len(document["golden"]) == 2


def test_run(opened: Path, tmp_path: Path) -> None:
    image, output = opened / "golden" / "image.png", tmp_path / "mask.png"
    effsam("run", opened, image, "--point", "12,8", "-o", output)
    with Image.open(image) as given, Image.open(output) as mask:
        assert mask.size == given.size


def test_code(bundle: Path, tmp_path: Path) -> None:
    """The fingerprint that self-tests compare is the one of the file on disk."""
    manifest = written(bundle)
    names = integrate.INSTANCES if "instances" in bundle.name else tuple(integrate.LANGUAGES)
    languages = [n for n in names if manifest["target"]["backend"] in integrate.load(n).BACKENDS]
    assert languages
    for language in languages:
        effsam("code", bundle, "--language", language, "-o", tmp_path / language)
        files = [p for p in (tmp_path / language).rglob("*") if p.is_file()]
        text = "".join(p.read_text("utf-8") for p in files)
        assert fingerprint(manifest) in text, language


def test_diff(bundle: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    assert effsam("diff", bundle, other) == ""
    renewed = v3.upgraded(written(bundle))
    (other / "manifest.json").write_text(json.dumps(renewed), "utf-8")
    (difference,) = compare.differences(read.read(bundle), read.read(other))
    assert (difference.part, difference.before, difference.after) == ("tools", 3, 4)


def test_pack_and_unpack_keep_the_bytes(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "bundle.effsam.zip"
    effsam("pack", bundle, "-o", file)
    assert sha256_of(file) == PACKED[bundle.name]
    archive.unpack(file, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(bundle)


def test_sign_keeps_the_bytes(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    private.write_bytes(
        key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    )
    before = contents(bundle)
    signature.sign(bundle, private)
    after = contents(bundle)
    assert len(after.pop("manifest.json.sig")) == 64
    assert after == before
    assert signature.problem(bundle, public) is None


def result_of(bundle: Path) -> dict[str, Any]:
    """What a self-test sends that gives every golden mask."""
    golden = json.loads((bundle / "golden" / "golden.json").read_text("utf-8"))
    return {
        "manifest_sha256": sha256_of(bundle / "manifest.json"),
        "language": "python",
        "version": "1.23",
        "device": "Some Phone 9",
        "passed": True,
        "cases": [{k: c[k] for k in ("name", "masks", "scores")} for c in golden["cases"]],
    }


def test_attest_writes_the_version_that_was_there(bundle: Path, tmp_path: Path) -> None:
    """A device that has the bundle as it was can still be attested after another one."""
    file = tmp_path / "selftest.json"
    old = {**written(bundle), "state": "simulated", "stand_in": "an evaluator"}
    (bundle / "manifest.json").write_text(json.dumps(old), "utf-8")
    result = {**result_of(bundle), "runtime": old["runtime"]["name"]}
    for device in ("Some Phone 9", "Other Phone"):
        file.write_text(json.dumps({**result, "device": device}), "utf-8")
        attest.attest(bundle, file)
    after = written(bundle)
    assert after["manifest_version"] == 3
    assert [a["device"] for a in after["attested"]] == ["Other Phone", "Some Phone 9"]
    assert after["state"] == "verified on device"
    changed = ("attested", "files", "state")
    kept = {k: v for k, v in after.items() if k not in changed}
    assert kept == {k: v for k, v in old.items() if k not in changed}
    assert [a["device"] for a in read.read(bundle).manifest["attestations"]] == [
        "Other Phone",
        "Some Phone 9",
    ]
    assert read.integrity(read.read(bundle)) == ()


# ------------------------------------------------------------------ the reader


@pytest.fixture
def document() -> dict[str, Any]:
    """A manifest with every key that has another name in version 4."""
    manifest: dict[str, Any] = json.loads((fake.FOLDER / "manifest-v3.json").read_text("utf-8"))
    rule = {"modules": ["a.*"], "reason": "overflows", "source": "measured"}
    manifest.update(
        state="verified on device",
        stand_in="an evaluator",
        varies=[{"file": "report.html", "reason": "times"}],
        attested=[
            {
                "device": "Some Phone 9",
                "runtime": "Core ML",
                "version": "18",
                "language": "swift",
                "signed": True,
                "min_mask_iou": 1.0,
                "max_score_error": 0.0,
                "manifest_sha256": "0" * 64,
                "file": "attestations/some-phone-9.json",
            }
        ],
        int8={
            "components": {
                "encoder": {
                    "scheme": "w8a8",
                    "method": "mse",
                    "everything": True,
                    "rounding": "descent",
                    "equalize": [{"norm": "norm", "layer": "fc1", "strength": 0.5}],
                    "exceptions": [
                        {**rule, "treatment": "w8"},
                        {**rule, "treatment": "float", "alone": True},
                        {**rule, "treatment": "w8a8", "alone": False},
                    ],
                },
                "decoder": {
                    "scheme": "w8",
                    "method": "minmax",
                    "everything": False,
                    "exceptions": [],
                },
            },
            "calibration": {
                "recipe": "mine",
                "num_samples": 5,
                "seed": 0,
                "smallest_crop": 0.35,
                "flip": True,
                "images": [],
            },
        },
    )
    kept = {**rule, "component": "encoder", "ops": []}
    manifest["precision"]["kept_fp32"] = [kept, {**kept, "alone": True}]
    m.validate(manifest)
    return manifest


def test_every_key_gets_its_new_name(document: dict[str, Any]) -> None:
    before = json.dumps(document)
    found = v3.upgraded(document)
    assert json.dumps(document) == before
    m.validate(found)
    assert found["manifest_version"] == 4
    assert found["simulator"] == document["stand_in"]
    assert found["nondeterministic_files"] == document["varies"]
    assert found["attestations"] == document["attested"]
    precision = found["precision"]
    for new, old in (
        ("requested", "asked"),
        ("elements_by_dtype", "found"),
        ("ops_by_type", "ops"),
    ):
        assert precision[new] == document["precision"][old]
    assert ["recursive" in rule for rule in precision["keep_fp32"]] == [False, True]
    assert precision["keep_fp32"][1]["recursive"] is False
    assert found["int8"]["calibration"] == document["int8"]["calibration"]
    for key in m.schema(3)["properties"]:
        if key in m.schema()["properties"] and key not in ("manifest_version", "precision", "int8"):
            assert found.get(key) == document.get(key), key


def test_a_recipe_is_the_same_under_its_new_names(document: dict[str, Any]) -> None:
    plan = int8.plan(v3.upgraded(document)["int8"])
    entry = v3.upgraded(document)["int8"]["components"]
    encoder = plan.recipe("encoder", "onnx")
    assert entry["decoder"]["scheme"] == "weight_only"
    assert (entry["encoder"]["scheme"], entry["encoder"]["rounding"]) == (
        "w8a8",
        "coordinate-descent",
    )
    assert entry["encoder"]["quantize_activation_products"] is True
    assert encoder.equalize == (Equalization(norm="norm", layer="fc1", alpha=0.5),)
    found = [(o["treatment"], o.get("recursive", True)) for o in entry["encoder"]["overrides"]]
    assert found == [("weight_only", True), ("keep_float", False), ("w8a8", True)]
    assert plan.recipe("decoder", "onnx").quantizes


def test_a_broken_manifest_is_held_against_its_own_schema(document: dict[str, Any]) -> None:
    m.validate({**document, "stand_in": ""})
    with pytest.raises(BundleError, match="simulator"):
        m.validate({**document, "simulator": ""})
    with pytest.raises(BundleError, match="stand_in"):
        m.validate({**v3.upgraded(document), "stand_in": ""})
