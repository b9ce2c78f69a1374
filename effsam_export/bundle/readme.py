"""Write the `README.md` of a bundle from its manifest."""

from __future__ import annotations

from typing import Any

from effsam_export import layouts
from effsam_export.bundle.readme_code import code_section
from effsam_export.spec.batches import DYNAMIC
from effsam_export.spec.sizes import from_document, text_of

PACKAGE = ".mlpackage"
"""A folder that Core ML and macOS treat as one file."""


def readme_text(manifest: dict[str, Any]) -> str:
    """Return Markdown about the files of a bundle and how an app calls them."""
    model, target, parity = manifest["model"], manifest["target"], manifest["parity"]
    pre, prompts, masks = manifest["preprocess"], manifest["prompts"], manifest["masks"]
    lines = [
        f"# {model['title']} for {target['name']}, {manifest['precision']['requested']}",
        "",
        f"State: **{_state(manifest)}**. Licence of the weights: {model['licence']['spdx']} "
        f"(`{model['licence']['file']}`). Everything below is in `manifest.json` for programs.",
        "",
        "## Files to ship",
        "",
    ]
    for component in manifest["components"]:
        names = ", ".join(f"`{f}`" for f in shipped_paths(component["files"]))
        lines.append(f"* {component['name']}: {names}")
        for kind in ("inputs", "outputs"):
            for t in component[kind]:
                shape = f"[{', '.join(str(s) for s in t['shape'])}]"
                lines.append(
                    f"  * {kind[:-1]} `{t['name']}` {t['dtype']} {shape}: {t['description']}"
                )
    layout = layouts.load(target["layout"]) if "layout" in target else None
    if layout is not None:
        lines += ["", f"## Use with {layout.APP}", "", *layout.USE]
    lines += [
        "",
        "## How to call them",
        "",
        f"1. Apply the EXIF rotation of the image; {pre['colour']}, values 0 to 255.",
        f"2. Resize: {_resize_rule(pre)}; {pre['resize']['filter']}.",
        f"3. {_pad_rule(pre)} {_normalisation_rule(pre)}",
        f"4. Prompts are in pixels (x, y) of the {prompts['coordinates']['frame']}.",
        *_prompt_rules(prompts, masks),
        f"7. Resize the logits: {'; '.join(masks['resize'])}. "
        f"A pixel is in the mask if its logit > {masks['threshold']:g}.",
        *_instance_rules(masks),
        *_batch_rule(manifest),
        *_session_rules(manifest),
        *(code_section(manifest) if layout is None else ()),
        "",
        "## Parity with PyTorch",
        "",
    ]
    if parity["cases"]:
        of = ""
        if parity.get("decided_by") == "confident masks":
            of = f" of {parity['confident_masks']} confident masks"
        lines.append(
            f"Against PyTorch on {parity['cases']} prompts: min mask IoU "
            f"{parity['min_mask_iou']:.4f}{of}, maximum score error "
            f"{parity['max_score_error']:.1e} (`parity.json`, `report.html`)."
        )
        lines.append("`golden/golden.json` holds prompts and expected masks for your own tests.")
    else:
        lines.append("One component only: compared tensor by tensor (`parity.json`).")
    lines += ["", "`effsam verify .` checks the files and repeats the comparison.", ""]
    if target["backend"] == "tensorrt":
        lines += [
            "## On the device",
            "",
            "`python3 kit/build_engine.py`, then `python3 kit/verify_engine.py` (`kit/README.md`).",
            "",
        ]
    return "\n".join(lines)


def shipped_paths(files: list[str]) -> list[str]:
    """Return the paths an app ships; a package folder counts as one path."""
    found = (f"{f.split(PACKAGE)[0]}{PACKAGE}" if PACKAGE in f else f for f in files)
    return list(dict.fromkeys(found))


def _state(manifest: dict[str, Any]) -> str:
    simulator = manifest["simulator"]
    return f"{manifest['state']}, by {simulator}" if simulator else str(manifest["state"])


def _resize_rule(pre: dict[str, Any]) -> str:
    longest, rounding = pre["resize"]["longest_side"], pre["resize"]["rounding"]
    return f"longest side to {longest}, {rounding}" if longest else str(rounding)


def _pad_rule(pre: dict[str, Any]) -> str:
    if pre["pad"] is None:
        return "Pad nothing."
    value = ", ".join(f"{v:g}" for v in pre["pad"]["value"])
    size = from_document(pre["image_size"])
    shape = "a square" if isinstance(size, int) else f"{text_of(size)} (height x width)"
    return f"Pad at the {', '.join(pre['pad']['sides'])} to {shape} with ({value})."


def _normalisation_rule(pre: dict[str, Any]) -> str:
    rule = pre["normalisation"]
    if rule["inside_graph"]:
        return "Do not normalise: the graph does it."
    mean, std = (", ".join(f"{v:g}" for v in rule[key]) for key in ("mean", "std"))
    return f"Before that, subtract the mean ({mean}) and divide by ({std})."


def _instance_rules(masks: dict[str, Any]) -> list[str]:
    """Return the exact rules of a model that finds instances; none for other models."""
    if "instances" not in masks:
        return []
    rules = "".join(f"\n   * {rule}" for rule in masks["instances"]["rules"])
    return [f"8. Exact rules, with stride {masks['instances']['stride']}:{rules}"]


def _batch_rule(manifest: dict[str, Any]) -> list[str]:
    """Return how a graph is called that takes several images at once; nothing for one image."""
    batch = manifest["preprocess"].get("batch")
    if batch is None:
        return []
    first = manifest["components"][0]["name"]
    number = f"{batch} images" if isinstance(batch, int) else "any number of images"
    rest = " Fill slots without an image of yours with any image." if batch != DYNAMIC else ""
    one = f"the outputs at index i are those of image i.{rest}"
    if "instances" not in manifest["masks"]:
        one = f"`image_embeddings[i : i + 1]` is what the decoder takes for image i.{rest}"
    return ["", f"One call of the {first} takes {number}, image i at index i of `image`: {one}"]


def _session_rules(manifest: dict[str, Any]) -> list[str]:
    """Return the session options without which the masks differ from the parity check."""
    if manifest["target"]["backend"] == "openvino":
        return _openvino_rules(manifest)
    if (manifest["target"]["backend"], manifest["precision"]["requested"]) != ("onnx", "int8"):
        return []
    return [
        "",
        "On x64 CPUs without VNNI set the session option `session.x64quantprecision` = `1`: "
        "ONNX Runtime saturates sums of INT8 products there. (On other CPUs it only costs time.)",
    ]


def _openvino_rules(manifest: dict[str, Any]) -> list[str]:
    """Return the property without which OpenVINO computes in another precision."""
    precision = manifest["target"]["options"].get("inference_precision", "f32")
    rule = (
        f"Open the graphs with `INFERENCE_PRECISION_HINT` = `{precision}`: the files cannot hold "
        "it. A CPU has BF16 if `/proc/cpuinfo` has `avx512_bf16` or `amx_bf16`. "
    )
    if precision == "bf16":
        rule += "Another CPU computes in FP32 or is slow, and its masks prove nothing for BF16."
    else:
        rule += (
            "With OpenVINO's default properties such a CPU computes in BF16 and says nothing; the "
            "masks then differ from those of the parity check."
        )
    return ["", rule]


def _prompt_rules(prompts: dict[str, Any], masks: dict[str, Any]) -> list[str]:
    if prompts["host_rules"]:
        rules = "; ".join(prompts["host_rules"])
        return [
            "5. The graph takes no prompts: it finds all instances.",
            f"6. Select instances by prompts: {rules}.",
        ]
    single = "".join(f", or mask {i} for one answer without choosing" for i in masks["single"])
    return [
        "5. Points first, then the two corners of a box (labels 2 and 3)." + _padding_rule(prompts),
        f"6. Take, {masks['select']} (masks {masks['multimask']}){single}.",
    ]


def _padding_rule(prompts: dict[str, Any]) -> str:
    """Return sentences on what fills the inputs of the points."""
    padding, supports = prompts["padding"], prompts["supports"]
    if padding is None:
        return " Add no padding point: the graph does it."
    x, y = padding["coordinates"]
    filling = f"({x}, {y}) with label {padding['label']}"
    if prompts["labels"]["empty"] is None and supports["max_points"] is not None:
        return f" Fill up to {supports['max_points']} points with {filling}."
    if str(padding["when"]).startswith("always"):
        return f" One point more always comes after them: {filling}."
    rule = f" If the prompt has no box, one point more comes after the others: {filling}."
    if supports["slots"] is None:
        return rule
    empty = prompts["labels"]["empty"]
    return f"{rule} Then fill up to {supports['slots']} points with (0, 0) and label {empty}."
