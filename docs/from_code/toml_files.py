"""Keys of every TOML file that the package reads, from the tables it checks them by."""

from __future__ import annotations

from docs.from_code.text import key_table
from effsam_export.config import calibration as calibration_file
from effsam_export.config import fp16_recipe, int8_recipe
from effsam_export.config import parity as parity_file
from effsam_export.config import targets as target_file
from effsam_export.matrix import config as build_file
from effsam_export.spec import int8 as choices

RANGE = "values that become black and white, as `--range` of `effsam run`"


def target() -> str:
    """Return the keys of a target file."""
    gates = {**target_file.GATE_KEYS, **target_file.OPTIONAL_GATES}
    top = key_table(
        {**target_file.TARGET_KEYS, **target_file.OPTIONAL_KEYS},
        {"layout": "none"},
        {
            "layout": "the app that takes the bundle; its backend is "
            f"`{target_file.LAYOUT_BACKEND}`: {words(target_file.LAYOUTS)}",
            "description": "what the target is, as `effsam targets` shows it",
            "backend": "the toolchain, a name from the table of backends",
            "precisions": f"those offered, default first: {words(target_file.PRECISIONS)}",
            "opset": f"ONNX opset, {target_file.MIN_OPSET} to {target_file.MAX_OPSET}",
            "simplify": "run onnxsim on the graphs",
            "options": "target options of the backend",
            "gates": "a table for each precision, with the keys below",
        },
    )
    below = key_table(
        gates,
        dict.fromkeys(target_file.OPTIONAL_GATES, "0"),
        {
            "mask_iou": "min mask IoU of every prompt, end to end",
            "score_error": "maximum difference of a predicted score, end to end",
            "cosine": "minimum cosine similarity of every output tensor of a component",
            "mean_iou": "minimum of the mean mask IoU over all prompts; see Parity for BF16",
        },
    )
    return f"{top}\nIn each table of `gates`:\n\n{below}"


def parity() -> str:
    """Return the keys of a parity set."""
    return key_table(
        {**parity_file.IMAGE_KEYS, **parity_file.OPTIONAL_IMAGE_KEYS},
        {"range": "auto"},
        {
            "range": RANGE,
            "file": "the image, relative to the TOML file",
            "prompts": "a list of prompts, with the keys below",
        },
    )


def calibration() -> str:
    """Return the keys of a calibration set."""
    top = key_table(
        {**calibration_file.KEYS, **calibration_file.OPTIONAL_KEYS},
        {"range": "auto"},
        {
            "images": "image files, relative to the TOML file; each is taken whole once",
            "num_samples": "number of samples; those after the images are crops of them",
            "seed": "seed of the crops and the prompts",
            "crops": "how crops are made, with the keys below",
            "prompts": "prompts for a quantized decoder, with the key below",
            "range": RANGE,
        },
    )
    crops = key_table(
        calibration_file.CROP_KEYS,
        {},
        {
            "smallest": "smallest side of a crop as a share of the image's, over 0 and at most 1",
            "flip": "mirror half of the crops",
        },
    )
    prompts = key_table(
        calibration_file.PROMPT_KEYS, {}, {"per_sample": "number of prompts for each sample"}
    )
    return f"{top}\nIn `crops`:\n\n{crops}\nIn `prompts`:\n\n{prompts}"


def int8() -> str:
    """Return the keys of an INT8 recipe."""
    recipe = key_table(
        int8_recipe.RECIPE_KEYS,
        {
            "method": f"`{choices.METHODS[0]}`",
            "rounding": f"`{choices.ROUNDINGS[0]}`",
            "equalize": "none",
            "quantize_activation_products": "false",
            "overrides": "none",
        },
        {
            "scheme": f"what every layer gets: {words(choices.SCHEMES)}",
            "method": f"how an activation's range is measured: {words(choices.METHODS)}",
            "rounding": f"how weights are rounded: {words(choices.ROUNDINGS)}",
            "equalize": "outlier channels to move into weights, with the keys below",
            "quantize_activation_products": "quantize products of two activations too",
            "overrides": "layers that get another treatment, with the keys below",
        },
    )
    equalize = key_table(
        int8_recipe.EQUALIZE_KEYS,
        {"norm": "or `values`", "values": "or `norm`"},
        {
            "norm": "path of the layer norm inside a block",
            "values": "path of the linear layer that computes query, key and value",
            "layer": "path of the linear layer that reads it",
            "alpha": "0 (equal ranges of weights) to 1 (equal ranges of activations)",
        },
    )
    other = key_table(
        int8_recipe.OVERRIDE_KEYS,
        {"source": "empty", "recursive": "true"},
        {
            "modules": "patterns of module paths",
            "treatment": f"what these layers get: {words(choices.TREATMENTS)}",
            "reason": "why, as a sentence",
            "source": "where that was measured or published",
            "recursive": "false leaves out the modules inside these",
        },
    )
    return f"{recipe}\nIn `equalize`:\n\n{equalize}\nIn `overrides`:\n\n{other}"


def fp16() -> str:
    """Return the keys of an FP16 recipe."""
    return key_table(
        fp16_recipe.KEYS,
        {"ops": "all", "recursive": "true", "source": "the file's name"},
        {
            "component": "`encoder`, `decoder` or `segmenter`",
            "modules": "patterns of module paths",
            "reason": "why, as a sentence",
            "ops": "operator names, where not all of the modules' stay in FP32",
            "recursive": "false leaves out the modules inside these",
            "source": "where that was measured or published",
        },
    )


def build() -> str:
    """Return the keys of a build file."""
    return key_table(
        {**build_file.KEYS, **build_file.OPTIONAL},
        {
            "precisions": "each target's first",
            "output": "`dist`",
            "parity": "the shipped set",
            "calibration": "the shipped set",
            "checkpoints": "the official files",
            "image_size": "that of the checkpoint",
            "batch": "one image",
            "options": "the target's own",
            "leave_out": "none",
            "requires": "any worker",
        },
        {
            "models": f'model names, or `["{build_file.EVERY}"]`',
            "targets": "target names, or paths of target files",
            "precisions": "precisions of each target, where it has them",
            "output": "folder of the bundles",
            "parity": "a parity set",
            "calibration": "name, file or folder of a calibration set",
            "checkpoints": "model = path of your own weight file, or a table with `file` and "
            f"{words(('key', 'base', 'lora', 'lora_alpha'))}",
            "image_size": "model = size of its input, as 512 or `1024x768`, or a list of sizes",
            "batch": "model = number of images of one call of its encoder, or `dynamic`, or a list",
            "options": "target = table of target options",
            "leave_out": f"cells to leave out: tables with {words(build_file.LEAVE_OUT)}",
            "requires": "target = label of the workers that build it",
        },
    )


def words(values: tuple[str, ...]) -> str:
    """Return names in backticks, separated by commas."""
    return ", ".join(f"`{v}`" for v in values)
