"""The generated Swift as a syntax tree: no compiler is at hand, and nothing here runs it."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from effsam_export.bundle.attest import TEXT_KEYS, same_runtime
from effsam_export.errors import UsageError
from effsam_export.integrate import fingerprint, render, swift
from effsam_export.integrate.contract import EMBEDDINGS, Contract, contract_of
from effsam_export.spec.sizes import sides
from tests.bundle.fake import manifest_of
from tests.integrate import swift_tree
from tests.integrate.swift_code import FIXED, files_for, manifest_of_kind, trees, values
from tests.integrate.tools import changed, manifest_for
from tests.small import SMALL_SAM
from tests.stages import export
from tests.tiny import TINY_SAM

if TYPE_CHECKING:
    from pathlib import Path

    from tree_sitter import Node

    from effsam_export.spec.stages import Checkpoint

pytestmark = pytest.mark.compiler

UNSTATED = {
    *("title", "fingerprint", "backend", "options", "family", "padding", "upscale", "decoder"),
    "picture",
}
"""Fields of a contract that no constant is the value of: texts, and what chooses the code."""


@pytest.fixture(params=FIXED)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ------------------------------------------------------------------ the grammar


def test_every_file_is_swift(kind: str) -> None:
    roots = trees(files_for(manifest_of_kind(kind)))
    assert tuple(roots) == swift.NAMES
    assert {name: swift_tree.faults(root) for name, root in roots.items()} == {
        name: [] for name in swift.NAMES
    }


@pytest.mark.parametrize("name", swift.NAMES)
def test_a_damaged_file_is_noticed(name: str) -> None:
    text = files_for(manifest_of_kind())[name]
    assert not swift_tree.faults(swift_tree.parse(text))
    last = max(text.rfind("}"), text.rfind(")"))
    opening = text.index("(") if name == "Package.swift" else text.index("{")
    for damaged in (
        text[:last] + text[last + 1 :],
        text[:opening] + text[opening + 1 :],
        f"{text}\nfunc ()\n",
        text[: text.rindex(")")],
    ):
        assert swift_tree.faults(swift_tree.parse(damaged))


def test_calls_are_those_of_what_is_declared(kind: str) -> None:
    assert swift_tree.mistakes(trees(files_for(manifest_of_kind(kind)))) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong", "said"),
    [
        ("Segmenter.swift", "to: embedded.size", "size: embedded.size", "`upscale` does not take"),
        ("Segmenter.swift", "lowRes: lowRes, ", "", "`Decoded` does not take"),
        ("Segmenter.swift", "(embedded.size, prompt)", "(embedded.size)", "`promptTensors` does"),
        ("Segmenter.swift", "{ try plane(", "{ plane(", "`plane` throws"),
        ("Segmenter.swift", "try choose(", "choose(", "`choose` throws"),
        ("SelfTest.swift", "let golden = try Json", "let golden = Json", "`parsed` throws"),
        ("SelfTest.swift", "compare(decoded", "compared(decoded", "there is no `compared`"),
        ("CoreMLGraph.swift", "try CoreMLGraph.tensor", "CoreMLGraph.tensor", "`tensor` throws"),
        ("Resizing.swift", "lines: width, old", "old", "`resampled` does not take"),
        ("Images.swift", "Turn(size, orientation)", "Turn(size)", "`Turn` does not take"),
    ],
)
def test_a_wrong_call_is_noticed(name: str, right: str, wrong: str, said: str) -> None:
    files = files_for(manifest_of_kind())
    assert files[name].count(right) == 1
    files[name] = files[name].replace(right, wrong)
    found = swift_tree.mistakes(trees(files))
    assert any(said in mistake and mistake.startswith(name) for mistake in found), found


def test_every_file_says_first_that_it_was_never_compiled(kind: str) -> None:
    files = files_for(manifest_of_kind(kind))
    for name, text in files.items():
        assert render.MARK in text[:2000], name
        # The package manager wants its own line first.
        first = text.splitlines()[1 if name == "Package.swift" else 0]
        assert first.startswith("// Never compiled, never run: "), name
        assert max(map(len, text.splitlines())) <= 100, name
    assert files["Package.swift"].startswith("// swift-tools-version:5.9\n")


def test_every_file_is_in_the_package() -> None:
    files = files_for(manifest_of_kind())
    sources = {
        swift_tree.literal(n)
        for n in swift_tree.walk(swift_tree.parse(files["Package.swift"]))
        if n.type == "line_string_literal" and swift_tree.text_of(n).endswith('.swift"')
    }
    assert sources == set(files) - {"Package.swift"}


# ------------------------------------------------------------------ images


def test_only_a_picture_becomes_a_pixel_buffer(kind: str) -> None:
    """The array of a graph with an image input would be refused by Core ML, and vice versa."""
    files = files_for(manifest_of_kind(kind))
    root = swift_tree.parse(files["CoreMLGraph.swift"])
    made = [
        swift_tree.text_of(n)
        for n in swift_tree.walk(root)
        if n.type == "call_expression" and swift_tree.text_of(n).startswith("MLFeatureValue(")
    ]
    arrays = ["MLFeatureValue(multiArray: MLMultiArray(array))"]
    pictures = ["MLFeatureValue(pixelBuffer: try CoreMLGraph.picture(image))"]
    assert sorted(made) == (arrays + pictures if kind == "picture" else arrays)
    assert ("import CoreVideo" in files["CoreMLGraph.swift"]) == (kind == "picture")


def test_orientations_are_those_of_kotlin() -> None:
    """Kotlin's are run in `test_kotlin.py`; these are the same numbers."""
    numbers = r"\b(\d, \d, \d, \d)\b"
    swift_lists = re.findall(rf"\[{numbers}\].contains\(tag\)", template("Images.swift"))
    kotlin_lists = re.findall(rf"orientation in setOf\({numbers}\)", template("Resizing.kt"))
    assert swift_lists == kotlin_lists
    assert len(swift_lists) == 2


# ------------------------------------------------------------------ the values


def template(name: str) -> str:
    return (render.TEMPLATES / f"{name}.tmpl").read_text("utf-8")


def stated(contract: Contract) -> dict[str, Any]:
    """What the constants have to be, by the field that each is the value of."""
    pad = contract.pad_value is not None
    slots = contract.padding == "slots"
    return {
        "encoder": ("encoderPackage", "encoder.mlpackage"),
        **({"pad_value": ("padValue", list(contract.pad_value or ()))} if pad else {}),
        **({"empty": ("emptyLabel", contract.empty)} if slots else {}),
        **({"batch": ("batch", contract.batch)} if contract.batch > 1 else {}),
        "foreground": ("foreground", contract.foreground),
        "background": ("background", contract.background),
        "box_top_left": ("boxTopLeft", contract.box_top_left),
        "box_bottom_right": ("boxBottomRight", contract.box_bottom_right),
        "padding_point": ("paddingPoint", contract.padding_point),
        "padding_label": ("paddingLabel", contract.padding_label),
        "room": ("room", contract.room),
        "max_points": ("maxPoints", contract.max_points),
        "takes_box": ("takesBox", contract.takes_box),
        "takes_points_with_box": ("takesPointsWithBox", contract.takes_points_with_box),
        "takes_mask": ("takesMask", contract.takes_mask),
        "single": ("single", list(contract.single)),
        "multimask": ("multimask", list(contract.multimask)),
        "score": ("scores", contract.score),
        "threshold": ("threshold", contract.threshold),
    }


def test_the_constants_are_the_contracts(kind: str) -> None:
    contract = contract_of(manifest_of_kind(kind))
    by_field = stated(contract)
    left_out = {"empty"} if contract.padding != "slots" else set()
    left_out |= {"pad_value"} if contract.pad_value is None else set()
    left_out |= {"batch"} if contract.batch == 1 else set()
    sizes = {
        "image_size": ("imageHeight", "imageWidth"),
        "prompt_size": ("promptHeight", "promptWidth"),
        "low_res_size": ("lowResHeight", "lowResWidth"),
    }
    assert {f.name for f in fields(Contract)} == {*by_field, *sizes, *left_out, *UNSTATED}
    wanted = {
        **dict(by_field.values()),
        **{
            name: side
            for field, names in sizes.items()
            for name, side in zip(names, sides(getattr(contract, field)), strict=True)
        },
        "decoderPackage": "decoder.mlpackage",
        "embeddingsShape": list(contract.decoder.inputs[EMBEDDINGS]),
        "fingerprint": contract.fingerprint,
        "computeUnits": "ALL",
    }
    root = swift_tree.parse(files_for(manifest_of_kind(kind))["Segmenter.swift"])
    found = {n: swift_tree.literal(v) for n, v in swift_tree.constants(root).items()}
    assert found == wanted


def test_every_constant_is_used(kind: str) -> None:
    roots = trees(files_for(manifest_of_kind(kind)))
    used = set().union(*(swift_tree.members(root, "Contract") for root in roots.values()))
    assert used == set(swift_tree.constants(roots["Segmenter.swift"]))


@pytest.mark.parametrize(
    ("kind", "there", "not_there"),
    [
        ("slots", {"resizeAntialiased", "resizeBilinear"}, {"resizeBicubic"}),
        ("own-frame", {"resizeAntialiased", "resizeBilinear"}, {"resizeBicubic"}),
        ("squash", {"resizeBicubic", "resizeBilinear"}, {"resizeAntialiased", "fitted"}),
        ("fixed-fill", {"resizeBicubic", "resizeBilinear"}, {"resizeAntialiased", "fitted"}),
    ],
    indirect=["kind"],
)
def test_the_code_is_that_of_the_rules(kind: str, there: set[str], not_there: set[str]) -> None:
    files = files_for(manifest_of_kind(kind))
    functions = set(swift_tree.declared(trees(files)).functions)
    assert there <= functions
    assert not_there.isdisjoint(functions)
    slots = FIXED[kind].prompts.slots is not None
    assert ("add(0, 0, Contract.emptyLabel)" in files["Segmenter.swift"]) == slots
    mask = FIXED[kind].prompts.mask
    assert ('inputs["mask_input"]' in files["Segmenter.swift"]) == mask


@pytest.mark.parametrize(
    ("system", "platforms"),
    [
        (None, '[.iOS("16.0"), .macOS("13.0")]'),
        ("iOS16", '[.iOS("16.0"), .macOS("13.0")]'),
        ("iOS17", '[.iOS("17.0"), .macOS("14.0")]'),
        ("iOS26", '[.iOS("26.0"), .macOS("26.0")]'),
    ],
)
def test_the_oldest_system(system: str | None, platforms: str) -> None:
    options = {} if system is None else {"deployment_target": system}
    files = files_for(changed(manifest_of_kind(), "target.options", options))
    assert f"platforms: {platforms}," in files["Package.swift"]


@pytest.mark.backend
def test_the_options_are_those_of_the_backend() -> None:
    pytest.importorskip("coremltools")
    from effsam_export.backends.coreml import backend as coreml

    assert tuple(swift.SYSTEMS) == coreml.DEPLOYMENT_TARGETS
    assert set(swift.UNITS) == set(coreml.COMPUTE_UNITS)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("target.options.deployment_target", "iOS15", "deployment_target is `iOS15`"),
        ("target.options.deployment_target", 17, "deployment_target is `17`"),
        ("target.options.compute_units", "GPU", "compute_units is `GPU`"),
        ("target.options.compute_units", True, "compute_units is `True`"),
        ("components.0.files", ["encoder.onnx"], "not a Core ML package: `encoder.onnx`"),
        ("components.1.files.1", "weights.bin", "not a Core ML package: `decoder.mlpackage/Man"),
        ("components.1.files.0", "Manifest.json", "not a Core ML package: `Manifest.json`"),
        # Of a bundle with `image_input`, but without that option, and the option alone.
        ("components.0.inputs.0.dtype", "uint8", "tensor image is `uint8`"),
        ("target.options.image_input", True, "tensor image is `float32`"),
    ],
)
def test_a_bundle_that_is_refused(path: str, value: Any, said: str) -> None:  # noqa: ANN401
    with pytest.raises(UsageError, match=said):
        files_for(changed(manifest_of_kind(), path, value))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("components.0.inputs.0.shape", [3, 1024, 1024], "inputs of the encoder are"),
        ("components.0.inputs.0.dtype", "float32", "tensor image is `float32`"),
        ("components.1.inputs.0.dtype", "uint8", "tensor image_embeddings is `uint8`"),
        ("preprocess.batch", 2, "the number of pictures in a call is `2`"),
        ("target.backend", "tflite", "tensor image is `uint8`"),
    ],
)
def test_a_picture_that_is_refused(path: str, value: Any, said: str) -> None:  # noqa: ANN401
    with pytest.raises(UsageError, match=said):
        files_for(changed(manifest_of_kind("picture"), path, value))


def test_shapes_that_change() -> None:
    with pytest.raises(UsageError, match=r"fixed shapes, .* `point_coords`, `point_labels`"):
        files_for(manifest_for(TINY_SAM, "coreml"))


# ------------------------------------------------------------------ the self-test


def keys_of(root: Node, name: str) -> list[set[str]]:
    """Keys of the dictionaries that properties of a name are made of."""
    return [
        {swift_tree.literal(k) for k in d.children_by_field_name("key")}
        for p in swift_tree.walk(root)
        if p.type == "property_declaration"
        and swift_tree.text_of(p.child_by_field_name("name")) == name
        for d in swift_tree.walk(p)
        if d.type == "dictionary_literal"
    ]


def test_attest_accepts_the_report() -> None:
    root = swift_tree.parse(files_for(manifest_of_kind())["SelfTest.swift"])
    case, report = keys_of(root, "document")
    assert case == {"name", "mask_iou", "score_error", "masks", "scores"}
    assert report == {*TEXT_KEYS, "contract", "cases", "problems", "passed"}
    texts = {
        swift_tree.literal(n) for n in swift_tree.walk(root) if n.type == "line_string_literal"
    }
    (runtime,) = (t for t in texts if t == swift.BACKENDS["coreml"])
    assert same_runtime(runtime, "Core ML")


def test_the_fingerprint_is_of_the_same_parts() -> None:
    root = swift_tree.parse(files_for(manifest_of_kind())["SelfTestFiles.swift"])
    picked = [
        tuple(swift_tree.literal(n))
        for n in swift_tree.walk(root)
        if n.type == "array_literal"
        and n.parent is not None
        and n.parent.parent is not None
        and n.parent.parent.parent is not None
        and "picked" in swift_tree.text_of(n.parent.parent.parent.parent)
    ]
    assert picked == [fingerprint.WHOLE, fingerprint.OF_COMPONENT, fingerprint.OF_TARGET]


@pytest.mark.backend
@pytest.mark.parametrize("options", [{}, {"image_input": "true"}], ids=str)
def test_a_real_bundle(
    small_checkpoint: Checkpoint,
    parity_file: Path,
    tmp_path: Path,
    stage_root: Path,
    options: dict[str, str],
) -> None:
    pytest.importorskip("coremltools")
    from effsam_export.config import targets as profiles
    from effsam_export.pipeline.request import ExportRequest

    bundle = tmp_path / "bundle"
    request = ExportRequest(
        model=SMALL_SAM,
        target=profiles.load_target("coreml", "fp16", options),
        checkpoint=small_checkpoint,
        output=bundle,
        parity_file=parity_file,
    )
    export(request, stage_root)
    manifest = manifest_of(bundle)
    files = files_for(manifest)
    found = values(files)
    assert ("pixelBuffer" in files["CoreMLGraph.swift"]) == bool(options)
    assert found["Segmenter.swift: room"] == 8
    for name in ("encoderPackage", "decoderPackage"):
        assert (bundle / found[f"Segmenter.swift: {name}"] / "Manifest.json").is_file()
    assert json.dumps(found["Segmenter.swift: embeddingsShape"]) == json.dumps(
        manifest["components"][0]["outputs"][0]["shape"]
    )
    assert swift_tree.mistakes(trees(files)) == []
