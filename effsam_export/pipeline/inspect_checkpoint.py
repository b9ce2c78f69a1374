"""Say what a weight file holds, without exporting it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from effsam_export import models
from effsam_export.errors import CheckpointError
from effsam_export.pipeline import image_size
from effsam_export.spec.sizes import document
from effsam_export.weights import checkpoint as loading
from effsam_export.weights import compare, identify, placement
from effsam_export.weights.choice import COUNTER
from effsam_export.weights.read import read

if TYPE_CHECKING:
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.sizes import Size
    from effsam_export.spec.stages import Checkpoint
    from effsam_export.weights.identify import Identity
    from effsam_export.weights.read import Weights


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a weight file holds.

    Attributes:
        weights: Its tensors.
        identity: Their model; None if unknown.
        model: Name of the model they were compared with; None if there is none.
        image_size: Size of that model's input in pixels, as the position tables show it; where none
            does, that of the official weights.
        part: The part of the model that they are, such as `mask_decoder`; None for a whole model.
        missing: Names of the model's tensors that they lack.
        sha256: Of the file.
        official: It is the authors' file of the model.
        weights_sha256: See `facts.weights_sha256`; None if they do not load.
        problem: Why they do not load; None if they do, or there is no model.
    """

    weights: Weights
    identity: Identity | None
    model: str | None
    image_size: Size | None
    part: str | None
    missing: tuple[str, ...]
    sha256: str
    official: bool
    weights_sha256: str | None
    problem: CheckpointError | None

    def document(self) -> dict[str, Any]:
        """Return the contents as a JSON object."""
        weights, identity, problem = self.weights, self.identity, self.problem
        return {
            "family": identity and identity.family,
            "variant": (identity and identity.variant) or None,
            "models": list(identity.models) if identity else [],
            "model": self.model,
            "image_size": None if self.image_size is None else document(self.image_size),
            "part": self.part,
            **weights.origin.document(),
            "tensors": len(weights.state),
            "missing": list(self.missing),
            "sha256": self.sha256,
            "official": self.official,
            "weights_sha256": self.weights_sha256,
            "problem": problem and problem.message,
            "hint": problem and problem.hint,
        }


def inspect_checkpoint(checkpoint: Checkpoint, model: ModelSpec | None) -> Contents:
    """Return what a weight file holds.

    Args:
        checkpoint: The file.
        model: The model to compare it with; None takes the likeliest.

    Raises:
        CheckpointError: The file cannot be read, or holds no weights.
    """
    weights = read(checkpoint.path, checkpoint.key)
    identity = weights.identity
    bare = identify.identify_part(weights.state) if identity is None else None
    part = None if bare is None else bare[0]
    identity = identity or (None if bare is None else bare[1])
    if model is None and identity is not None and identity.models:
        model = models.get(identity.models[0])
    problem: CheckpointError | None = None
    digest = None
    try:
        if model is None:
            compare.require_supported(checkpoint.path.name, weights)
        else:
            model = image_size.of_checkpoint(model, checkpoint, weights)
            digest = loading.load_with_facts(model, checkpoint).facts.weights_sha256
    except CheckpointError as error:
        problem = error
    pinned = None if model is None or model.weights is None else model.weights.sha256
    return Contents(
        weights=weights,
        identity=identity,
        model=None if model is None else model.name,
        image_size=None if model is None else model.preprocess.image_size,
        part=part,
        missing=() if model is None else _missing(model, weights),
        sha256=checkpoint.sha256,
        official=checkpoint.sha256 == pinned,
        weights_sha256=digest,
        problem=problem,
    )


def _missing(model: ModelSpec, weights: Weights) -> tuple[str, ...]:
    expected = loading.outline(model, weights.state).state_dict()
    state = placement.placed(weights, expected)
    return tuple(n for n in expected if n not in state and not n.endswith(COUNTER))
