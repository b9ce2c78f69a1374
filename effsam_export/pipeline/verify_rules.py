"""Hold a manifest's calling rules and facts of the model to the model of this package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from effsam_export import layouts
from effsam_export._version import __version__
from effsam_export.bundle import contract
from effsam_export.bundle.manifest import model_entry
from effsam_export.bundle.runtime import RANGES
from effsam_export.bundle.write import LICENSES
from effsam_export.errors import EffsamError
from effsam_export.models.batching import with_batch
from effsam_export.pipeline.manifest_values import ABSENT, Difference, differences
from effsam_export.pipeline.verify_graphs import tensor_failures
from effsam_export.spec.batches import ANY
from effsam_export.spec.sizes import of_sides, sides

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from effsam_export.bundle.read import Bundle
    from effsam_export.pipeline.verify_graphs import Graphs
    from effsam_export.spec.batches import Batch
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.sizes import Size
    from effsam_export.spec.tensors import ReportedTensor

TEXTS = (
    "model.title",
    "model.paper",
    "model.origin",
    "model.licence.source",
    "model.licence.notice",
)
"""Texts that describe the model. Another version of this package may word them otherwise."""
SIZES = {
    "preprocess.batch",
    "preprocess.image_size",
    "preprocess.resize.longest_side",
    "prompts.coordinates.size",
    "masks.low_res_size",
}
"""Values that follow from the shapes of the graphs."""
RUNTIMES = {"coreml": "Core ML", **{backend: name for backend, (name, _) in RANGES.items()}}
"""Backend -> name of its runtime, where they differ."""


@dataclass(frozen=True, kw_only=True)
class GraphSizes:
    """Sizes that the shapes of the graphs give; None where no graph has them.

    Attributes:
        image: Of the image input.
        masks: Of the mask logits, or of the prototypes of a model that detects instances.
        batch: Number of images in the image input.
    """

    image: Size | None
    masks: Size | None
    batch: Batch | None = None


def registered_model(bundle: Bundle) -> tuple[ModelSpec | None, list[str]]:
    """Return the bundle's model as this package has it; None, and why, if it has no such model."""
    try:
        return bundle.model, []
    except (EffsamError, ArithmeticError, TypeError, ValueError) as error:
        reason = error.message if isinstance(error, EffsamError) else str(error)
        return None, [f"`model` and `target.options` name a model that does not exist: {reason}"]


def texts_are_comparable(bundle: Bundle) -> bool:
    """Return whether this version of the package wrote the bundle, so that texts have to agree."""
    return bool(bundle.manifest["tools"].get("effsam-export") == __version__)


def contract_failures(
    bundle: Bundle, model: ModelSpec | None, graphs: Mapping[str, Graphs]
) -> list[str]:
    """Return a sentence for each value of the manifest that the graphs or the model contradict.

    Args:
        bundle: The bundle, with files that have the hashes of the manifest.
        model: The registered model with the bundle's options; None if it is unknown.
        graphs: By component.
    """
    manifest = bundle.manifest
    texts = texts_are_comparable(bundle)
    failures = _component_failures(bundle, model, graphs, texts=texts)
    failures += [d.sentence("this effsam") for d in _state_differences(manifest)]
    if model is None:
        return failures
    # A layout has one size, and outputs in the sizes of the app.
    sized = model if bundle.layout else with_sizes(model, graph_sizes(graphs))
    for part, rules in (
        ("preprocess", contract.preprocess(sized)),
        ("prompts", contract.prompts(sized)),
        ("masks", contract.masks(sized)),
        ("model", model_entry(model)),
    ):
        for difference in differences(part, manifest[part], rules):
            if texts or difference.path not in TEXTS:
                source = "the graphs" if difference.path in SIZES else f"model `{model.name}`"
                failures.append(difference.sentence(source))
    if texts:
        failures += _licence_failures(bundle, model)
        failures += _layout_failures(bundle, model)
    return failures


def graph_sizes(graphs: Mapping[str, Graphs]) -> GraphSizes:
    """Return the sizes of the image and of the masks, and the batch, in the graphs' shapes."""
    image = masks = batch = None
    for found in graphs.values():
        for signature in (found.artifact, found.source):
            for tensor in () if signature is None else (*signature.inputs, *signature.outputs):
                if tensor.name == "image":
                    image = image or size_of(tensor)
                    batch = batch or batch_of(tensor)
                elif tensor.name in ("low_res_masks", "prototypes"):
                    masks = masks or size_of(tensor)
    return GraphSizes(image=image, masks=masks, batch=batch)


def size_of(tensor: ReportedTensor) -> Size | None:
    """Return the size of planes, of N x C x height x width or a picture height x width x 3."""
    axes = tensor.shape or ()
    if len(axes) not in (3, 4):
        return None
    height, width = (axes[0], axes[1]) if len(axes) == 3 else (axes[2], axes[3])
    return None if height is None or width is None else of_sides(height, width)


def batch_of(tensor: ReportedTensor) -> Batch | None:
    """Return the number of images of N x C x height x width; a picture is one image."""
    axes = tensor.shape or ()
    if len(axes) == 4:
        return ANY if axes[0] is None else axes[0]
    return 1 if len(axes) == 3 else None


def with_sizes(model: ModelSpec, sizes: GraphSizes) -> ModelSpec:
    """Return the model in the sizes and the batch of the graphs.

    The frame of prompts scales with the masks.
    """
    rule, masks = model.preprocess, model.masks
    if sizes.masks is not None:
        low = sizes.masks
    else:
        low = scaled(masks.low_res_size, sizes.image or rule.image_size, rule.image_size)
    image = sizes.image or scaled(rule.image_size, low, masks.low_res_size)
    prompt = scaled(rule.prompt_size, low, masks.low_res_size)
    return replace(
        with_batch(model, sizes.batch or model.batch),
        preprocess=replace(rule, image_size=image, prompt_size=prompt),
        masks=replace(masks, low_res_size=low),
    )


def scaled(size: Size, now: Size, before: Size) -> Size:
    """Return a size that changes in proportion to another one."""
    pairs = zip(sides(size), sides(now), sides(before), strict=True)
    height, width = (old * new // of for old, new, of in pairs)
    return of_sides(height, width)


def _component_failures(
    bundle: Bundle, model: ModelSpec | None, graphs: Mapping[str, Graphs], *, texts: bool
) -> list[str]:
    failures = []
    names = list(bundle.components)
    known = {} if model is None else {c.name: c for c in model.components}
    failures += [
        f"`components` has `{name}` {names.count(name)} times"
        for name in sorted(set(names))
        if names.count(name) > 1
    ]
    target = bundle.manifest["target"]
    for entry in bundle.manifest["components"]:
        name = entry["name"]
        if known and name not in known:
            failures.append(f"`components` has `{name}`, which the model has not")
        found = graphs[name]
        failures += tensor_failures(entry, known.get(name), found, target["options"], texts=texts)
        if found.opset is not None and found.opset != target["opset"]:
            difference = Difference(
                path="target.opset", stated=target["opset"], expected=found.opset
            )
            failures.append(difference.sentence(f"the source ONNX of the {name}"))
    return failures


def _state_differences(manifest: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield what of `state`, `simulator` and `runtime` contradicts the rest of the manifest."""
    simulated = bool(manifest["simulator"])
    expected = "verified"
    if simulated:
        expected = "verified on device" if manifest.get("attestations") else "simulated"
    if manifest["state"] != expected:
        yield Difference(path="state", stated=manifest["state"], expected=expected)
    backend = manifest["target"]["backend"]
    runtime = manifest.get("runtime", {}).get("name", ABSENT)
    name = RUNTIMES.get(backend, backend)
    if runtime not in (ABSENT, name):
        yield Difference(path="runtime.name", stated=runtime, expected=name)


def _licence_failures(bundle: Bundle, model: ModelSpec) -> list[str]:
    """Return a sentence if the bundle lacks the licence's text, or has another one."""
    stated = bundle.manifest["model"]["licence"]["file"]
    expected = (LICENSES / model.licence.text_file).read_text("utf-8")
    try:
        found = (bundle.path / stated).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return [f"`{stated}` is not a text in the bundle"]
    if found != expected:
        return [f"`{stated}` is not the licence text of model `{model.name}`"]
    return []


def _layout_failures(bundle: Bundle, model: ModelSpec) -> list[str]:
    """Return a sentence for each file of the app that is not the one of this package."""
    if bundle.layout is None:
        return []
    layout = layouts.load(bundle.layout)
    failures = []
    precision = bundle.manifest["precision"]["requested"]
    for name, text in layout.files(model, (precision,)).items():
        path = bundle.path / name
        if not path.is_file() or path.read_bytes() != text.encode():
            failures.append(f"`{name}` is not what {layout.APP} needs for this model")
    paths = layout.paths(precision)
    for entry in bundle.manifest["components"]:
        expected = [paths[entry["name"]]] if entry["name"] in paths else []
        if entry["files"][:1] != expected:
            failures.append(
                f"`components.{entry['name']}.files` is {entry['files']}, want {expected} "
                f"({layout.APP})"
            )
    return failures
