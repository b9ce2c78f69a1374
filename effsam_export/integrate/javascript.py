"""JavaScript: an ES module for browsers and node, on onnxruntime-web."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from effsam_export.errors import UsageError
from effsam_export.integrate import render

if TYPE_CHECKING:
    from effsam_export.integrate.contract import Contract

BACKENDS = {"onnx": "onnxruntime-web"}
RUN = "npm install; node selftest.mjs BUNDLE"
RUNTIME = "^1.30.0"
"""Of onnxruntime-web: the oldest that was tried, and later ones that promise to be like it."""


def files(contract: Contract) -> dict[str, str]:
    """`segmenter.mjs`, `selftest.mjs` and a `package.json` that names the runtime.

    Raises:
        UsageError: The weights lie outside a graph's file, which no browser's memory holds.
    """
    beside = [*contract.encoder.beside, *contract.decoder.beside]
    if beside:
        raise UsageError(
            f"weights of more than 2 GB do not run in a browser: `{'`, `'.join(beside)}`",
            hint="choose a smaller model, or fp16",
        )
    tags = render.tags_of(contract)
    values = {
        **render.common(contract),
        "NOTICE": render.commented(render.notice(contract), "//"),
        "PAD_VALUE": _literal(contract.pad_value),
        "PADDING_POINT": _literal(contract.padding_point),
        "BACKGROUND": _literal(contract.background),
        "EMPTY_LABEL": _literal(contract.empty),
        "MAX_POINTS": _literal(contract.max_points),
        "TAKES_BOX": _literal(contract.takes_box),
        "TAKES_POINTS_WITH_BOX": _literal(contract.takes_points_with_box),
        "TAKES_MASK": _literal(contract.takes_mask),
        "SINGLE": _literal(contract.single),
        "MULTIMASK": _literal(contract.multimask),
    }
    package = {
        "description": render.notice(contract).replace("\n", " "),
        "private": True,
        "type": "module",
        "dependencies": {"onnxruntime-web": RUNTIME},
    }
    return {
        "segmenter.mjs": render.fill("segmenter.mjs", tags, values),
        "selftest.mjs": render.fill("selftest.mjs", tags, values),
        "package.json": json.dumps(package, indent=2) + "\n",
    }


def _literal(value: object) -> str:
    return json.dumps(value)
