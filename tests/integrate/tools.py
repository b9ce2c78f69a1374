"""Contracts of every kind, code for them, and bundles whose golden vectors are the reference's."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from effsam_export import models
from effsam_export.bundle import contract as written
from effsam_export.imaging import rle
from effsam_export.integrate.write import writer
from effsam_export.models import fixed, image_sizes
from effsam_export.spec.sizes import sides
from tests.bundle.fake import GOLDEN, manifest_of
from tests.small import SMALL_SAM
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.tensors import Float32


def squashed(model: ModelSpec) -> ModelSpec:
    """The model with a squashed image, logits straight to its size, and no single mask."""
    return replace(
        model,
        preprocess=replace(model.preprocess, family="squash"),
        masks=replace(model.masks, upscale="bicubic", single=(), multimask=(0, 1, 2, 3)),
        sizes=None,
    )


def own_frame(model: ModelSpec) -> ModelSpec:
    """The model with prompts and masks in a frame of 512 pixels."""
    return replace(model, preprocess=replace(model.preprocess, prompt_size=512), sizes=None)


SQUASHED, OWN_FRAME = squashed(TINY_SAM), own_frame(TINY_SAM)
SMALL_SQUASHED, SMALL_OWN_FRAME = squashed(SMALL_SAM), own_frame(SMALL_SAM)
"""Other contracts of the tiny model, and of the small one, whose bundles self-tests run on."""
KINDS: dict[str, ModelSpec] = {
    "pad": TINY_SAM,
    "own-frame": OWN_FRAME,
    "rectangle": image_sizes.resized(TINY_SAM, (640, 768)),
    "squash": SQUASHED,
    "slots": fixed.with_slots(TINY_SAM, 6),
    "fill": models.get("efficient-sam-ti"),
    "fixed-fill": fixed.with_slots(models.get("efficient-sam-ti"), 8),
}
SIZES = [(80, 120), (1, 1), (3, 1000), (1024, 1024), (1024, 7), (7, 1024), (683, 1024)]
SIZES += [(1500, 1100), (1025, 1023), (2049, 5), (333, 217)]
"""(height, width): smaller, larger, equal in one side or both, and strips."""
CHANGES: list[tuple[str, Any]] = [
    ("preprocess.pad.value.1", 116.0),
    ("preprocess.image_size", 1008),
    ("preprocess.resize.longest_side", 1000),
    ("preprocess.normalisation.std.0", 58.0),
    ("prompts.labels.foreground", 9),
    ("prompts.labels.background", None),
    ("prompts.coordinates.size", 512),
    ("prompts.supports.box", False),
    ("masks.threshold", 0.5),
    ("masks.single", []),
    ("components.0.inputs.0.name", "picture"),
    ("components.1.inputs.1.shape.1", 8),
    ("target.options.extra", True),
    ("contract_version", 4),
]
"""One field of a manifest each, and what it becomes."""


def manifest_for(model: ModelSpec, backend: str = "onnx") -> dict[str, Any]:
    """The manifest of a bundle of a model, as far as code is written from it."""
    manifest: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    manifest["target"] = {**manifest["target"], "backend": backend, "options": {}}
    manifest["preprocess"] = written.preprocess(model)
    manifest["prompts"] = written.prompts(model)
    manifest["masks"] = written.masks(model)
    manifest["components"] = [
        {
            "name": c.name,
            "files": files_of(c.name, backend),
            "source": f"{c.name}.onnx",
            "rewrites": [],
            "inputs": [{**asdict(t), "shape": list(t.shape)} for t in c.inputs],
            "outputs": [{**asdict(t), "shape": list(t.shape)} for t in c.outputs],
        }
        for c in model.components
    ]
    for key in ("elements_by_dtype", "ops_by_type"):
        manifest["precision"][key] = {c.name: {} for c in model.components}
    return manifest


def files_of(component: str, backend: str) -> list[str]:
    """What a component of a bundle consists of: a file, or a package of Core ML."""
    if backend != "coreml":
        return [f"{component}.onnx"]
    inside = ("Manifest.json", "Data/com.apple.CoreML/model.mlmodel")
    return [f"{component}.mlpackage/{name}" for name in inside]


def changed(manifest: dict[str, Any], path: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
    """A copy with one value at a dotted path replaced."""
    copy: dict[str, Any] = json.loads(json.dumps(manifest))
    *way, last = path.split(".")
    place: Any = copy
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place[part]
    place[int(last) if isinstance(place, list) else last] = value
    return copy


def generate(manifest: dict[str, Any], language: str, folder: Path) -> Path:
    """Write the code for a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in writer(language, manifest)().items():
        (folder / name).write_text(text, "utf-8")
    return folder


def import_file(path: Path) -> ModuleType:
    """A generated Python file as a module."""
    spec = importlib.util.spec_from_file_location(f"generated_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks for its own module
    spec.loader.exec_module(module)
    return module


def pixels(size: tuple[int, int]) -> NDArray[np.uint8]:
    """A photograph of noise and edges, the same at every call."""
    generator = np.random.Generator(np.random.PCG64(size[0] * 10_000 + size[1]))
    image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    image[size[0] // 3 :, : size[1] // 2] = (255, 0, 128)
    return image


def logits(model: ModelSpec, count: int = 1) -> Float32:
    """Masks as a model's decoder gives them."""
    generator = np.random.Generator(np.random.PCG64(7))
    shape = (count, *sides(model.masks.low_res_size))
    return (generator.standard_normal(shape) * 4).astype(np.float32)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def lines_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert not done.stderr or done.returncode, done.stderr
    return done.stdout.splitlines()


def save(bundle: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, with the hashes of the files as they are now."""
    for entry in manifest["files"]:
        content = (bundle / entry["path"]).read_bytes()
        entry.update(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    (bundle / "manifest.json").write_text(json.dumps(manifest, sort_keys=True), "utf-8")


def golden_of(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "golden" / "golden.json").read_text("utf-8"))
    return found


def save_golden(bundle: Path, golden: dict[str, Any]) -> None:
    """Write golden vectors as if the bundle had been exported with them."""
    (bundle / "golden" / "golden.json").write_text(json.dumps(golden), "utf-8")
    save(bundle, manifest_of(bundle))


def become(bundle: Path, model: ModelSpec) -> None:
    """Give a small bundle another contract, and the golden vectors of the reference runner for it.

    The graphs stay: what they make of such inputs means nothing, and is the same for everybody.
    """
    from effsam_export.bundle import golden, read
    from effsam_export.bundle.golden_write import user_mask_indices
    from effsam_export.imaging.images import upscale_masks
    from effsam_export.inference import runner

    opened = read.read(bundle)
    vectors = golden.read_golden(opened)
    assert vectors is not None
    decoder = read.open_session(opened, "decoder")
    embedded = runner.embed(model, read.open_session(opened, "encoder"), vectors.image)
    document = golden_of(bundle)
    for entry, case in zip(document["cases"], vectors.cases, strict=True):
        outputs = decoder.run(runner.decoder_feeds(model, embedded, case.prompt))
        found = upscale_masks(outputs["low_res_masks"][0], embedded.frame, model.masks)
        scores = outputs[model.masks.score][0]
        entry["masks"] = [rle.encode(m) for m in found > model.masks.threshold]
        entry["scores"] = [float(s) for s in scores]
        entry["answers"] = user_mask_indices(model, scores)
    manifest = manifest_of(bundle)
    for part in ("preprocess", "prompts", "masks"):
        manifest[part] = getattr(written, part)(model)
    (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    save_golden(bundle, document)


def spoil(graph: Path, output: str = "low_res_masks") -> None:
    """Make every value of an output NaN, in the ONNX file of its graph."""
    import onnx

    model = onnx.load(graph)
    for node in model.graph.node:
        node.output[:] = ["before" if o == output else o for o in node.output]
        node.input[:] = ["before" if i == output else i for i in node.input]
    nan = onnx.helper.make_tensor("nan", onnx.TensorProto.FLOAT, [], [float("nan")])
    model.graph.initializer.append(nan)
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "nan"], [output]))
    onnx.save(model, graph)


def expect_nothing(bundle: Path) -> None:
    """Expect empty masks: what a NaN gives, for whoever only asks what is greater than 0."""
    golden = golden_of(bundle)
    for case in golden["cases"]:
        case["masks"] = [{"size": [80, 120], "counts": [9600]} for _ in case["masks"]]
    save_golden(bundle, golden)


def expect_no_instances(bundle: Path) -> None:
    """Expect that no prompt chooses anything: what a NaN gives where instances are found."""
    expect_nothing(bundle)
    golden = golden_of(bundle)
    for case in golden["cases"]:
        case["scores"] = [0.0]
    save_golden(bundle, golden)
