"""The lines of code in a bundle's `README.md`: open the graphs and ask for one point.

They are short on purpose: `effsam code` writes what an app needs around them.
"""

from __future__ import annotations

from typing import Any

LANGUAGES = {
    # Backend -> the languages of `effsam code`.
    "onnx": ("python", "cpp", "js"),
    "openvino": ("python", "cpp"),
    "tflite": ("python", "cpp", "kotlin"),
    "coreml": ("swift",),
}
OF_INSTANCES = ("python", "cpp", "js")
"""The languages that choose among the instances of FastSAM."""
EXAMPLE = (500.0, 375.0)
"""A point (x, y), in the frame of the prompts."""


def code_section(manifest: dict[str, Any]) -> list[str]:
    """Return Markdown with code for the bundle's runtime; nothing for TensorRT, which has a kit."""
    backend = manifest["target"]["backend"]
    if backend not in LANGUAGES:
        return []
    lines = ["", "## In code", ""]
    languages = LANGUAGES[backend]
    if "instances" in manifest["masks"]:
        languages = tuple(name for name in languages if name in OF_INSTANCES)
    if manifest["target"]["options"].get("delegate") == "gpu":
        languages = ()  # The generated code runs on the CPU.
    if languages and _is_whole(manifest):
        lines += [
            f"`effsam code . --language {'|'.join(languages)}` writes all of the above as source "
            "code, with a self-test. The bare runtime:"
        ]
    else:
        lines += ["The bare runtime:"]
    body = _swift(manifest) if backend == "coreml" else _python(manifest)
    language = "swift" if backend == "coreml" else "python"
    return [*lines, "", f"```{language}", *body, "```"]


def _is_whole(manifest: dict[str, Any]) -> bool:
    names = {component["name"] for component in manifest["components"]}
    return names in ({"encoder", "decoder"}, {"segmenter"})


def _python(manifest: dict[str, Any]) -> list[str]:
    """Return Python that runs each graph once, with steps 1 to 5 for one point as its inputs."""
    backend, options = manifest["target"]["backend"], manifest["target"]["options"]
    components = manifest["components"]
    lines = ["import numpy as np", *_imports(backend), ""]
    lines += _opened(backend, options, components)
    first = components[0]
    for component in components:
        name = component["name"]
        if name == "decoder":
            lines += ["", f"x, y = {EXAMPLE[0]:g}, {EXAMPLE[1]:g}  # step 4"]
            if first is component:
                lines += [_zeros("image_embeddings", component), ""]
        feeds = _feeds(component, manifest)
        outputs = [t["name"] for t in component["outputs"]]
        if name != "decoder":
            lines += ["", f"{_zeros('image', component)}  # in its place: steps 1 to 3"]
        lines += _called(backend, name, feeds, outputs)
        if name == "encoder" and component["outputs"][0]["shape"][0] != 1:
            lines.append("image_embeddings = image_embeddings[:1]  # of the first image")
    return lines


def _imports(backend: str) -> list[str]:
    return {
        "onnx": ["import onnxruntime"],
        "openvino": ["import openvino"],
        "tflite": ["from ai_edge_litert.interpreter import Interpreter"],
    }[backend]


def _opened(backend: str, options: dict[str, Any], components: list[dict[str, Any]]) -> list[str]:
    """Return the lines that open the graph of each component."""
    found = []
    for component in components:
        name, file = component["name"], component["files"][0]
        if backend == "onnx":
            provider = options.get("provider", "CPUExecutionProvider")
            found.append(
                f'{name} = onnxruntime.InferenceSession("{file}", providers=["{provider}"])'
            )
        elif backend == "openvino":
            precision = options.get("inference_precision", "f32")
            device = options.get("device", "CPU")
            # OpenVINO's default is BF16 on a CPU that has it.
            found += [] if found else [f'precision = {{"INFERENCE_PRECISION_HINT": "{precision}"}}']
            found.append(f'{name} = openvino.Core().compile_model("{file}", "{device}", precision)')
        else:
            found += [f'{name}_file = Interpreter("{file}")']
            found += [f'{name} = {name}_file.get_signature_runner("{name}")']
    return found


def _feeds(component: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    """Return `"name": value` for each input of a component, for one foreground point."""
    return [f'    "{t["name"]}": {_value(t, manifest)},' for t in component["inputs"]]


def _value(tensor: dict[str, Any], manifest: dict[str, Any]) -> str:
    prompts = manifest["prompts"]
    name = str(tensor["name"])
    if name == "image_embeddings" and isinstance(manifest["preprocess"].get("batch"), int):
        return f"{name}[:1]"  # of the first of several images
    if name in ("image", "image_embeddings"):
        return name
    if name in ("point_coords", "point_labels"):
        padding, empty = prompts["padding"], prompts["labels"]["empty"]
        total = tensor["shape"][1]
        count = total if isinstance(total, int) else 2
        rows = [("[x, y]", "1"), (str(list(padding["coordinates"])), str(padding["label"]))]
        rest = rows[1] if empty is None else ("[0, 0]", str(empty))
        rows += [rest] * (count - 2)
        values = [row[0 if name == "point_coords" else 1] for row in rows]
        return f"np.array([[{', '.join(values)}]], dtype=np.float32)"
    return f"np.zeros({_tuple(_fixed(tensor['shape']))}, dtype=np.{tensor['dtype']})"


def _called(backend: str, name: str, feeds: list[str], outputs: list[str]) -> list[str]:
    """Return the lines that run a graph and name its outputs."""
    if backend == "onnx":
        names = ", ".join(outputs) + "," * (len(outputs) == 1)
        return [f"{names} = {name}.run(None, {{", *feeds, "})"]
    call = f"answer = {name}(**{{" if backend == "tflite" else f"answer = {name}({{"
    return [call, *feeds, "})", *(f'{o} = answer["{o}"]' for o in outputs)]


def _zeros(name: str, component: dict[str, Any]) -> str:
    tensor = next(t for t in component["inputs"] if t["name"] == name)
    return f"{name} = np.zeros({_tuple(_fixed(tensor['shape']))}, dtype=np.{tensor['dtype']})"


def _fixed(shape: list[Any]) -> list[int]:
    """Return a shape with 1 for each dynamic axis."""
    return [1 if isinstance(side, str) else side for side in shape]


def _tuple(shape: list[Any]) -> str:
    return f"({', '.join(str(side) for side in shape)}{',' * (len(shape) == 1)})"


def _swift(manifest: dict[str, Any]) -> list[str]:
    """Return Swift that opens the packages. Nothing here has a Swift compiler with Core ML."""
    lines = ["// Not compiled by the export, which runs without Xcode.", "import CoreML", ""]
    for component in manifest["components"]:
        name = component["name"]
        file = component["files"][0].split("/")[0]
        outputs = ", ".join(t["name"] for t in component["outputs"])
        lines += [
            f'let {name}URL = try MLModel.compileModel(at: URL(fileURLWithPath: "{file}"))',
            f"let {name} = try MLModel(contentsOf: {name}URL)",
            f"// {name}.prediction(from: MLDictionaryFeatureProvider(dictionary: [...]))",
            f"// gives {outputs}",
        ]
    return lines
