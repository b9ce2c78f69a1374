"""Compare a file's tensors with those of a model, and say what the file is instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from effsam_export.errors import CheckpointError, shown
from effsam_export.weights.adapters import MERGEABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from effsam_export.spec.model import ModelSpec
    from effsam_export.weights.read import Weights

PART_NAMES = {
    "image_encoder": "the image encoder",
    "prompt_encoder": "the prompt encoder",
    "mask_decoder": "the mask decoder",
}


def require_supported(name: str, weights: Weights) -> None:
    """Check that the weights are of a model that some registered model may take.

    Raises:
        CheckpointError: They are of a model that is not supported, or have adapters.
    """
    identity = weights.identity
    if identity is not None and identity.unsupported:
        raise CheckpointError(
            f"`{name}` is {identity.title} checkpoint, {identity.unsupported}", hint=identity.hint
        )
    if weights.adapters is not None:
        alone = len(weights.adapters.names) >= len(weights.state)
        mergeable = alone and weights.adapters.kind in MERGEABLE
        found = weights.adapters.names
        raise CheckpointError(
            f"`{name}` has adapters ({weights.adapters.kind}) that are not merged into its "
            f"weights: {len(found)} tensor{'s' if len(found) > 1 else ''}, as `{shown(found[0])}`",
            hint="give the checkpoint that was adapted with --checkpoint, and this file with --lora"
            if mergeable
            else "merge them in the training code first (in PEFT: `merge_and_unload()`); or save "
            "the adapter alone, and give it with --lora",
        )


def require_match(
    model: ModelSpec,
    name: str,
    weights: Weights,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> None:
    """Check that a file's tensors are those of a model.

    Args:
        model: The model to load.
        name: The file's name.
        weights: The file's tensors, as they were read.
        state: The same under the model's names, with those of `--base`.
        expected: The model's own tensors, possibly on the `meta` device.

    Raises:
        CheckpointError: They are another model's, or not all; the hint says what to do.
    """
    problems = mismatches(expected, state)
    found = weights.identity
    is_other = found is not None and bool(found.models) and model.name not in found.models
    # A pruned family takes the widths of a file: those of another variant are no mismatch.
    if is_other and (problems or model.build_like is not None):
        assert found is not None
        same = _family(model.name) in map(_family, found.models)
        raise CheckpointError(
            f"`{name}` is {found.title} checkpoint: "
            + (f"another variant than `{model.name}`" if same else f"not one of `{model.name}`"),
            hint=f"export it as {' or '.join(f'`{m}`' for m in found.models)}",
        )
    if not problems:
        return
    if lacking := missing_parts(expected, state):
        has = len([n for n in state if n in expected])
        raise CheckpointError(
            f"`{name}` lacks {_joined(lacking)} of `{model.name}`: it has {has} of its "
            f"{len(expected)} tensors",
            hint="give a whole checkpoint for the rest: --base FILE",
        )
    hint = "; ".join(problems)
    if found is not None and model.name in found.models:
        # It is this model: what differs is a change of its layers or a damage.
        raise CheckpointError(
            f"`{name}` does not fit `{model.name}`, whose names it has", hint=hint
        )
    raise CheckpointError(f"`{name}` is not a checkpoint of `{model.name}`", hint=hint)


def missing_parts(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Return the parts of a model of which a state dict has no tensor, if it has another's."""
    parts = list(dict.fromkeys(n.partition(".")[0] for n in expected))
    lacking = [p for p in parts if not any(n.startswith(f"{p}.") for n in state)]
    known = [PART_NAMES[p] for p in lacking if p in PART_NAMES]
    return known if len(lacking) < len(parts) and len(known) == len(lacking) else []


def mismatches(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Return how a state dict differs from a model's, a sentence for each kind of difference."""
    shared = [n for n in expected if n in state]
    missing = [n for n in expected if n not in state]
    extra = [n for n in state if n not in expected]
    shapes = [n for n in shared if expected[n].shape != state[n].shape]
    types = [n for n in shared if not _fits(expected[n], state[n])]
    problems = []
    if missing:
        problems.append(f"missing tensors: {len(missing)} of {len(expected)}, as `{missing[0]}`")
    if extra:
        problems.append(f"unknown tensors: {len(extra)}, as `{shown(extra[0])}`")
    if shapes:
        name = shapes[0]
        problems.append(
            f"tensors of another shape: {len(shapes)}, as `{name}`: "
            f"{list(state[name].shape)}, want {list(expected[name].shape)}"
        )
    if types:
        name = types[0]
        found, want = (str(t.dtype).removeprefix("torch.") for t in (state[name], expected[name]))
        problems.append(f"tensors of another type: {len(types)}, as `{name}`: {found}, want {want}")
    return problems


def _fits(expected: Tensor, given: Tensor) -> bool:
    """Return whether a tensor's type can become the expected one without another meaning."""
    import torch

    if not expected.is_floating_point():
        return given.dtype in (expected.dtype, torch.int64, torch.int32)
    return given.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _family(model: str) -> str:
    """Return a registered model's name without its variant, the last component."""
    return model.rpartition("-")[0]


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
