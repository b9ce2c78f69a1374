"""Write a CycloneDX 1.6 bill of materials of a bundle: weights, files, licence and tools.

It contains no time and no random number, so equal bundles have equal ones. The library cannot write
the standard's model cards, so facts about the model are `effsam:` properties.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from effsam_export.errors import ToolchainMissing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

BOM = "bom.cdx.json"
NAMESPACE = uuid.UUID("8a7c0d0e-5d0f-5b5e-9a5b-3f1a3c0f7d11")
"""Namespace of the serial numbers, which are hashes of the contents (RFC 9562, version 5)."""
SHIPPED = ("artifact", "source")
"""Roles of files that hold weights; only these are listed."""


def text(manifest: Mapping[str, Any]) -> str:
    """Return the bill of materials as JSON.

    Args:
        manifest: A manifest with its `files`.

    Raises:
        ToolchainMissing: `cyclonedx-python-lib` is not installed.
    """
    try:
        from cyclonedx.model import ExternalReference, ExternalReferenceType, Property, XsUri
        from cyclonedx.model.bom import Bom, BomMetaData
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.model.dependency import Dependency
        from cyclonedx.model.tool import ToolRepository
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise ToolchainMissing("a bill of materials", "cyclonedx-python-lib", "torch") from error

    model, target = manifest["model"], manifest["target"]
    licence = _licence(model["licence"]["spdx"])
    weights = manifest["checkpoint"]
    checkpoint = Component(
        name=weights["file_name"],
        type=ComponentType.DATA,
        bom_ref="checkpoint",
        hashes=[_sha256(weights["sha256"])],
        licenses=[licence],
        properties=[Property(name="effsam:official", value=str(weights["official"]).lower())],
    )
    files = [
        Component(
            name=entry["path"],
            type=ComponentType.FILE,
            bom_ref=f"file:{entry['path']}",
            hashes=[_sha256(entry["sha256"])],
            licenses=[licence],
        )
        for entry in manifest["files"]
        if entry["role"] in SHIPPED
    ]
    facts = {
        "target": target["name"],
        "backend": target["backend"],
        "precision": manifest["precision"]["requested"],
        "state": manifest["state"],
        "simulator": manifest["simulator"],
        "contract_version": manifest["contract_version"],
        "min_mask_iou": manifest["parity"]["min_mask_iou"],
    }
    whole = Component(
        name=model["name"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        description=f"{model['title']} for {target['name']}",
        licenses=[licence],
        properties=[
            Property(name=f"effsam:{name}", value=str(value))
            for name, value in facts.items()
            if value not in ("", None)
        ],
        external_references=[
            ExternalReference(type=kind, url=XsUri(model[key]))
            for key, kind in (
                ("origin", ExternalReferenceType.VCS),
                ("paper", ExternalReferenceType.DOCUMENTATION),
            )
            if model[key]
        ],
    )
    tools = [
        Component(
            name=name, version=version, type=ComponentType.APPLICATION, bom_ref=f"tool:{name}"
        )
        for name, version in sorted(manifest["tools"].items())
    ]
    # Not of all files: a report with latencies differs in every export.
    hashes = [c.hashes[0].content for c in files]
    contents = json.dumps([facts, weights, hashes, manifest["tools"]], sort_keys=True)
    metadata = BomMetaData(component=whole, tools=ToolRepository(components=tools))
    metadata.timestamp = None  # type: ignore[assignment]  # the standard has none, its stub does
    bom = Bom(
        components=[checkpoint, *files],
        metadata=metadata,
        serial_number=uuid.uuid5(NAMESPACE, contents),
        dependencies=_dependencies(Dependency, whole, checkpoint, files),
    )
    written = json.loads(JsonV1Dot6(bom).output_as_string())
    return json.dumps(written, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _dependencies(
    kind: Any,  # noqa: ANN401 - a class of the library, imported where it is needed
    whole: Component,
    checkpoint: Component,
    files: list[Component],
) -> list[Any]:
    """Return the dependencies: the model consists of its files, each made from the checkpoint."""
    of_files = [kind(ref=f.bom_ref, dependencies=[kind(ref=checkpoint.bom_ref)]) for f in files]
    return [
        kind(ref=checkpoint.bom_ref),
        *of_files,
        kind(ref=whole.bom_ref, dependencies=[kind(ref=f.bom_ref) for f in files]),
    ]


def _sha256(digest: str) -> Any:  # noqa: ANN401
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _licence(spdx: str) -> License:
    from cyclonedx.contrib.license.factories import LicenseFactory

    return LicenseFactory().make_from_string(spdx)
