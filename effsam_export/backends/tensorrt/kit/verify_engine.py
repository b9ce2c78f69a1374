#!/usr/bin/env python3
"""Run the engines of this bundle on its golden vectors and compare the masks with PyTorch's.

    python3 kit/verify_engine.py           after `python3 kit/build_engine.py`

Needs Python 3.10 or newer with `tensorrt` and numpy (part of JetPack) and Pillow
(`sudo apt install python3-pil`). The last line begins with PASSED or FAILED. Exit codes: 0 passed,
1 failed, 2 the bundle cannot be checked here, 3 a package, the driver or the GPU is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

KIT = Path(__file__).resolve().parent
# So that the two files beside this one can be imported from any working directory.
sys.path.insert(0, str(KIT))

import golden_masks  # noqa: E402
import trt_engine  # noqa: E402


def check(manifest: dict[str, Any], golden: Path, encoder: Any, decoder: Any) -> list[Any]:
    """Run every golden case; return (name, minimum mask IoU, maximum score error) for each.

    A case may list the masks to compare: PyTorch is not confident of the others.

    Args:
        manifest: Manifest of the bundle.
        golden: Path of `golden/golden.json`.
        encoder: Object with `run(feeds)`, which maps tensors by name to tensors by name.
        decoder: Likewise.
    """
    document = json.loads(golden.read_text("utf-8"))
    image = golden_masks.load_image(golden.parent / document["image"])
    size = image.shape[:2]
    pixels = golden_masks.preprocess(image, manifest["preprocess"])
    batch = manifest["preprocess"].get("batch", 1)
    # An engine for several images gets the image in every slot.
    feeds = {"image": np.repeat(pixels, 1 if batch == "dynamic" else batch, axis=0)}
    embeddings = encoder.run(feeds)["image_embeddings"][:1].astype(np.float32)
    results = []
    for case in document["cases"]:
        mask = case["mask_input"] and np.load(golden.parent / case["mask_input"])
        given = golden_masks.decoder_feeds(case, mask, size, manifest)
        outputs = decoder.run({"image_embeddings": embeddings, **given})
        low_res = outputs["low_res_masks"][0].astype(np.float32)
        found = golden_masks.upscale(low_res, size, manifest)
        ious = [
            golden_masks.mask_iou(golden_masks.decode_rle(case["masks"][i]), found[i])
            for i in case.get("compared", case["answers"])
        ]
        scores = outputs[manifest["masks"]["score"]][0].astype(np.float32)
        errors = np.abs(scores - np.asarray(case["scores"], dtype=np.float32))
        if not (np.isfinite(low_res).all() and np.isfinite(scores).all()):
            ious, errors = [float("nan")], np.asarray([float("nan")])
        elif "compared" in case:
            errors = errors[case["compared"]]
        results.append((case["name"], min(ious, default=1.0), float(errors.max(initial=0.0))))
    return results


def failures(results: list[Any], tolerances: dict[str, float]) -> list[str]:
    """Return a sentence for each result outside the bundle's tolerances, NaN included."""
    found = [] if results else ["there is no golden case"]
    for name, iou, error in results:
        if not iou >= tolerances["mask_iou"]:
            found.append(f"{name}: mask IoU {iou:.6f}, minimum {tolerances['mask_iou']:g}")
        if not error <= tolerances["score_error"]:
            found.append(f"{name}: score error {error:.2e}, maximum {tolerances['score_error']:g}")
    return found


def layer_failures(component: str, layers: list[Any], expected: dict[str, Any]) -> list[str]:
    """Return how the dtypes of an engine's layers differ from the precision of its graph."""
    half = [n["name"] for n in layers if {"float16", "bfloat16"} & set(n["outputs"])]
    known = [n for n in layers if set(n["outputs"]) - {"unknown"}]
    if not known:
        return [f"{component}: the engine inspector lists no dtypes of layers"]
    if expected["precision"] == "fp32" and half:
        return [f"{component}: {len(half)} layers compute in half precision, first `{half[0]}`"]
    if expected["precision"] == "fp16" and not half:
        return [f"{component}: none of {len(layers)} layers computes in half precision"]
    # Weight-only INT8 does not change the output dtypes of layers.
    quantized = "QuantizeLinear" in expected.get("nodes_by_op", ())
    if quantized and not any("int8" in n["outputs"] for n in layers):
        return [f"{component}: none of {len(layers)} layers has an INT8 output"]
    return []


def layer_summary(layers: list[Any]) -> str:
    """Return a text with the number of layers by output dtype."""
    counts: dict[str, int] = {}
    for layer in layers:
        name = "+".join(sorted(set(layer["outputs"]))) or "none"
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))


def reason_not_checkable(bundle: Path, manifest: dict[str, Any]) -> str:
    """Return why this bundle cannot be checked here, or an empty string."""
    names = [c["name"] for c in manifest["components"]]
    if manifest["golden"] is None or names != ["encoder", "decoder"]:
        return (
            f"this script needs golden vectors, an encoder and a decoder, and the bundle has "
            f"{', '.join(names)}; check it with `effsam verify`"
        )
    absent = [f"{n}.engine" for n in names if not (bundle / f"{n}.engine").is_file()]
    if absent:
        return f"there is no `{absent[0]}`: run `python3 kit/build_engine.py` first"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Check the engines, print a line for each case and the result, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, default=KIT.parent)
    bundle: Path = parser.parse_args(arguments).bundle
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    reason = reason_not_checkable(bundle, manifest)
    if reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    try:
        import tensorrt as trt
        from PIL import Image  # noqa: F401
    except ImportError as error:
        print(f"error: {error}; the requirements are at the top of this file", file=sys.stderr)
        return 3
    problems: list[str] = []
    try:
        gpu = trt_engine.Gpu()
        engines = {}
        for name in ("encoder", "decoder"):
            plan = (bundle / f"{name}.engine").read_bytes()
            engines[name] = trt_engine.Engine(trt, plan, gpu)
            expected = json.loads((bundle / f"{name}.expected_layers.json").read_text("utf-8"))
            layers = engines[name].layers()
            print(f"{name}: {len(layers)} layers by output dtype: {layer_summary(layers)}")
            problems += layer_failures(name, layers, expected)
        golden = bundle / manifest["golden"]
        results = check(manifest, golden, engines["encoder"], engines["decoder"])
    except trt_engine.GpuError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    for name, iou, error_ in results:
        print(f"{name}: mask IoU {iou:.4f}, score error {error_:.1e}")
    document = json.loads(golden.read_text("utf-8"))
    left_out = sum(
        len(case["answers"]) - len(case["compared"])
        for case in document["cases"]
        if "compared" in case
    )
    if left_out:
        print(f"not compared: {left_out} masks that PyTorch is not confident of")
    problems += failures(results, document["tolerances"])
    for problem in problems:
        print(f"  {problem}")
    min_iou = min((iou for _, iou, _ in results), default=float("nan"))
    result = "FAILED" if problems else "PASSED"
    print(
        f"{result}: {len(results)} prompts, min mask IoU {min_iou:.4f}, "
        f"TensorRT {trt.__version__}, compute capability {gpu.capability}"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
