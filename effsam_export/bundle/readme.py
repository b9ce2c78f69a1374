"""The page an integrator reads first, written from the manifest so that it cannot disagree."""

from __future__ import annotations

from typing import Any

PACKAGE = ".mlpackage"
"""A folder that Core ML and a Mac's Finder take for one file."""


def integrator_readme(manifest: dict[str, Any]) -> str:
    """Markdown that says what is in the bundle and how to call it."""
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
        names = ", ".join(f"`{f}`" for f in shipped(component["files"]))
        lines.append(f"* {component['name']}: {names}")
        for kind in ("inputs", "outputs"):
            for t in component[kind]:
                shape = f"[{', '.join(str(s) for s in t['shape'])}]"
                lines.append(
                    f"  * {kind[:-1]} `{t['name']}` {t['dtype']} {shape}: {t['description']}"
                )
    lines += [
        "",
        "## How to call them",
        "",
        f"1. Turn the photograph as its EXIF data says; {pre['colour']}, values 0 to 255.",
        f"2. Resize: {_resize_rule(pre)}; {pre['resize']['filter']}.",
        f"3. {_pad_rule(pre)} Do not normalise: the graph does.",
        f"4. Prompts are in pixels (x, y) of the {prompts['coordinates']['frame']}.",
        *_prompt_rules(prompts, masks),
        f"7. Bring the logits back: {'; '.join(masks['resize'])}. "
        f"In the mask: logit > {masks['threshold']:g}.",
        *_instance_rules(masks),
        *_session_rules(manifest),
        "",
        "## Proof",
        "",
    ]
    if parity["cases"]:
        lines.append(
            f"Against PyTorch on {parity['cases']} prompts: min mask IoU "
            f"{parity['min_mask_iou']:.4f}, greatest score error {parity['max_score_error']:.1e} "
            "(`parity.json`, `report.html`)."
        )
        lines.append("`golden/golden.json` holds prompts and expected masks for your own test.")
    else:
        lines.append("One component only: judged tensor by tensor (`parity.json`).")
    lines += ["", "`effsam verify .` checks the files and repeats the proof.", ""]
    if target["backend"] == "tensorrt":
        lines += [
            "## On the device",
            "",
            "`python3 kit/build_engine.py`, then `python3 kit/verify_engine.py` (`kit/README.md`).",
            "",
        ]
    return "\n".join(lines)


def shipped(files: list[str]) -> list[str]:
    """What an app takes: files, and package folders as the one thing they are."""
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
    return f"Pad at the {', '.join(pre['pad']['sides'])} to a square with ({value})."


def _instance_rules(masks: dict[str, Any]) -> list[str]:
    """What has to be known to the pixel, of a model that finds instances."""
    if "instances" not in masks:
        return []
    rules = "".join(f"\n   * {rule}" for rule in masks["instances"]["rules"])
    return [f"8. To the pixel, with stride {masks['instances']['stride']}:{rules}"]


def _session_rules(manifest: dict[str, Any]) -> list[str]:
    """What a session has to be told so that it computes what was judged."""
    if (manifest["target"]["backend"], manifest["precision"]["requested"]) != ("onnx", "int8"):
        return []
    return [
        "",
        "On x64 CPUs without VNNI give each session the entry `session.x64quantprecision` = `1`: "
        "ONNX Runtime saturates sums of INT8 products there. (Elsewhere it only costs time.)",
    ]


def _prompt_rules(prompts: dict[str, Any], masks: dict[str, Any]) -> list[str]:
    if prompts["host_rules"]:
        rules = "; ".join(prompts["host_rules"])
        return ["5. The graph takes no prompts: it finds instances.", f"6. Choose: {rules}."]
    padding = prompts["padding"]
    single = "".join(f", or mask {i} for one answer without choosing" for i in masks["single"])
    return [
        "5. Points first, then the two corners of a box (labels 2 and 3). Padding, where "
        f"{padding['when']}: {padding['coordinates']} with label {padding['label']}.",
        f"6. Take, {masks['select']} (masks {masks['multimask']}){single}.",
    ]
