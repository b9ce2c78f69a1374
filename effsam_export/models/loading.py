"""A checkpoint file into a model, strictly and without running anything in it."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from effsam_export.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from effsam_export.spec import Checkpoint, ModelSpec

CONTAINERS = ("model", "state_dict")
"""Keys under which authors wrap their state dict (EfficientSAM, EfficientViT-SAM)."""

LOOKS_LIKE: tuple[tuple[str, str], ...] = (
    # A tensor name that only this family has -> what the file is called then.
    ("image_encoder.layers.0.blocks.0.conv1.c.weight", "a MobileSAM (TinyViT)"),
    ("image_encoder.features.0.0.c.weight", "an EdgeSAM or RepViT-SAM (RepViT)"),
    ("image_encoder.blocks.0.attn.rel_pos_h", "a SAM, SlimSAM or Expedit-SAM (ViT)"),
    ("image_encoder.backbone.stages.0.op_list.0.conv.weight", "an EfficientViT-SAM"),
    ("image_encoder.patch_embed.proj.weight", "an EfficientSAM or SAM-Lightening (plain ViT)"),
    ("model.0.conv.weight", "a FastSAM (YOLOv8)"),
    ("vision_encoder.patch_embed.projection.weight", "a SAM in the transformers naming"),
)


def load(model: ModelSpec, checkpoint: Checkpoint) -> nn.Module:
    """Build a model and load the authors' checkpoint into it, every tensor by name and shape.

    Raises:
        CheckpointError: Not a checkpoint, not a state dict, or the state dict of another model.
    """
    settle_vector_maths()
    state = read_state_dict(checkpoint.path)
    module = model.build()
    problems = mismatches(module, state)
    if problems:
        likely = describe(state)
        said = f": it looks like {likely} checkpoint" if likely else ""
        raise CheckpointError(
            f"`{checkpoint.path.name}` is not a checkpoint of `{model.name}`{said}",
            hint="; ".join(problems),
        )
    module.load_state_dict(dict(state), strict=True)
    return module.eval()


def settle_vector_maths() -> None:
    """Call each vectorised function once on one number, before threads can race for it.

    The MKL in torch's CPU wheels picks a function's kernel at its first call. If that call runs on
    several threads, one of them may get a kernel of low accuracy for its share: sines off by
    1.5e-4, in one process of twenty or so (pytorch#188792). The reference and the constants that
    are baked into graphs must not depend on that.
    """
    import torch

    one = torch.ones(1)
    for function in (torch.sin, torch.cos, torch.sqrt, torch.exp, torch.erf, torch.tanh, torch.log):
        function(one)


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """Read a plain or wrapped state dict, on the CPU, with `weights_only=True`.

    Raises:
        CheckpointError: The file cannot be read, or holds something else.
    """
    import torch

    try:
        with warnings.catch_warnings():
            # Notes on pickle protocols, of files that then load or are refused all the same.
            warnings.simplefilter("ignore")
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Any: bytes that are no pickle trip the unpickler in many ways.
        # Torch's own message advises to switch the safety off; it is not passed on.
        code = isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower()
        reason = "it holds code, which is never run" if code else "it is no PyTorch weight file"
        raise CheckpointError(
            f"`{path}` cannot be read as a checkpoint: {reason}",
            hint="give the authors' file as it was downloaded; `effsam fetch MODEL` gets it",
        ) from error
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()
    ):
        raise CheckpointError(
            f"`{path}` holds no state dict (names and tensors)",
            hint="give the authors' file as it was downloaded; `effsam fetch MODEL` gets it",
        )
    return content


def mismatches(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """How a state dict differs from what a module wants, one sentence per kind of difference."""
    wanted = module.state_dict()
    missing = [n for n in wanted if n not in state]
    extra = [n for n in state if n not in wanted]
    shapes = [n for n in wanted if n in state and wanted[n].shape != state[n].shape]
    problems = []
    if missing:
        problems.append(f"missing are {len(missing)} of {len(wanted)} tensors, as `{missing[0]}`")
    if extra:
        problems.append(f"unknown to it: {len(extra)}, as `{extra[0]}`")
    if shapes:
        name = shapes[0]
        problems.append(
            f"of another shape: {len(shapes)}, as `{name}`: "
            f"{list(state[name].shape)}, want {list(wanted[name].shape)}"
        )
    return problems


def describe(state: Mapping[str, Tensor]) -> str | None:
    """What family a state dict belongs to, by its tensor names; None if no known one."""
    return next((what for name, what in LOOKS_LIKE if name in state), None)
