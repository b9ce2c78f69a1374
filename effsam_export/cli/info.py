"""`effsam info`: facts about one model, or about a weight file. Heavy only for a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from effsam_export.cli import completion, console
from effsam_export.cli.model_name import check_model
from effsam_export.cli.options import (
    BaseFile,
    CheckpointFile,
    CheckpointKey,
    Json,
    LoraAdapter,
    LoraAlpha,
)
from effsam_export.errors import UsageError

if TYPE_CHECKING:
    from effsam_export.spec.model import ModelSpec, PackageSource, UrlSource

CONTAINERS = (
    "PyTorch file: state dict in any dictionaries, or pickled module (read without running it)",
    "safetensors",
    "zip of one of them",
    "folder of `save_pretrained`, also with shards",
)


def info(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="[MODEL]",
            show_default=False,
            help="A model name from `effsam list`; with --checkpoint by default the likeliest.",
            callback=check_model,
            autocompletion=completion.model_names,
        ),
    ] = None,
    checkpoint: CheckpointFile = None,
    checkpoint_key: CheckpointKey = None,
    base: BaseFile = None,
    lora: LoraAdapter = None,
    lora_alpha: LoraAlpha = None,
    json: Json = False,
) -> None:
    """Show the facts about a model, or what a weight file holds.

    Prints origin, licence, cost, input, prompts, model options (`--set`) and checkpoint. With
    --checkpoint FILE: of which model its weights are, where they lie in the file, what is left out
    or missing, and whether they load.
    """
    from effsam_export import models
    from effsam_export.weights.own_file import own_checkpoint

    spec = None if model is None else models.get(model)
    if spec is None and checkpoint is None:
        raise UsageError(
            "give a MODEL, or --checkpoint FILE", hint="`effsam list` shows the models"
        )
    own = own_checkpoint(
        None if spec is None else spec.weights, checkpoint, checkpoint_key, base, lora, lora_alpha
    )
    if own is None:
        assert spec is not None
        facts = facts_of(spec)
    else:
        from effsam_export.backends import require_tracing
        from effsam_export.pipeline.inspect_checkpoint import inspect_checkpoint

        require_tracing()
        facts = inspect_checkpoint(own, spec).document()
    if json:
        console.document(facts)
        return
    rows = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += [[f"{key}.{k}", in_words(v)] for k, v in value.items()]
        else:
            rows.append([key, in_words(value)])
    console.data(console.table(("what", "value"), rows))


def facts_of(spec: ModelSpec) -> dict[str, Any]:
    """Return the facts about a model, as a JSON object."""
    from effsam_export.models.costs import COSTS
    from effsam_export.spec.sizes import document

    licence, weights, cost = spec.licence, spec.weights, COSTS.get(spec.name)
    return {
        "name": spec.name,
        "title": spec.title,
        "state": spec.state,
        "paper": spec.paper,
        "origin": spec.origin,
        "licence": {
            "spdx": licence.spdx,
            "source": licence.source,
            "notice": licence.notice,
            "needs_consent": licence.restricted or None,
        },
        "cost": None
        if cost is None
        else {
            "parameters": cost.parameters,
            "encoder_macs": cost.encoder_macs,
            "decoder_macs": cost.decoder_macs,
        },
        "input": {
            "family": spec.preprocess.family,
            "image_size": document(spec.preprocess.image_size),
            "prompt_size": document(spec.preprocess.prompt_size),
        },
        "prompts": {
            "points": True,
            "background_points": spec.prompts.negative_points,
            "box": spec.prompts.box,
            "points_with_box": spec.prompts.points_with_box,
            "mask": spec.prompts.mask,
            "max_points": spec.prompts.max_points,
        },
        "components": [c.name for c in spec.components],
        "model_options": dict(spec.options),
        "containers": list(CONTAINERS),
        "checkpoint": None
        if weights is None
        else {
            "file_name": weights.file_name,
            "sha256": weights.sha256,
            "size": weights.size,
            "sources": [source_of(s) for s in weights.sources],
        },
    }


def source_of(source: UrlSource | PackageSource) -> str:
    """Return the source of a checkpoint as text."""
    url = getattr(source, "url", None)
    if url is not None:
        return str(url)
    return f"package {getattr(source, 'project', '')} {getattr(source, 'version', '')}"


def in_words(value: object) -> str:
    """Return a value as text for the table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(v) for v in value)
    if isinstance(value, int) and value >= 10_000_000:
        return f"{value / 1e9:.2f} G" if value >= 1_000_000_000 else f"{value / 1e6:.2f} M"
    return "-" if value is None or value == "" else str(value)
