"""Generate JavaScript: an ES module for browsers and node, for onnxruntime-web."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from effsam_export.errors import UsageError
from effsam_export.integrate import render
from effsam_export.integrate.instances import PROTOTYPES

if TYPE_CHECKING:
    from effsam_export.integrate.contract import Component, Contract
    from effsam_export.integrate.instances import InstanceContract

BACKENDS = {"onnx": "onnxruntime-web"}
RUN = "npm install; node selftest.mjs BUNDLE"
RUNTIME = "^1.30.0"
"""Versions of onnxruntime-web: the oldest that was tested, and compatible later ones."""


def files(contract: Contract) -> dict[str, str]:
    """Return `segmenter.mjs`, `selftest.mjs` and a `package.json` with the runtime.

    Raises:
        UsageError: The weights are in files of their own, because they have more than 2 GB.
    """
    _check_size(contract.encoder, contract.decoder)
    values = {
        **render.common(contract),
        "PADDING_POINT": _literal(contract.padding_point),
        "EMPTY_LABEL": _literal(contract.empty),
        "TAKES_MASK": _literal(contract.takes_mask),
        "SINGLE": _literal(contract.single),
        "MULTIMASK": _literal(contract.multimask),
    }
    return _filled("segmenter.mjs", render.tags_of(contract), values, contract)


def instance_files(contract: InstanceContract) -> dict[str, str]:
    """Return the same files for a segmenter.

    Raises:
        UsageError: As `files`.
    """
    _check_size(contract.segmenter)
    _, parts, height, width = contract.segmenter.outputs[PROTOTYPES]
    values = {
        **render.common_instances(contract),
        "PARTS": _literal(parts),
        "LOW_RES_HEIGHT": _literal(height),
        "LOW_RES_WIDTH": _literal(width),
    }
    return _filled("instances.mjs", ("instances", render.images_tag(contract)), values, contract)


def _check_size(*components: Component) -> None:
    beside = [name for component in components for name in component.beside]
    if beside:
        raise UsageError(
            f"weights of more than 2 GB do not run in a browser: `{'`, `'.join(beside)}`",
            hint="choose a smaller model, or fp16",
        )


def _filled(
    segmenter: str,
    tags: tuple[str, ...],
    values: dict[str, str],
    contract: Contract | InstanceContract,
) -> dict[str, str]:
    """Return the files, adding the values of both kinds of contract."""
    values = {
        **values,
        "NOTICE": render.commented(render.notice(contract), "//"),
        "PAD_VALUE": _literal(contract.pad_value),
        "BACKGROUND": _literal(contract.background),
        "MAX_POINTS": _literal(contract.max_points),
        "TAKES_BOX": _literal(contract.takes_box),
        "TAKES_POINTS_WITH_BOX": _literal(contract.takes_points_with_box),
    }
    package = {
        "description": render.notice(contract).replace("\n", " "),
        "private": True,
        "type": "module",
        "dependencies": {"onnxruntime-web": RUNTIME},
    }
    return {
        "segmenter.mjs": render.fill(segmenter, tags, values),
        "selftest.mjs": render.fill("selftest.mjs", tags, values),
        "package.json": json.dumps(package, indent=2) + "\n",
    }


def _literal(value: object) -> str:
    return json.dumps(value)
