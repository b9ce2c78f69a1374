"""Hold the manifest of an intact bundle to its graphs, its model, and its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from effsam_export.errors import EffsamError, ToolchainMissing
from effsam_export.pipeline import verify_claims, verify_golden, verify_graphs, verify_rules
from effsam_export.pipeline.verify_graphs import Graphs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effsam_export.backends import ArtifactSession
    from effsam_export.bundle.golden import Golden
    from effsam_export.bundle.read import Bundle
    from effsam_export.spec.model import ModelSpec
    from effsam_export.spec.targets import Gates


@dataclass(frozen=True, kw_only=True)
class Contract:
    """A bundle whose manifest was held to its graphs, its model and its target.

    Attributes:
        model: The registered model; None if there is none.
        sessions: Opened artefacts by component.
        vectors: The golden vectors; None if there are none, or if the graphs cannot run them.
        gates: The gates that the bundle is held to.
        gates_unproved: Why the gates are only what the bundle states; empty if they are known.
        failures: Sentences.
    """

    model: ModelSpec | None
    sessions: Mapping[str, ArtifactSession]
    vectors: Golden | None
    gates: Gates
    gates_unproved: str
    failures: tuple[str, ...]


def check(bundle: Bundle, target_file: str | None) -> Contract:
    """Hold the manifest of an intact bundle to its graphs, its model and its target.

    Raises:
        ToolchainMissing: The runtime is missing.
        UsageError: The target that the user gives does not exist or has faults.
    """
    from effsam_export.bundle import golden

    model, failures = verify_rules.registered_model(bundle)
    sessions, graphs, unopened = open_graphs(bundle, model)
    failures += unopened
    vectors = None
    try:
        vectors = golden.read_golden(bundle)
    except EffsamError as error:
        failures.append(error.message)
    failures += verify_rules.contract_failures(bundle, model, graphs)
    failures += verify_claims.checkpoint_failures(bundle.manifest, model)
    if model is not None and not unopened:
        failures += verify_claims.precision_failures(bundle)
    held = verify_claims.held_gates(bundle, vectors, target_file)
    failures += held.failures
    if model is not None:
        unfit = misfits(bundle, model, graphs)
        faults = []
        if vectors is not None:
            precision = bundle.manifest["precision"]["requested"]
            faults = verify_golden.vector_failures(model, vectors, precision)
        failures += [*unfit, *faults]
        if unfit or faults or sessions.keys() != {c.name for c in model.components}:
            vectors = None
    return Contract(
        model=model,
        sessions=sessions,
        vectors=vectors,
        gates=held.gates,
        gates_unproved=held.unproved,
        failures=tuple(failures),
    )


def open_graphs(
    bundle: Bundle, model: ModelSpec | None
) -> tuple[dict[str, ArtifactSession], dict[str, Graphs], list[str]]:
    """Open every artefact, and read what it and its source ONNX say of its tensors.

    Args:
        bundle: The bundle.
        model: Its registered model; without one, no artefact is opened.

    Returns:
        Sessions and tensors by component, and a sentence for each file that does not open.

    Raises:
        ToolchainMissing: The runtime is missing.
    """
    from effsam_export.bundle import read

    sessions, graphs, failures = {}, {}, []
    for name in dict.fromkeys(bundle.components):
        artifact = source = opset = None
        try:
            if model is not None:
                sessions[name] = read.open_session(bundle, name)
                artifact = sessions[name].signature()
        except ToolchainMissing:
            raise
        except EffsamError as error:
            failures.append(f"{name}: {error.message}")
        try:
            source, opset = verify_graphs.read_source(bundle.source(name))
        except EffsamError as error:
            failures.append(f"{name}: {error.message}")
        graphs[name] = Graphs(artifact=artifact, source=source, opset=opset)
    return sessions, graphs, failures


def misfits(bundle: Bundle, model: ModelSpec, graphs: Mapping[str, Graphs]) -> list[str]:
    """Return a sentence for each artefact that cannot run as the model's component."""
    options = bundle.manifest["target"]["options"]
    return [
        sentence
        for spec in model.components
        if spec.name in graphs and (artifact := graphs[spec.name].artifact) is not None
        for sentence in verify_graphs.graph_failures(spec, artifact, options)
    ]
