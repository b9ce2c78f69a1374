"""Generators of hostile manifests, beside those of any JSON: paths, references and options."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from tests.bundle import hostile_json

if TYPE_CHECKING:
    from random import Random

NAMES = (
    *("aux", "CON", "nul.txt", "com1", "LPT9.x.y", "prn.onnx", "a./b", "a /b", "a/b.", "b ", "x\n"),
    *("../x", "a/../../x", "/etc/passwd", "C:x", "x:stream", "a\\b", "\\\\host\\x", "..", ".", ""),
    *("a//b", "./a", "a/", "a/./b", "README.MD", "golden", "manifest.json", "MANIFEST.JSON.sig"),
    *(
        "\0",
        "\x1b[31m",
        "\u202ex",
        "e\u0301",
        "x" * 250,
        "/".join("x" * 300),
        "~/x",
        "a*?",
        "$HOME",
    ),
)
OPTIONS: tuple[Any, ...] = (None, True, -1, 0, 1, 2**31, 10**30, 0.5, 1e308, "", "GPU", "4", [], {})
OPTION_NAMES = ("provider", "num_threads", "slots", "delegate", "image_input", "functions", "x")
BACKENDS = (
    "onnx",
    "openvino",
    "coreml",
    "tflite",
    "tensorrt",
    "tensorrt-rtx",
    "quantum",
    "",
    "../x",
)


def paths(random: Random, manifest: dict[str, Any]) -> bytes:
    """A manifest with a bad path in one or two of the places that hold one."""
    changed = deepcopy(manifest)
    for _ in range(random.randint(1, 2)):
        name = random.choice(NAMES)
        component = random.choice(changed["components"])
        entry = random.choice(changed["files"])
        match random.randrange(7):
            case 0:
                entry["path"] = name
            case 1:
                changed["files"].append({**entry, "path": name})
            case 2:
                component["files"] = [name]
            case 3:
                component["source"] = name
            case 4:
                changed["golden"] = name
            case 5:
                changed["parity"]["file"] = name
            case _:
                changed["model"]["licence"]["file"] = name
    return hostile_json.text_of(changed)


def options(random: Random, manifest: dict[str, Any]) -> bytes:
    """A manifest with options or a backend that no target has."""
    changed = deepcopy(manifest)
    target, model = changed["target"], changed["model"]
    for _ in range(random.randint(1, 3)):
        match random.randrange(4):
            case 0:
                target["backend"] = random.choice(BACKENDS)
            case 1:
                model["options"][random.choice(("clusters", "location", "k"))] = random.choice(
                    OPTIONS
                )
            case 2:
                model["name"] = random.choice(
                    ("tiny-sam", "expedit-sam-vit-b", "fast-sam-s", "../x")
                )
            case _:
                target["options"][random.choice(OPTION_NAMES)] = random.choice(OPTIONS)
    return hostile_json.text_of(changed)


def references(random: Random, manifest: dict[str, Any]) -> bytes:
    """A manifest whose parts do not fit together, though each follows the schema."""
    changed = deepcopy(manifest)
    components = changed["components"]
    match random.randrange(8):
        case 0:
            components.append(deepcopy(random.choice(components)))
        case 1:
            components.reverse()
            for entry, name in zip(components, ("encoder", "decoder"), strict=False):
                entry["name"] = name
        case 2:
            random.choice(components)["name"] = random.choice(("segmenter", "encoder", "decoder"))
        case 3:
            changed["precision"][random.choice(("elements_by_dtype", "ops_by_type"))] = {}
        case 4:
            tensors = random.choice(components)[random.choice(("inputs", "outputs"))]
            random.choice(tensors)["shape"] = random.choice(
                ([], ["x"], [1, "x", 3], [10**40], [1] * 50)
            )
        case 5:
            tensors = random.choice(components)[random.choice(("inputs", "outputs"))]
            random.choice(tensors)["name"] = random.choice(("image", "", "x\n", "scores"))
        case 6:
            changed["files"] = random.sample(changed["files"], random.randint(1, 4))
        case _:
            changed["parity"].update(random.choice(({"min_mask_iou": None}, {"cases": 10**30})))
    return hostile_json.text_of(changed)


KINDS: dict[str, hostile_json.Kind] = {
    **hostile_json.KINDS,
    "paths": paths,
    "options": options,
    "references": references,
}
