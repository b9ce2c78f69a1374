"""Every `--json` document key by key; records come from the classes they are made of."""

from __future__ import annotations

from docs.from_code import bench, evaluate
from docs.from_code.keys import Keys, of, under
from docs.from_code.run_documents import run_documents
from docs.from_code.text import cell, code, table
from effsam_export.bisect.evaluations import Evaluation
from effsam_export.bisect.search import Choice, Outcome
from effsam_export.bundle.attest import Attestation
from effsam_export.bundle.compare import Difference
from effsam_export.cli.console import SCHEMA_VERSION
from effsam_export.cli.diagnose import Diagnosis, TargetState
from effsam_export.lint.findings import Finding
from effsam_export.parity.cases import CaseResult
from effsam_export.spec.targets import Gates

CASE: Keys = {
    "case": "image and prompt",
    "mask_iou": "IoU of each mask, in the graph's order",
    "boundary_iou": "boundary IoU of each mask",
    "score_error": "largest difference of a score",
    "best": "index of PyTorch's best-scoring mask",
    "artifact_best": "index of the artefact's best-scoring mask",
    "score_gap": "PyTorch's best score minus its second",
    "best_iou": "IoU of the artefact's best-scoring mask with PyTorch's",
    "user_masks": "indices of the masks a user gets",
    "scores": "PyTorch's scores",
    "stability": "stability of PyTorch's masks, 0 to 1",
    "score_errors": "difference of the score of each mask",
    "finite": "whether the artefact's outputs are free of NaN and infinity",
}
GATES: Keys = {
    "mask_iou": "minimum mask IoU of every prompt",
    "score_error": "maximum score error",
    "cosine": "minimum cosine similarity of a tensor",
    "mean_iou": "minimum of the mean mask IoU",
}
FINDING: Keys = {
    "rule": "name of the rule",
    "severity": "`error` or `warning`",
    "component": "encoder, decoder or segmenter",
    "node": "node of the traced program",
    "op": "its operator",
    "module": "path of the module",
    "source": "Python line",
    "detail": "what was found",
    "why": "what the target makes of it",
    "rewrite": "what avoids it",
}
WEIGHT_FILE: Keys = {
    "container": "format of the file",
    "key": "keys of the dictionaries around the tensors, joined by dots",
    "prefix": "what is taken off the start of each name",
    "averaged": "whether the weights are averages of the trained ones",
    "naming": "whose tensor names it has: `authors`, or the library",
    "left_out": "tensors beside the model that are not loaded",
    "dtype": "type of the floating-point tensors",
    "weights_sha256": "hash of the weights: names and float32 values, sorted by name",
}
DIAGNOSIS: Keys = {
    "version": "version of effsam-export",
    "python": "version of Python",
    "system": "system and processor",
    "cores": "number of processors",
    "cpu_flags": "processor features that matter here",
    "gpus": "NVIDIA GPUs",
    "memory_gb": "memory in GB, or null",
    "disk_free_gb": "free disk of the cache in GB",
    "cache_dir": "folder of the cache",
    "can_trace": "whether models can be exported here",
    "packages": "a table",
    "targets": "a list",
}
TARGET_STATE: Keys = {
    "name": "target",
    "backend": "its backend",
    "missing": "package that is not installed, or null",
    "extra": "extra that brings it",
}
ATTESTATION: Keys = {
    "device": "device, as it says itself",
    "runtime": "its runtime",
    "version": "version of the runtime",
    "language": "language of the self-test",
    "signed": "whether a given key signed the result",
    "min_iou": "minimum mask IoU",
    "score_error": "largest score error",
    "manifest_sha256": "manifest that the device had",
    "not_compared": "number of masks that PyTorch is not confident of",
}
DIFFERENCE: Keys = {
    "part": "`contract`, `weights`, `tools` or `files`, as the table names them",
    "what": "key of the manifest, or path of a file",
    "before": "value in the first bundle, or null",
    "after": "value in the second bundle, or null",
}
OUTCOME: Keys = {
    "choices": "layers that are kept out",
    "layers": "number of layers",
    "evaluations": "number of evaluations",
    "before": "everything quantized, in ONNX Runtime",
    "after": "with the choices, in ONNX Runtime",
    "deployed": "with the choices, by the target's quantizer; or null",
}
CHOICE: Keys = {
    "layer": "path of the layer",
    "treatment": "what it gets instead of INT8 or FP16",
    "sensitivity": "mean mask IoU lost by quantizing it alone",
}
EVALUATION: Keys = {
    "mean_iou": "mean mask IoU",
    "min_iou": "minimum mask IoU",
    "ranking_changes": "prompts with another best-scoring mask, without ties",
    "failed_gates": "number of other gates missed",
}
MODEL: Keys = {
    "name": "name of the model",
    "title": "what it is",
    "state": "model state",
    "paper": "publication",
    "origin": "the authors' code",
}
CHECKPOINT: Keys = {
    "file_name": "file of the weights",
    "sha256": "its hash, or null where none is published",
    "size": "bytes, or null",
}


def parity() -> Keys:
    """Keys of a comparison with PyTorch."""
    return {
        "model": "model",
        "target": "target",
        "precision": "precision",
        "state": "bundle state",
        "simulator": "what ran in place of the runtime; empty if the runtime ran",
        "gates": "the gates that applied",
        **of(Gates, GATES, "gates."),
        "decided_by": "which masks decided, as a sentence; empty for one component",
        "confident_masks": "number of masks that PyTorch is confident of",
        "cases": "a list, one entry a prompt",
        **of(CaseResult, CASE, "cases[]."),
        "cases[].min_iou": "minimum IoU of the masks a user gets",
        "cases[].deciding_masks": "indices of the masks that had to meet the gates",
        "cases[].ranking": "`same`, `tie` or `changed`: what became of the best-scoring mask",
        "left_out": "prompts that the model does not support",
        "notes": "how images were read that are not plain 8-bit ones",
    }


def documents() -> dict[str, Keys]:
    """Return the keys of each command's document, without `schema_version`."""
    cells = {
        "name": "name of the cell",
        "model": "model",
        "target": "target",
        "precision": "precision",
    }
    kept = {
        f"{kind}.{key}": meaning
        for kind, what in (
            ("bundles", "bundles"),
            ("stages", "stages"),
            ("outputs", "outputs"),
            ("searches", "searches for INT8 recipes"),
            ("evaluations", "files of `effsam eval`"),
        )
        for key, meaning in (("results", f"number of {what}"), ("bytes", "their size"))
    }
    evaluation = of(Evaluation, EVALUATION)
    golden = {
        "bundle": "the bundle",
        "passed": "everything that was checked holds",
        "verdict": "passed, failed, or gates unproved: nothing failed, but only the bundle itself "
        "states its gates",
        "unproved.NAME": "why nothing proved what the bundle says: `gates`, `checkpoint`, `texts` "
        "or `evaluated`; a name is there only if it applies",
        "failures": "sentences, one for each failure",
        "golden[].case": "image and prompt of a golden vector",
        "golden[].mask_iou": "minimum IoU of the compared masks, or null without any",
        "golden[].score_error": "largest difference of their scores, or null",
        "golden[].not_compared": "number of masks that PyTorch is not confident of",
        "comparisons_not_run": "why there was no comparison with PyTorch, or null",
        "placement": "where Core ML placed the operators, in words",
    }
    return {
        "list": {
            **under("models[].", MODEL),
            "models[].licence": "SPDX identifier",
            "models[].components": "encoder and decoder, or segmenter",
            "models[].checkpoint": "null where no weights are published",
            **under("models[].checkpoint.", CHECKPOINT),
        },
        "targets": {
            "targets[].name": "name of the target",
            "targets[].description": "what it is",
            "targets[].backend": "its backend",
            "targets[].precisions": "precisions, default first",
            "targets[].default_precision": "the first of them",
            "targets[].available": "whether its runtime is installed here",
        },
        "info": {
            **MODEL,
            "licence.spdx": "SPDX identifier",
            "licence.source": "where the authors state it",
            "licence.notice": "remarks",
            "licence.needs_consent": "why it must be accepted, or null",
            "cost.parameters": "number of parameters",
            "cost.encoder_macs": "multiply-accumulates of the encoder",
            "cost.decoder_macs": "multiply-accumulates of the decoder for one prompt",
            "input.family": "how an image is resized",
            "input.image_size": "side of the graph's image",
            "input.prompt_size": "side of the frame that prompts are in",
            "prompts.points": "takes points",
            "prompts.background_points": "takes points off the object",
            "prompts.box": "takes a box",
            "prompts.points_with_box": "takes points and a box together",
            "prompts.mask": "takes an earlier mask",
            "prompts.max_points": "maximum number of points, or null",
            "components": "its graphs",
            "model_options": "model options with their defaults",
            "containers": "kinds of weight files that are read",
            "checkpoint": "null where no weights are published",
            **under("checkpoint.", CHECKPOINT),
            "checkpoint.sources": "where the file is fetched from",
        },
        "doctor": {
            **of(Diagnosis, DIAGNOSIS),
            "packages.NAME": "version of a package, or null",
            **of(TargetState, TARGET_STATE, "targets[]."),
        },
        "fetch": {"model": "model", "path": "the file", "sha256": "its hash"},
        "lint": {
            "model": "model",
            "target": "target",
            "precision": "precision",
            "passed": "no finding is an error",
            "components": "components that were traced",
            "rules": "rules that were applied",
            "measured_on": "images on which values were measured",
            "not_measured": "why values were not measured, or null",
            **of(Finding, FINDING, "findings[]."),
        },
        "export": {
            "bundle": "folder of the bundle",
            "passed": "always true",
            **parity(),
            "checkpoint.file_name": "file name of the weights",
            "checkpoint.sha256": "its hash",
            "checkpoint.official": "whether it is the authors' file",
            **under("checkpoint.", WEIGHT_FILE),
        },
        "info --checkpoint": {
            "family": "family of models, or null",
            "variant": "size or version within it, or null",
            "models": "registered models that take the file, the likeliest first",
            "model": "the model it was compared with, or null",
            "image_size": "size of that model's input in pixels, or null",
            "part": "the part of a model that it is, or null",
            **WEIGHT_FILE,
            "tensors": "number of its tensors",
            "missing": "tensors of the model that it lacks",
            "sha256": "hash of the file",
            "official": "whether it is the authors' file",
            "problem": "why an export would refuse it, or null",
            "hint": "what to do about that, or null",
        },
        "export --dry-run": {
            "plan.model": "model",
            "plan.model_options": "model options",
            "plan.image_size": "size of the graph's image, as `512` or `1024x768`",
            "plan.batch": "images of one call of the encoder, as `4` or `dynamic`",
            "plan.checkpoint.path": "the weights on this machine, or null",
            "plan.checkpoint.source": "where they would be downloaded from, or null",
            "plan.checkpoint.download_bytes": "size of the download, or null",
            "plan.target": "target",
            "plan.backend": "backend",
            "plan.precision": "precision",
            "plan.opset": "ONNX opset",
            "plan.target_options": "target options",
            "plan.target_options.NAME": "value of a target option",
            **of(Gates, GATES, "plan.gates."),
            "plan.int8.NAME": "INT8 recipe of a component, in words; only for INT8",
            "plan.components": "components that would be exported",
            "plan.output": "folder of the bundle",
            "expected.seconds": "expected time, or null if it was not measured",
            "expected.memory_mb": "expected peak memory in MB, or null",
            "expected.size_mb": "expected size of the graphs in MB, or null",
            "expected.basis": "how these were measured",
            "problems[].message": "an error that the export would meet, in their order",
            "problems[].hint": "its hint, or null",
            "problems[].exit_code": "its exit code; that of the first is the export's",
        },
        "verify --level golden": golden,
        "verify": {**golden, **parity()},
        **run_documents(),
        "bench": bench.document(),
        "eval": evaluate.document(),
        "inspect": {"manifest": "the manifest"},
        "diff": {
            "contract": "whether the calling rules differ",
            "changes": "what an app for the first bundle needs for the second, in words; empty if "
            "it can run it as it is",
            **of(Difference, DIFFERENCE, "differences[]."),
        },
        "pack": {"file": "the packed bundle", "sha256": "its hash", "bytes": "its size"},
        "unpack": {"bundle": "folder of the bundle"},
        "sign": {"bundle": "folder of the bundle", "signature": "file with its signature"},
        "code": {
            "folder": "folder of the code",
            "language": "its language",
            "files": "names of the files in it",
            "run": "command that starts the self-test there",
        },
        "attest": {"bundle": "folder of the bundle", **of(Attestation, ATTESTATION)},
        "build": {
            "passed": "every bundle exists",
            "converted": "number of cells that were not in the cache",
            **under("cells[].", cells),
            "cells[].state": "bundle state; else `failed`, `refused` or `toolchain missing`",
            "cells[].cached": "taken from the cache",
            "cells[].reasons": "why it was not in the cache",
            "cells[].bundle": "folder, or null",
            "cells[].evidence": "folder of a failed cell's log, or null",
            "cells[].min_iou": "minimum mask IoU, or null",
            "cells[].mean_iou": "mean mask IoU, or null",
            "cells[].seconds": "time",
            "cells[].peak_mb": "peak memory in MB",
            "cells[].message": "the error; empty if there is none",
            "cells[].hint": "its hint, or null",
        },
        "build --plan": {
            **under("cells[].", cells),
            "cells[].digest": "hash of everything the cell depends on; null if the hash of its "
            "weights is not known before their download",
            "cells[].cached": "it is in the cache",
            "cells[].reasons": "why it is not in the cache",
            "downloads[].model": "model whose official checkpoint the build would download",
            "downloads[].file": "its file",
            "downloads[].bytes": "its size, or null",
            **under("matrix.include[].", cells),
        },
        "cache": {
            "path": "folder of the build cache",
            "checkpoints[].path": "a downloaded file",
            "checkpoints[].bytes": "its size",
            "checkpoints[].models": "models whose official checkpoint it is",
            "checkpoints[].complete": "whether the whole file is there",
            **under("kept.", kept),
            **under("removed.", kept),
        },
        "bisect": {
            "recipe": "the file that was written",
            **of(Outcome, OUTCOME),
            **of(Choice, CHOICE, "choices[]."),
            **{f"{name}.{k}": v for name in ("before", "after") for k, v in evaluation.items()},
            **under("deployed.", evaluation),
        },
    }


def tables() -> str:
    """Return a section for each document."""
    parts = [f"Every document has `schema_version`, which is {SCHEMA_VERSION}.\n"]
    for name, keys in documents().items():
        parts.append(f"## {name}\n")
        rows = [[code(key), cell(meaning)] for key, meaning in keys.items()]
        parts.append(table(("key", "meaning"), rows))
    return "\n".join(parts)
