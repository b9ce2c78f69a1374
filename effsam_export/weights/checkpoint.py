"""Load a checkpoint file into a model, strictly and without running code in the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.errors import CheckpointError, shown
from effsam_export.weights import compare, placement
from effsam_export.weights.choice import COUNTER
from effsam_export.weights.facts import WeightFacts, facts_of
from effsam_export.weights.lora import adapter_tensors, merge
from effsam_export.weights.mask_tokens import mask_tokens_of, with_mask_tokens
from effsam_export.weights.read import read

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.stages import Checkpoint

FOREIGN = (KeyError, IndexError, ValueError, TypeError, RuntimeError, ZeroDivisionError)
"""What building a module for tensors of another model raises."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model with the weights of a checkpoint.

    Attributes:
        model: As it was asked for, with the number of masks that the checkpoint has.
        module: In eval mode.
        facts: What was read from the file.
    """

    model: ModelSpec
    module: nn.Module
    facts: WeightFacts


def load(model: ModelSpec, checkpoint: Checkpoint) -> nn.Module:
    """Return a model with the weights of a checkpoint. See `load_with_facts`."""
    return load_with_facts(model, checkpoint).module


def load_with_facts(model: ModelSpec, checkpoint: Checkpoint) -> Loaded:
    """Build a model and load a checkpoint into it; all names and shapes must match.

    The tensors may have a prefix, lie in dictionaries, or have transformers' names. Others beside
    the model's parts are left out; others inside them are refused. The decoder may have another
    number of masks.

    Raises:
        CheckpointError: Not a checkpoint; weights of another model, or not all; or values that are
            not finite.
    """
    settle_vector_maths()
    path = checkpoint.path
    if checkpoint.sha256 in model.refused:
        raise CheckpointError(
            f"`{path.name}` is refused: {model.refused[checkpoint.sha256]}",
            hint=f"`effsam fetch {model.name}` downloads the right file",
        )
    weights = read(path, checkpoint.key)
    compare.require_supported(path.name, weights)
    expected = outline(model, weights.state).state_dict()
    state = _in_size(model, placement.placed(weights, expected))
    count = mask_tokens_of(model, state)
    if count is not None:
        model = with_mask_tokens(model, count)
        expected = outline(model, state).state_dict()
    if checkpoint.base is not None:
        state = _on_base(model, checkpoint.base.path, path, state, expected)
    module = model.build() if model.build_like is None else outline(model, state)
    expected = module.state_dict()
    state = _with_counters(state, expected)
    compare.require_match(model, path.name, weights, state, expected)
    if checkpoint.lora is not None:
        adapter = adapter_tensors(checkpoint.lora.path)
        masks = mask_tokens_of(model, adapter)
        if masks is not None:
            # SAMed stores a decoder with a mask for each class beside its matrices.
            model, count = with_mask_tokens(model, masks), masks
            module = model.build() if model.build_like is None else outline(model, state)
            expected = module.state_dict()
        state = merge(state, checkpoint.lora, adapter, expected)
        compare.require_match(model, checkpoint.lora.path.name, weights, state, expected)
    _require_finite(path.name, state)
    if model.build_like is not None:
        module = model.build_like(state)
    module.load_state_dict(dict(state), strict=True)
    facts = facts_of(weights, state, checkpoint, masks=count)
    return Loaded(model=model, module=module.eval(), facts=facts)


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of the model in a weight file. See `read.read` for the errors."""
    return read(path).state


def outline(model: ModelSpec, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the module with the widths of a state dict, without memory for its weights.

    Two long tensors of a file could be the sides of a huge one, so it is built after the check.
    """
    import torch

    with torch.device("meta"):
        try:
            return model.build_like(state) if model.build_like else model.build()
        except FOREIGN:
            return model.build()


def settle_vector_maths() -> None:
    """Call each vectorised function once on one number, to avoid a race in MKL.

    The MKL in torch's CPU wheels chooses a function's kernel at its first call. If several threads
    make that call, one of them may get a kernel of low accuracy: sines off by 1.5e-4
    (pytorch#188792). This would affect the reference and constants in graphs.
    """
    import torch

    one = torch.ones(1)
    for function in (torch.sin, torch.cos, torch.sqrt, torch.exp, torch.erf, torch.tanh, torch.log):
        function(one)


def _on_base(
    model: ModelSpec,
    base: Path,
    path: Path,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> Mapping[str, Tensor]:
    """Return the tensors of a part of a model, and those of a whole checkpoint for the rest."""
    absent = [n for n in expected if n not in state and not n.endswith(COUNTER)]
    if not absent:
        raise CheckpointError(
            f"`{path.name}` has all parts of `{model.name}`: --base `{base.name}` adds nothing",
            hint="leave out --base",
        )
    if not any(n in expected for n in state):
        raise CheckpointError(
            f"`{path.name}` has no tensor of `{model.name}`, so nothing to put over "
            f"--base `{base.name}`",
            hint="`effsam info --checkpoint FILE` shows what a file holds",
        )
    whole = read(base)
    compare.require_supported(base.name, whole)
    found = _with_counters(_in_size(model, placement.placed(whole, expected)), expected)
    # A pruned family has the widths of the base.
    compare.require_match(model, base.name, whole, found, outline(model, found).state_dict())
    return {**found, **state}


def _in_size(model: ModelSpec, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict with its position tables in the size of the model's input."""
    return state if model.fit is None else model.fit(state)


def _with_counters(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Return a state dict with the counters of batch norms that converters drop, and no others."""
    import torch

    kept = {n: v for n, v in state.items() if n in expected or not n.endswith(COUNTER)}
    missing = [
        n
        for n in expected
        if n.endswith(COUNTER) and n not in kept and f"{n.removesuffix(COUNTER)}.weight" in kept
    ]
    return {**kept, **{n: torch.zeros((), dtype=torch.int64) for n in missing}}


def _require_finite(name: str, state: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` if a value is not finite in FP32, which FP64 exceeds."""
    unusable = [
        n for n, v in state.items() if v.is_floating_point() and not v.float().isfinite().all()
    ]
    if unusable:
        raise CheckpointError(
            f"`{name}` has weights that are NaN or infinite in FP32: "
            f"{len(unusable)} of {len(state)} tensors, as `{shown(unusable[0])}`",
            hint="the training diverged, or the file is damaged: use an earlier checkpoint",
        )
